//! Members that are silent, and members that take their time: what is said of them, and that the run waits.

use std::time::Duration;

use serde_json::json;
use stillpoint_api::{ConsistencyGroupReplication, MemberState, MemberStatus, Phase};

use crate::agents::{Behaviour, FakeAgent, Told, lock_blocker};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, bound_claim, pod_with_agent, restart_container, snapshot_class};
use crate::snapshots;
use crate::stages::{condition, status};

async fn member(fixture: &Fixture, name: &str, behaviour: Behaviour) -> FakeAgent {
    bound_claim(fixture, name).await;
    let pod = pod_with_agent(fixture, name).await;
    FakeAgent::connect(fixture, &pod, behaviour).await
}

fn spec(class: &str, prepare: &str, hold: &str) -> serde_json::Value {
    json!({
        "source": {"persistentVolumeClaimNames": ["ledger", "orders"]},
        "suspension": {"prepareTimeout": prepare, "holdTimeout": hold},
        "retry": {"limit": 1, "coolDown": "1s"},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    })
}

fn orders(run: &ConsistencyGroupReplication) -> MemberStatus {
    let members = &run.status.as_ref().expect("a status").members;
    members.iter().find(|member| member.persistent_volume_claim.name == "orders").expect("orders").clone()
}

#[tokio::test]
async fn an_agent_that_is_stopped_is_named_and_the_status_settles_when_it_goes_on() {
    let fixture = Fixture::new("stopped").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _clean = member(&fixture, "ledger", Behaviour::Clean).await;
    let stopped = member(&fixture, "orders", Behaviour::Stopped).await;
    fixture.replicate("nightly", spec(&class, "5s", "1s")).await;

    let aborted = fixture.wait_for_phase("nightly", Phase::Aborted).await;
    let (_, reason, message) = condition(&aborted, "Ready");
    assert_eq!(reason, "NotReadyTogether");
    assert!(message.contains("the agent of pod orders did not answer"), "{message}");
    assert!(!message.contains("writes go on") && message.contains("No other attempt follows by itself"), "{message}");
    let (suspended, reason, message) = condition(&aborted, "WritesSuspended");
    assert_eq!((suspended.as_str(), reason.as_str()), ("Unknown", "NotAnswered"));
    assert!(message.contains("the agent of pod orders has not answered") && message.contains(" since 20"), "{message}");
    assert_eq!(condition(&aborted, "Blocked").1, "AgentSilent");
    let silent = orders(&aborted);
    assert_eq!((silent.state, silent.released_at), (MemberState::Silent, None));
    let hold = aborted.status.expect("a status").hold.expect("ledger held");
    assert_eq!((hold.ended_at, hold.duration), (None, None), "it may last");

    stopped.answer_after_all().await;
    let settled = |run: Option<&ConsistencyGroupReplication>| {
        run.is_some_and(|run| condition(run, "WritesSuspended").0 == "False")
    };
    let settled = fixture.wait_for("nightly", "settled", settled).await;
    let (status, member) = (settled.status.clone().expect("a status"), orders(&settled));
    assert_eq!((status.phase, status.attempt), (Some(Phase::Aborted), 1));
    assert_eq!(member.suspended_for, Some(Duration::from_millis(40).into()));
    assert!(member.released_at.is_some() && status.longest_suspension.is_some());
    let message = condition(&settled, "Ready").2;
    assert!(message.contains("Nothing was cut and writes go on"), "{message}");
}

#[tokio::test]
async fn a_container_that_restarts_costs_no_attempt_and_is_named() {
    let fixture = Fixture::new("flaps").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let locked = member(&fixture, "ledger", Behaviour::Waits(vec![lock_blocker("journal")])).await;
    let flapping = member(&fixture, "orders", Behaviour::Clean).await;
    fixture.replicate("nightly", spec(&class, "25s", "5s")).await;
    for restarts in 1..=7_u32 {
        let prepares = || flapping.told().iter().filter(|told| **told == Told::Prepare).count();
        fixture.wait_until("it was told of its containers", async || prepares() == restarts as usize).await;
        restart_container(&fixture, "orders", restarts).await;
    }
    let named = async || {
        let members = status(&fixture, "nightly").await.members;
        let mut blockers = members.iter().flat_map(|member| &member.blockers);
        blockers.any(|it| it.reason == "ContainerRestarts" && it.container.as_deref() == Some("database"))
    };
    fixture.wait_until("the container is named", named).await;
    assert_eq!(locked.told(), [Told::Prepare], "it waits meanwhile, and its writes go on");

    locked.behave(Behaviour::Clean);
    locked.answer_after_all().await;
    let done = fixture.wait_for_end("nightly").await;
    assert_eq!(condition(&done, "Ready").1, "Done");
    assert_eq!(done.status.expect("a status").attempt, 1);
    assert_eq!(locked.told(), [Told::Prepare, Told::Suspend, Told::Release]);
}
