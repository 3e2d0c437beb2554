//! A cut is given up for cause only, and what is kept says what it is.

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase, labels};

use crate::agents::{Behaviour, FakeAgent, Told};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, bound_claim, bound_claim_of, pod_with_agent, snapshot_class};
use crate::snapshots::{self, assert_no_replica_is_left, replicas};
use crate::stages::{condition, wait_until_gone};

/// A claim with a pod and an agent, and the spec of a run over it.
async fn one(fixture: &Fixture, snapshot: Value) -> (FakeAgent, Value) {
    let class = snapshot_class(fixture, DRIVER).await;
    bound_claim(fixture, "orders").await;
    let pod = pod_with_agent(fixture, "orders").await;
    let agent = FakeAgent::connect(fixture, &pod, Behaviour::Clean).await;
    let mut snapshot = snapshot;
    snapshot["volumeSnapshotClassName"] = json!(class);
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "replication": {"volumeSnapshot": snapshot},
    });
    (agent, spec)
}

/// Waits until the sentence of the run has these words.
async fn wait_until_it_says(fixture: &Fixture, words: &str) {
    let says = |run: Option<&ConsistencyGroupReplication>| {
        let conditions = run.and_then(|run| Some(&run.status.as_ref()?.conditions)).into_iter().flatten();
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.message.contains(words))
    };
    fixture.wait_for("nightly", words, says).await;
}

async fn put_status(fixture: &Fixture, status: Value) {
    for snapshot in replicas(fixture).await {
        let patch = Patch::Merge(json!({"status": status}));
        let api = fixture.api::<VolumeSnapshot>();
        api.patch_status(&snapshot.name_any(), &PatchParams::default(), &patch).await.expect("a status");
    }
}

#[tokio::test]
async fn an_error_that_goes_away_is_waited_out_and_shown_meanwhile() {
    let fixture = Fixture::new("transient").await;
    let (agent, spec) = one(&fixture, json!({})).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::refused("the object has been modified")));
    fixture.replicate("nightly", spec).await;

    wait_until_it_says(&fixture, "the object has been modified").await;
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend], "it is waited for");
    let mut usable = snapshots::usable();
    usable["error"] = Value::Null;
    put_status(&fixture, usable).await;
    fixture.wait_for_phase("nightly", Phase::Done).await;
}

#[tokio::test]
async fn a_creation_time_is_a_cut_whatever_stands_beside_it() {
    let fixture = Fixture::new("cut-and-error").await;
    let (agent, spec) = one(&fixture, json!({})).await;
    let _snapshots = snapshots::play(&fixture, |_| {
        let mut cut = snapshots::refused("the upload was interrupted");
        cut["creationTime"] = snapshots::usable()["creationTime"].clone();
        Some(cut)
    });
    fixture.replicate("nightly", spec).await;

    wait_until_it_says(&fixture, "the upload was interrupted").await;
    let proven = |run: Option<&ConsistencyGroupReplication>| {
        run.and_then(|run| run.status.as_ref()).is_some_and(|status| status.consistency.is_some())
    };
    fixture.wait_for("nightly", "proven", proven).await;
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    wait_until_it_says(&fixture, "(0 of 1 are); VolumeSnapshot").await;
    put_status(&fixture, json!({"readyToUse": true})).await;
    fixture.wait_for_phase("nightly", Phase::Done).await;
}

#[tokio::test]
async fn a_hold_that_no_snapshot_controller_noticed_is_not_repeated() {
    let fixture = Fixture::new("unnoticed").await;
    let (agent, mut spec) = one(&fixture, json!({})).await;
    spec["suspension"] = json!({"holdTimeout": "1s"});
    spec["retry"] = json!({"limit": 3, "coolDown": "1s"});
    // Nobody plays the snapshot controller.
    fixture.replicate("nightly", spec).await;

    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    let (_, reason, message) = condition(&failed, "Ready");
    assert_eq!(reason, "ReplicaNotNoticed", "{message}");
    assert!(message.contains("snapshot controller") && !message.contains("raise"), "{message}");
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release], "one hold");
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_failed_attempt_of_which_nothing_is_left_is_tried_again() {
    let fixture = Fixture::new("failed-retry").await;
    let (agent, mut spec) = one(&fixture, json!({})).await;
    spec["suspension"] = json!({"holdTimeout": "4s"});
    spec["retry"] = json!({"limit": 1, "coolDown": "1s"});
    let snapshots = snapshots::play(&fixture, |_| Some(snapshots::refused("the pool is full")));
    let run = fixture.replicate("nightly", spec).await;

    let cools = |run: Option<&ConsistencyGroupReplication>| {
        run.and_then(|run| run.status.as_ref()).is_some_and(|status| status.next_attempt_at.is_some())
    };
    let cooling = fixture.wait_for("nightly", "cooling down", cools).await;
    let message = condition(&cooling, "Ready").2;
    assert!(message.starts_with("attempt 1 of 2 failed, the next one begins at "), "{message}");
    assert!(message.contains("the pool is full"), "{message}");
    assert_no_replica_is_left(&fixture).await;
    drop(snapshots);
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let done = fixture.wait_for_phase("nightly", Phase::Done).await;
    assert_eq!(done.status.expect("a status").attempt, 2);
    let tried = [Told::Prepare, Told::Suspend, Told::Release];
    assert_eq!(agent.told(), [tried, tried].concat());
    let kept = replicas(&fixture).await;
    assert_eq!((kept.len(), kept[0].labels()[labels::ATTEMPT].as_str()), (1, "2"), "{}", run.name_any());
}

#[tokio::test]
async fn an_older_snapshot_that_a_driver_hands_out_voids_the_cut() {
    let fixture = Fixture::new("handed-out").await;
    let (_agent, spec) = one(&fixture, json!({})).await;
    let _snapshots = snapshots::play(&fixture, |_| {
        let mut old = snapshots::usable();
        old["creationTime"] = json!("2026-01-01T00:00:00Z");
        Some(old)
    });
    fixture.replicate("nightly", spec).await;
    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    let (_, reason, message) = condition(&failed, "Ready");
    assert_eq!(reason, "ReplicaTooOld");
    assert!(message.contains("2026-01-01T00:00:00Z") && message.contains("orders"), "{message}");
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn snapshots_carry_what_was_asked_for_and_the_proof_once_there_is_one() {
    let fixture = Fixture::new("carried").await;
    let wishes = json!({"labels": {"team": "shop"}, "annotations": {"example.com/note": "nightly, full"}});
    let (_agent, mut spec) = one(&fixture, wishes).await;
    spec["deletionPolicy"] = json!("Retain");
    let run = fixture.replicate("nightly", spec).await;

    let made = async || !replicas(&fixture).await.is_empty();
    fixture.wait_until("the snapshot is asked for", made).await;
    let early = replicas(&fixture).await.remove(0);
    assert_eq!(early.labels()["team"], "shop");
    assert_eq!(early.annotations()["example.com/note"], "nightly, full");
    assert!(!early.annotations().contains_key(labels::PROVEN_AT), "nothing is proven yet");
    put_status(&fixture, snapshots::usable()).await;
    let status = fixture.wait_for_phase("nightly", Phase::Done).await.status.expect("a status");
    fixture.api::<ConsistencyGroupReplication>().delete("nightly", &DeleteParams::default()).await.expect("deleted");
    wait_until_gone(&fixture, &run).await;

    let kept = replicas(&fixture).await.remove(0);
    let says = |key: &str| kept.annotations().get(key).map(String::as_str).unwrap_or_default();
    assert_eq!((says(labels::CONSISTENCY), says(labels::MEMBERS)), ("Crash", "1"));
    let hold = status.hold.expect("a hold");
    for (key, at) in [
        (labels::HOLD_STARTED_AT, Some(hold.started_at)),
        (labels::CUT_CONFIRMED_AT, status.creation_time),
        (labels::PROVEN_AT, hold.ended_at),
    ] {
        assert_eq!(says(key), format!("{:.6}", at.expect(key).0), "{key}");
    }
    assert_eq!(kept.labels()[labels::REPLICATION_UID], run.uid().expect("a UID"));
}

#[tokio::test]
async fn labels_that_would_be_refused_in_the_hold_are_refused_before() {
    let fixture = Fixture::new("bad-labels").await;
    let (agent, spec) = one(&fixture, json!({"labels": {"Team/": "shop"}})).await;
    fixture.replicate("nightly", spec).await;
    let aborted = fixture.wait_for_phase("nightly", Phase::Aborted).await;
    assert_eq!(condition(&aborted, "Ready").1, "ReplicaLabelsInvalid");
    assert_eq!(agent.told(), []);
}

#[tokio::test]
async fn a_volume_whose_driver_suspends_the_device_is_refused_before_anybody_is_asked() {
    let fixture = Fixture::new("suspends").await;
    let class = snapshot_class(&fixture, "topolvm.io").await;
    bound_claim_of(&fixture, "orders", "topolvm.io").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    fixture.replicate("nightly", spec).await;
    let aborted = fixture.wait_for_phase("nightly", Phase::Aborted).await;
    let (_, reason, message) = condition(&aborted, "Ready");
    assert_eq!(reason, "DriverFreezes");
    assert!(message.contains("topolvm.io") && message.contains("orders"), "{message}");
    assert_eq!(agent.told(), []);
}
