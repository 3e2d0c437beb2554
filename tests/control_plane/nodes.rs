//! Agents of nodes: whom they are asked about, and for whom they may speak. Each test has nodes of its own.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use stillpoint_api::{AgentPlace, ConsistencyGroupReplication, MemberState, MemberStatus, Phase};

use crate::agents::{Behaviour, FakeAgent, Told, lock_blocker};
use crate::fixture::Fixture;
use crate::objects::{bound_claim, node_agent_pod, running_pod_on};

fn check(claims: &[&str]) -> Value {
    json!({
        "source": {"persistentVolumeClaimNames": claims},
        "mode": "Check",
        "suspension": {"prepareTimeout": "3s", "holdTimeout": "5s"},
    })
}

/// A claim of this name, mounted by pods of these names on a node.
async fn mounted(fixture: &Fixture, claim: &str, node: &str, pods: &[&str]) {
    bound_claim(fixture, claim).await;
    for pod in pods {
        running_pod_on(fixture, node, pod, claim, json!([])).await;
    }
}

fn member(object: &ConsistencyGroupReplication, claim: &str) -> MemberStatus {
    let members = object.status.clone().expect("a status").members;
    members.into_iter().find(|member| member.persistent_volume_claim.name == claim).expect("a member")
}

fn phase_and_reason(object: &ConsistencyGroupReplication) -> (Phase, String) {
    let status = object.status.clone().expect("a status");
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready").reason.clone();
    (status.phase.expect("a phase"), ready)
}

#[tokio::test]
async fn an_agent_of_a_node_covers_all_pods_there_that_mount_a_member() {
    let fixture = Fixture::new("covered").await;
    let system = fixture.of_the_system().await;
    let node = format!("node-{}", fixture.namespace);
    mounted(&fixture, "orders", &node, &["orders-0", "reader"]).await;
    let agent = FakeAgent::connect(&system, &node_agent_pod(&system, &node).await, Behaviour::Clean).await;
    fixture.replicate("check", check(&["orders"])).await;
    let ended = fixture.wait_for_end("check").await;
    assert_eq!(phase_and_reason(&ended).0, Phase::Done, "{ended:#?}");
    assert_eq!(member(&ended, "orders").agent, Some(AgentPlace::Node));
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
}

#[tokio::test]
async fn an_agent_of_a_node_is_not_asked_about_pods_of_other_nodes() {
    let fixture = Fixture::new("own-node").await;
    let system = fixture.of_the_system().await;
    let [here, there] = ["here", "there"].map(|which| format!("{which}-{}", fixture.namespace));
    mounted(&fixture, "orders", &here, &["orders-0"]).await;
    mounted(&fixture, "ledger", &there, &["ledger-0"]).await;
    let own = FakeAgent::connect(&system, &node_agent_pod(&system, &here).await, Behaviour::Clean).await;
    let waits = FakeAgent::connect(
        &system,
        &node_agent_pod(&system, &there).await,
        Behaviour::Waits(vec![lock_blocker("ledger.db")]),
    )
    .await;
    fixture.replicate("check", check(&["ledger", "orders"])).await;
    let ended = fixture.wait_for_end("check").await;
    assert_eq!(phase_and_reason(&ended), (Phase::Aborted, "LockHeld".to_owned()), "{ended:#?}");
    assert_eq!(member(&ended, "ledger").state, MemberState::NotReady);
    assert_eq!(own.told(), [Told::Prepare, Told::Release]);
    assert_eq!(waits.told()[0], Told::Prepare);
}

#[tokio::test]
async fn a_pod_elsewhere_that_says_it_is_the_agent_of_a_node_is_none() {
    let fixture = Fixture::new("pretender").await;
    let node = format!("node-{}", fixture.namespace);
    mounted(&fixture, "orders", &node, &["orders-0"]).await;
    let pretender = FakeAgent::connect(&fixture, &node_agent_pod(&fixture, &node).await, Behaviour::Clean).await;
    fixture.replicate("check", check(&["orders"])).await;
    let ended = fixture.wait_for_end("check").await;
    assert_eq!(phase_and_reason(&ended), (Phase::Aborted, "NoAgent".to_owned()), "{ended:#?}");
    assert_eq!(pretender.told(), []);
}

#[tokio::test]
async fn an_agent_of_a_node_that_takes_the_place_of_another_is_asked() {
    let fixture = Fixture::new("successor").await;
    let system = fixture.of_the_system().await;
    let node = format!("node-{}", fixture.namespace);
    mounted(&fixture, "orders", &node, &["orders-0"]).await;
    let first = node_agent_pod(&system, &node).await;
    let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    system.api::<Pod>().delete(&first.name_any(), &gone).await.expect("it goes");
    let agent = FakeAgent::connect(&system, &node_agent_pod(&system, &node).await, Behaviour::Clean).await;
    fixture.replicate("check", check(&["orders"])).await;
    assert_eq!(phase_and_reason(&fixture.wait_for_end("check").await).0, Phase::Done);
    assert_eq!(agent.told().len(), 3);
}
