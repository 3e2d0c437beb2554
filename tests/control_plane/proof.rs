//! What must never pass for a cut.

use kube::ResourceExt;
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{Phase, labels};
use stillpoint_core::replica::ask::replica_name;

use crate::agents::{Behaviour, FakeAgent, Told};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, bound_claim, pod_with_agent, snapshot_class};
use crate::snapshots;

/// Runs over one member whose replica's name is taken by a usable snapshot before the agent is even connected.
async fn run_over_an_early_snapshot(namespace: &str, labelled: bool) -> (Phase, String, Vec<Told>) {
    let fixture = Fixture::new(namespace).await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let claim = bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    let run = fixture.replicate("nightly", spec).await;
    let (uid, claim_uid) = (run.uid().expect("a UID"), claim.uid().expect("a UID"));
    let name = replica_name("nightly", &uid, 1, "orders", &claim_uid);
    let labels = if labelled { json!({labels::REPLICATION_UID: uid, labels::ATTEMPT: "1"}) } else { json!({}) };
    fixture
        .create::<VolumeSnapshot>(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"volumeSnapshotClassName": class, "source": {"persistentVolumeClaimName": "orders"}},
        }))
        .await;
    let usable = |snapshot: Option<&VolumeSnapshot>| snapshot.is_some_and(|snapshot| snapshot.status.is_some());
    fixture.wait_for(&name, "usable", usable).await;

    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let ended = fixture.wait_for_end("nightly").await.status.expect("a status");
    let ready = ended.conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready");
    (ended.phase.expect("a phase"), ready.reason.clone(), agent.told())
}

#[tokio::test]
async fn a_snapshot_from_before_the_hold_is_not_the_cut() {
    let (phase, reason, told) = run_over_an_early_snapshot("early", true).await;
    assert_eq!((phase, reason.as_str()), (Phase::Aborted, "ReplicaExists"));
    assert_eq!(told, [Told::Prepare, Told::Suspend, Told::Release]);
}

#[tokio::test]
async fn somebody_elses_snapshot_under_the_same_name_is_not_the_cut() {
    let (phase, reason, told) = run_over_an_early_snapshot("foreign", false).await;
    assert_eq!((phase, reason.as_str()), (Phase::Failed, "SnapshotFailed"));
    assert_eq!(told, [Told::Prepare, Told::Suspend, Told::Release]);
}
