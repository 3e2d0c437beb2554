//! Whatever happens to a run, at every stage: it ends, the end is true, who was asked is released, and nothing stays behind.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase};

use crate::agents::{Behaviour, Told};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, snapshot_class};
use crate::snapshots::{assert_no_replica_is_left, replicas};
use crate::stages::{STAGES, Stage, Staged, bring_to, condition, delete, play, wait_until_gone};

/// Brings a run in a namespace of its own to every stage, all at once, and lets something happen to it there.
async fn at_every_stage(name: &str, happens: impl AsyncFn(&Fixture, Staged)) {
    let at = async |stage: Stage| {
        let fixture = Fixture::new(name).await;
        let class = snapshot_class(&fixture, DRIVER).await;
        let _snapshots = play(&fixture);
        let staged = bring_to(&fixture, &class, stage, "1s").await;
        happens(&fixture, staged).await;
    };
    join_all(STAGES.map(at)).await;
}

/// Who was asked is released: by the last command, whatever came before.
fn assert_released(staged: &Staged) {
    assert_eq!(staged.agent.told().last(), Some(&Told::Release), "{:?}", staged.stage);
}

/// The run has ended so, and can be deleted at once.
async fn assert_ended(fixture: &Fixture, staged: &Staged, phase: Phase, reasons: &[&str]) {
    let ended = fixture.wait_for_end(&staged.run.name_any()).await;
    let (_, reason, message) = condition(&ended, "Ready");
    let stage = staged.stage;
    assert_eq!(ended.status.as_ref().and_then(|status| status.phase), Some(phase), "{stage:?}: {message}");
    assert!(reasons.contains(&reason.as_str()), "{stage:?}: {reason}: {message}");
    if phase == Phase::Done {
        assert_eq!(replicas(fixture).await.len(), 1, "{stage:?}");
    } else {
        assert_no_replica_is_left(fixture).await;
    }
    delete(fixture, &staged.run).await;
    assert_no_replica_is_left(fixture).await;
}

async fn make_usable(fixture: &Fixture) {
    for snapshot in replicas(fixture).await {
        let usable = Patch::Merge(json!({"status": {"readyToUse": true}}));
        let api = fixture.api::<VolumeSnapshot>();
        api.patch_status(&snapshot.name_any(), &PatchParams::default(), &usable).await.expect("usable");
    }
}

#[tokio::test]
async fn the_object_is_deleted() {
    at_every_stage("end-object", async |fixture, staged| {
        delete(fixture, &staged.run).await;
        assert_released(&staged);
        assert_no_replica_is_left(fixture).await;
    })
    .await;
}

/// Nobody plays the namespace controller: a namespace stays `Terminating`, and its content is deleted here.
#[tokio::test]
async fn the_namespace_is_deleted() {
    at_every_stage("end-namespace", async |fixture, staged| {
        let before = names(fixture).await;
        let namespaces: Api<Namespace> = Api::all(fixture.client.clone());
        namespaces.delete(&fixture.namespace, &DeleteParams::default()).await.expect("deleted");
        let (now, all) = (DeleteParams::default().grace_period(0), ListParams::default());
        fixture.api::<Pod>().delete_collection(&now, &all).await.expect("deleted");
        fixture.api::<PersistentVolumeClaim>().delete_collection(&now, &all).await.expect("deleted");
        fixture.api::<ConsistencyGroupReplication>().delete_collection(&now, &all).await.expect("deleted");
        wait_until_gone(fixture, &staged.run).await;
        assert_released(&staged);
        assert_no_replica_is_left(fixture).await;
        assert!(names(fixture).await.is_subset(&before), "nothing new is made");
    })
    .await;
}

/// What a run could have made.
async fn names(fixture: &Fixture) -> BTreeSet<String> {
    replicas(fixture).await.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn the_claim_is_deleted() {
    at_every_stage("end-claim", async |fixture, staged| {
        let claims = fixture.api::<PersistentVolumeClaim>();
        claims.delete(&staged.stage.name(), &DeleteParams::default()).await.expect("deleted");
        let (phase, reason) = match staged.stage {
            Stage::Preparing | Stage::Suspending => (Phase::Aborted, "ClaimDeleted"),
            Stage::Cutting => (Phase::Failed, "ClaimDeleted"),
            // Judged by its answer, which does not come.
            Stage::Releasing => (Phase::Failed, "HoldBroken"),
            Stage::AwaitingUsable => {
                make_usable(fixture).await;
                (Phase::Done, "Done")
            }
            Stage::CoolingDown => (Phase::Aborted, "ClaimBeingDeleted"),
        };
        assert_ended(fixture, &staged, phase, &[reason]).await;
        assert_released(&staged);
    })
    .await;
}

#[tokio::test]
async fn the_pod_is_drained() {
    at_every_stage("end-pod", async |fixture, staged| {
        let (pod, now) = (staged.pod.name_any(), DeleteParams::default().grace_period(0));
        fixture.api::<Pod>().delete(&pod, &now).await.expect("deleted");
        staged.agent.die();
        let (phase, reasons): (_, &[&str]) = match staged.stage {
            Stage::Preparing => (Phase::Aborted, &["PodChanged"]),
            // Whichever is heard of first.
            Stage::Suspending => (Phase::Aborted, &["PodChanged", "AgentLost"]),
            Stage::Cutting => (Phase::Failed, &["PodChanged", "AgentLost"]),
            Stage::Releasing => (Phase::Failed, &["HoldBroken"]),
            Stage::AwaitingUsable => {
                make_usable(fixture).await;
                (Phase::Done, &["Done"])
            }
            // Nobody mounts the claim any more, so the second attempt has nobody to suspend.
            Stage::CoolingDown => (Phase::Done, &["Done"]),
        };
        assert_ended(fixture, &staged, phase, reasons).await;
    })
    .await;
}

#[tokio::test]
async fn the_next_attempt_finds_nothing_in_the_way() {
    let fixture = Fixture::new("retry").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = play(&fixture);
    let staged = bring_to(&fixture, &class, Stage::CoolingDown, "2s").await;
    staged.agent.behave(Behaviour::Clean);
    let name = staged.run.name_any();
    let cooling = fixture.api::<ConsistencyGroupReplication>().get(&name).await.expect("a replication");
    let (ready, reason, message) = condition(&cooling, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "LockHeld"));
    assert!(
        message.starts_with("attempt 1 of 2 was aborted, the next one begins at ") && message.contains("writer"),
        "{message}"
    );
    assert_eq!(condition(&cooling, "Reconciling").1, "CoolingDown");
    assert_eq!(condition(&cooling, "Stalled").0, "False");
    let status = cooling.status.expect("a status");
    assert_eq!((status.phase, status.attempt), (Some(Phase::Pending), 1));
    assert_eq!(status.members[0].blockers[0].reason, "LockHeld", "what was in the way stays in view");

    let done = fixture.wait_for_phase(&name, Phase::Done).await.status.expect("a status");
    assert_eq!((done.attempt, done.next_attempt_at), (2, None));
    let next = status.next_attempt_at.expect("a time").0;
    let began = done.phases.iter().rfind(|entry| entry.phase == Phase::Checking).expect("checked").started_at.0;
    assert!(began >= next, "writes go on undisturbed until {next}, not only until {began}");
    let clean = [Told::Prepare, Told::Suspend, Told::Release];
    assert_eq!(staged.agent.told(), [&[Told::Prepare, Told::Release][..], &clean[..]].concat());

    // What the first attempt may have asked for is void, whenever it turns up; what the second one made is not.
    crate::snapshots::create_late(&fixture, &staged.run, 1, "late").await;
    let only_the_cut = async || {
        let left = replicas(&fixture).await;
        left.len() == 1 && left[0].name_any() != "late"
    };
    fixture.wait_until("the late snapshot is gone", only_the_cut).await;
}

#[tokio::test]
async fn attempts_end_with_the_last_one() {
    let fixture = Fixture::new("retry-ends").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let staged = bring_to(&fixture, &class, Stage::CoolingDown, "1s").await;
    let aborted = fixture.wait_for_phase(&staged.run.name_any(), Phase::Aborted).await;
    let message = condition(&aborted, "Ready").2;
    assert!(message.starts_with("attempt 2 of 2 was aborted: "), "{message}");
    let tried = [Told::Prepare, Told::Release];
    assert_eq!(staged.agent.told(), [tried, tried].concat());
    assert_eq!(condition(&aborted, "Stalled").0, "True");
}
