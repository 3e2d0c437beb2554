//! One leader after the other.

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use rustix::process::Signal;
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{Consistency, ConsistencyGroupReplication, Phase, ReplicationStatus};

use crate::agents::{Behaviour, Told};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, snapshot_class};
use crate::processes::Controllers;
use crate::snapshots::{create_late, replicas};
use crate::stages::{STAGES, Stage, Staged, bring_to, condition, delete, is_of, play};

/// How each run must stand when the second leader has dealt with what the first one left.
const OUTCOMES: [(Stage, Phase, &str); 5] = [
    (Stage::Preparing, Phase::Aborted, "ControllerRestarted"),
    (Stage::Suspending, Phase::Aborted, "ControllerRestarted"),
    (Stage::Cutting, Phase::Failed, "ControllerRestarted"),
    (Stage::Releasing, Phase::Failed, "ControllerRestarted"),
    (Stage::AwaitingUsable, Phase::Replicating, "Replicating"),
];

async fn two_controllers() -> Controllers {
    let controllers = Controllers::start(&[None, None]).await;
    for replica in &controllers.replicas {
        assert!(replica.probe("/healthz").await && replica.probe("/readyz").await, "{} serves sessions", replica.name);
    }
    controllers
}

/// A run at every stage, under the first controller.
async fn runs(fixture: &Fixture) -> BTreeMap<String, Staged> {
    let class = snapshot_class(fixture, DRIVER).await;
    let mut runs = BTreeMap::new();
    for stage in STAGES {
        let staged = bring_to(fixture, &class, stage, "5s").await;
        runs.insert(stage.name(), staged);
    }
    runs
}

/// The version of each object whose outcome is known.
async fn versions(fixture: &Fixture) -> Vec<Option<String>> {
    join_all(OUTCOMES.map(|(stage, ..)| async move { get(fixture, &stage.name()).await.resource_version() })).await
}

async fn get(fixture: &Fixture, name: &str) -> ConsistencyGroupReplication {
    fixture.api().get(name).await.expect("a replication")
}

fn status(object: &ConsistencyGroupReplication) -> ReplicationStatus {
    object.status.clone().unwrap_or_default()
}

/// Waits until the second leader has dealt with everything, and checks how it did.
async fn assert_taken_over(fixture: &Fixture, runs: &BTreeMap<String, Staged>, epoch: u64) {
    for (stage, phase, reason) in OUTCOMES {
        let (name, run) = (stage.name(), &runs[&stage.name()]);
        let taken = async || status(&get(fixture, &name).await).leader_epoch == epoch;
        fixture.wait_until(&format!("{name} is taken over"), taken).await;
        let ended = fixture.wait_for_phase(&name, phase).await;
        assert_eq!(condition(&ended, "Ready").1, reason, "{name}");
        assert_eq!(status(&ended).leader_epoch, epoch, "{name}");
        let told = run.agent.told_in(epoch);
        if stage == Stage::AwaitingUsable {
            assert_eq!(told, [], "{name}: the proof is stored, so nobody is asked again");
        } else {
            assert_eq!(told, [Told::Release], "{name}");
        }
        let left = replicas(fixture).await.into_iter().filter(|one| is_of(one, &run.run)).count();
        assert_eq!(left, usize::from(stage == Stage::AwaitingUsable), "{name}: replicas");
    }
}

/// What was neither void nor over goes on under the second leader: to the end, and without a trace of the first.
async fn assert_goes_on(fixture: &Fixture, runs: &BTreeMap<String, Staged>, epoch: u64) {
    let awaiting = &runs[&Stage::AwaitingUsable.name()];
    for snapshot in replicas(fixture).await.into_iter().filter(|one| is_of(one, &awaiting.run)) {
        let usable = Patch::Merge(json!({"status": {"readyToUse": true}}));
        let api = fixture.api::<VolumeSnapshot>();
        api.patch_status(&snapshot.name_any(), &PatchParams::default(), &usable).await.expect("usable");
    }
    let done = status(&fixture.wait_for_phase(&awaiting.run.name_any(), Phase::Done).await);
    assert_eq!((done.consistency, done.ready_to_use, done.attempt), (Some(Consistency::Crash), true, 1));

    let cooling = &runs[&Stage::CoolingDown.name()];
    let done = status(&fixture.wait_for_phase(&cooling.run.name_any(), Phase::Done).await);
    assert_eq!((done.attempt, done.leader_epoch), (2, epoch));
    assert_eq!(cooling.agent.told_in(epoch), [Told::Prepare, Told::Suspend, Told::Release]);

    // What the first leader asked for may still come true; whatever is void is deleted, and nothing else is.
    let kept = replicas(fixture).await.len();
    for run in runs.values().filter(|run| run.stage != Stage::AwaitingUsable) {
        create_late(fixture, &run.run, 1, &format!("late-{}", run.run.name_any())).await;
    }
    fixture.wait_until("late snapshots are gone", async || replicas(fixture).await.len() == kept).await;
    let names: Vec<String> = replicas(fixture).await.iter().map(ResourceExt::name_any).collect();
    assert!(names.iter().all(|name| !name.starts_with("late-")), "{names:?}");

    join_all(runs.values().map(|run| delete(fixture, &run.run))).await;
    assert_eq!(replicas(fixture).await.len(), 0, "the policy is Delete");
}

#[tokio::test]
async fn the_next_leader_ends_what_a_killed_one_left() {
    let mut controllers = two_controllers().await;
    let fixture = controllers.fixture("killed").await;
    let _snapshots = play(&fixture);
    let runs = runs(&fixture).await;
    let first = controllers.wait_for_leader(0).await;

    controllers.replicas[0].signal(Signal::KILL);
    controllers.replicas[0].ended().await;
    runs[&Stage::CoolingDown.name()].agent.behave(Behaviour::Clean);
    let second = controllers.wait_for_leader(1).await;
    assert!(second > first);
    assert_taken_over(&fixture, &runs, second).await;
    assert_goes_on(&fixture, &runs, second).await;
}

#[tokio::test]
async fn a_leader_that_was_stopped_and_goes_on_does_no_harm() {
    let mut controllers = two_controllers().await;
    let fixture = controllers.fixture("stopped").await;
    let _snapshots = play(&fixture);
    let runs = runs(&fixture).await;
    let first = controllers.wait_for_leader(0).await;

    controllers.replicas[0].stop().await;
    // What the stopped leader finds when it goes on: every answer that it waited for.
    for stage in [Stage::Preparing, Stage::Suspending, Stage::Releasing] {
        runs[&stage.name()].agent.answer_after_all().await;
    }
    runs[&Stage::CoolingDown.name()].agent.behave(Behaviour::Clean);
    let second = controllers.wait_for_leader(1).await;
    assert_taken_over(&fixture, &runs, second).await;
    let before = versions(&fixture).await;
    let told: Vec<Vec<Told>> = runs.values().map(|run| run.agent.told_in(first)).collect();

    controllers.replicas[0].signal(Signal::CONT);
    let ended = controllers.replicas[0].ended().await;
    assert!(!ended.success(), "it leaves as one that has lost its lease");
    assert_eq!(versions(&fixture).await, before, "what the second leader has stored stays");
    for (run, before) in runs.values().zip(told) {
        let since = run.agent.told_in(first).split_off(before.len());
        assert!(since.iter().all(|told| *told == Told::Release), "{:?}: {since:?}", run.stage);
    }
    assert_goes_on(&fixture, &runs, second).await;
}

#[tokio::test]
async fn a_leader_that_leaves_in_order_is_followed_at_once() {
    let mut controllers = two_controllers().await;
    let fixture = controllers.fixture("leaves").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let staged = bring_to(&fixture, &class, Stage::Cutting, "1s").await;
    controllers.replicas[0].signal(Signal::TERM);
    assert!(controllers.replicas[0].ended().await.success());
    controllers.wait_for_leader(1).await;
    let failed = fixture.wait_for_phase(&staged.run.name_any(), Phase::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "ControllerInterrupted", "ended by the one who began it");
    assert_eq!(staged.agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);

    // The one that is left serves as before.
    staged.agent.behave(Behaviour::Clean);
    let check = json!({"source": {"persistentVolumeClaimNames": [staged.stage.name()]}, "mode": "Check"});
    fixture.replicate("check", check).await;
    fixture.wait_for_phase("check", Phase::Done).await;
}
