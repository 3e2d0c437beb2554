//! Runs that are brought to a stage, and stay there until something happens to them.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use kube::runtime::wait::conditions::is_deleted;
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, Phase, ReplicationStatus};

use super::agents::{Behaviour, FakeAgent, Told, lock_blocker};
use super::fixture::{DEADLINE, Fixture};
use super::objects::{bound_claim, pod_with_agent};
use super::snapshots::{self, SnapshotController, replicas};

/// Where a run can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its agent looks.
    Preparing,
    /// Its agent was told to suspend.
    Suspending,
    /// Its snapshot was asked for.
    Cutting,
    /// Its agent was told to release, and has not answered; it is waited for no longer than five seconds.
    Releasing,
    /// The cut is proven; its snapshot is not usable yet.
    AwaitingUsable,
    /// The first attempt was aborted; a second and last one follows.
    CoolingDown,
}

/// All stages; the one that lasts least comes last.
pub const STAGES: [Stage; 6] =
    [Stage::Preparing, Stage::Suspending, Stage::Cutting, Stage::AwaitingUsable, Stage::CoolingDown, Stage::Releasing];

/// A run of one member at a stage. The run, the claim and the pod have the same name.
pub struct Staged {
    /// Where it is.
    pub stage: Stage,
    /// The agent of its member.
    pub agent: FakeAgent,
    /// The pod of its member.
    pub pod: Pod,
    /// The run, as it was created.
    pub run: ConsistencyGroupReplication,
}

impl Stage {
    /// The name of its run.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn behaviour(self) -> Behaviour {
        match self {
            Self::Preparing => Behaviour::Waits(vec![lock_blocker("journal")]),
            Self::Suspending => Behaviour::SilentWhenSuspended,
            Self::Cutting | Self::AwaitingUsable => Behaviour::Clean,
            Self::Releasing => Behaviour::SilentWhenReleased,
            Self::CoolingDown => Behaviour::Blocked(vec![lock_blocker("journal")]),
        }
    }

    /// Whether a run that stays here is here.
    fn is_reached(self, told: &[Told], status: &ReplicationStatus) -> bool {
        let phase = status.phase;
        match self {
            Self::Preparing => told == [Told::Prepare] && phase == Some(Phase::Checking),
            Self::Suspending => told == [Told::Prepare, Told::Suspend],
            Self::Cutting => phase == Some(Phase::Replicating),
            Self::Releasing => told == [Told::Prepare, Told::Suspend, Told::Release],
            Self::AwaitingUsable => status.consistency.is_some(),
            Self::CoolingDown => status.next_attempt_at.is_some(),
        }
    }
}

/// Plays the snapshot controller for runs at every stage.
pub fn play(fixture: &Fixture) -> SnapshotController {
    snapshots::play(fixture, |claim| {
        let mut usable = snapshots::usable();
        if claim == Stage::AwaitingUsable.name() {
            usable["readyToUse"] = json!(false);
        }
        (claim != Stage::Cutting.name()).then_some(usable)
    })
}

fn spec(stage: Stage, class: &str, cool_down: &str) -> Value {
    let mut spec = json!({
        "source": {"persistentVolumeClaimNames": [stage.name()]},
        "suspension": {"prepareTimeout": "1m", "holdTimeout": "30s"},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    if stage == Stage::CoolingDown {
        spec["retry"] = json!({"limit": 1, "coolDown": cool_down});
    }
    spec
}

/// Begins a run and waits until it is at the stage.
pub async fn bring_to(fixture: &Fixture, class: &str, stage: Stage, cool_down: &str) -> Staged {
    let name = stage.name();
    bound_claim(fixture, &name).await;
    let pod = pod_with_agent(fixture, &name).await;
    let agent = FakeAgent::connect(fixture, &pod, stage.behaviour()).await;
    let run = fixture.replicate(&name, spec(stage, class, cool_down)).await;
    let reached = async || {
        let made = stage != Stage::Cutting || replicas(fixture).await.iter().any(|one| is_of(one, &run));
        made && stage.is_reached(&agent.told(), &status(fixture, &name).await)
    };
    fixture.wait_until(&format!("{stage:?} is reached"), reached).await;
    Staged { stage, agent, pod, run }
}

/// Whether a snapshot belongs to a run.
pub fn is_of(snapshot: &impl ResourceExt, run: &ConsistencyGroupReplication) -> bool {
    snapshot.labels().get(stillpoint_api::labels::REPLICATION_UID) == run.uid().as_ref()
}

/// The status that is stored now.
pub async fn status(fixture: &Fixture, name: &str) -> ReplicationStatus {
    let run = fixture.api::<ConsistencyGroupReplication>().get_opt(name).await.expect("an answer");
    run.and_then(|run| run.status).unwrap_or_default()
}

/// The status, the reason and the message of a condition.
pub fn condition(object: &ConsistencyGroupReplication, kind: &str) -> (String, String, String) {
    let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == kind).expect("the condition is there");
    (found.status, found.reason, found.message)
}

/// Deletes a replication and waits until it is gone.
pub async fn delete(fixture: &Fixture, run: &ConsistencyGroupReplication) {
    let replications = fixture.api::<ConsistencyGroupReplication>();
    replications.delete(&run.name_any(), &DeleteParams::default()).await.expect("deleted");
    wait_until_gone(fixture, run).await;
}

/// Waits until a replication is gone.
pub async fn wait_until_gone(fixture: &Fixture, run: &ConsistencyGroupReplication) {
    let (name, uid) = (run.name_any(), run.uid().expect("a UID"));
    let gone = await_condition(fixture.api::<ConsistencyGroupReplication>(), &name, is_deleted(&uid));
    tokio::time::timeout(DEADLINE, gone)
        .await
        .unwrap_or_else(|_| panic!("{name} is not gone in time"))
        .expect("a watch");
}
