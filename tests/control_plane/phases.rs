//! Whole runs: what a watcher sees, what agents are told, what is kept.

use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use stillpoint_api::{Consistency, ConsistencyGroupReplication, MemberState, Phase, labels};
use tokio::task::JoinHandle;

use crate::agents::{Behaviour, FakeAgent, Told, lock_blocker};
use crate::fixture::{DEADLINE, Fixture};
use crate::objects::{DRIVER, bound_claim, pod_with_agent, snapshot_class};
use crate::snapshots::{self, assert_no_replica_is_left, replicas};
use crate::stages::{condition, delete};

/// A group of two claims, each with a pod and an agent.
async fn group(fixture: &Fixture, behaviours: [Behaviour; 2]) -> [FakeAgent; 2] {
    let [first, second] = behaviours;
    [member(fixture, "ledger", first).await, member(fixture, "orders", second).await]
}

async fn member(fixture: &Fixture, name: &str, behaviour: Behaviour) -> FakeAgent {
    bound_claim(fixture, name).await;
    let pod = pod_with_agent(fixture, name).await;
    FakeAgent::connect(fixture, &pod, behaviour).await
}

fn spec(fixture: &Fixture, class: &str) -> serde_json::Value {
    json!({
        "source": {"selector": {"matchLabels": {"group": fixture.namespace}}},
        "suspension": {"prepareTimeout": "15s", "holdTimeout": "10s"},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    })
}

/// Records every phase that a watcher sees, until a final one.
fn watch_phases(fixture: &Fixture) -> JoinHandle<Vec<Phase>> {
    let replications = fixture.api::<ConsistencyGroupReplication>();
    tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut updates = watcher(replications, watcher::Config::default()).applied_objects().boxed();
        while let Some(update) = updates.next().await {
            let Some(phase) = update.ok().and_then(|object| object.status).and_then(|status| status.phase) else {
                continue;
            };
            if seen.last() != Some(&phase) {
                seen.push(phase);
            }
            if phase.is_final() {
                break;
            }
        }
        seen
    })
}

async fn seen_phases(watch: JoinHandle<Vec<Phase>>) -> Vec<Phase> {
    tokio::time::timeout(DEADLINE, watch).await.expect("a final phase in time").expect("no panic")
}

#[tokio::test]
async fn a_clean_group_is_done_and_every_phase_is_seen() {
    let fixture = Fixture::new("done").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let phases = watch_phases(&fixture);
    let run = fixture.replicate("nightly", spec(&fixture, &class)).await;

    let seen = seen_phases(phases).await;
    let order: Vec<Phase> = seen.into_iter().filter(|phase| *phase != Phase::Pending).collect();
    assert_eq!(order, [Phase::Checking, Phase::Ready, Phase::Replicating, Phase::Done]);
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    }
    let done = fixture.wait_for_phase("nightly", Phase::Done).await;
    assert_eq!(condition(&done, "Ready").0, "True");
    let status = done.status.expect("a status");
    assert!(status.ready_to_use);
    assert_eq!(status.consistency, Some(Consistency::Crash));
    assert_eq!(status.ready_members.as_deref(), Some("2/2"));
    assert!(status.members.iter().all(|member| member.state == MemberState::Released));
    let hold = status.hold.expect("a hold");
    assert!(hold.ended_at.is_some() && hold.duration.is_some() && hold.cut_duration.is_some(), "{hold:?}");
    let replicas = replicas(&fixture).await;
    for member in status.members {
        assert_eq!(member.suspended_for, Some(Duration::from_millis(40).into()));
        let replica = member.replica.expect("a replica");
        assert!(replica.cut_at.is_some() && replica.cut_took.is_some(), "{replica:?}");
        assert_eq!(replica.kind, "VolumeSnapshot");
        let named = replicas.iter().find(|one| one.name_any() == replica.name).expect("it has the name in the status");
        assert_eq!(named.annotations()[labels::CLAIM], member.persistent_volume_claim.name);
    }

    assert_eq!(replicas.len(), 2);
    for replica in replicas {
        assert_eq!(replica.labels()[labels::REPLICATION], "nightly");
        assert_eq!(replica.labels()[labels::REPLICATION_UID], run.uid().expect("a UID"));
        assert_eq!(replica.owner_references().len(), 1);
    }
}

#[tokio::test]
async fn a_blocked_member_aborts_the_group_before_anybody_is_suspended() {
    let fixture = Fixture::new("blocked").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Blocked(vec![lock_blocker("journal")])]).await;
    fixture.replicate("nightly", spec(&fixture, &class)).await;

    let aborted = fixture.wait_for_phase("nightly", Phase::Aborted).await;
    let (ready, reason, message) = condition(&aborted, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "LockHeld"));
    assert!(message.contains("orders") && message.contains("writer"), "{message}");
    assert_eq!(condition(&aborted, "Stalled").0, "True");
    let members = aborted.status.expect("a status").members;
    let blocker = &members.iter().find(|m| m.persistent_volume_claim.name == "orders").expect("orders").blockers[0];
    assert_eq!(blocker.pod.as_deref(), Some("orders"));
    assert_eq!(blocker.container.as_deref(), Some("database"));
    assert_eq!(blocker.path.as_deref(), Some("journal"));
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Release], "asked, so released; never suspended");
    }
    assert_eq!(replicas(&fixture).await.len(), 0);
}

#[tokio::test]
async fn a_silent_member_aborts_the_group_and_all_are_released() {
    let fixture = Fixture::new("silent").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::SilentWhenSuspended]).await;
    fixture.replicate("nightly", spec(&fixture, &class)).await;

    fixture.wait_for_phase("nightly", Phase::Aborted).await;
    for agent in &agents {
        assert_eq!(agent.told().last(), Some(&Told::Release));
    }
    assert_eq!(replicas(&fixture).await.len(), 0, "P1: no replica before all are ready");
}

#[tokio::test]
async fn a_broken_hold_voids_the_cut() {
    let fixture = Fixture::new("broken").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _agents = group(&fixture, [Behaviour::Clean, Behaviour::Breaks]).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    fixture.replicate("nightly", spec(&fixture, &class)).await;

    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    let (ready, reason, message) = condition(&failed, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "HoldBroken"));
    assert!(message.contains("somebody thawed the filesystem"), "{message}");
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_snapshot_that_fails_to_the_end_voids_the_cut_and_takes_the_others_along() {
    let fixture = Fixture::new("refused").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let _snapshots = snapshots::play(&fixture, |claim| {
        Some(if claim == "orders" { snapshots::refused("the pool is full") } else { snapshots::usable() })
    });
    let mut spec = spec(&fixture, &class);
    spec["suspension"]["holdTimeout"] = json!("4s");
    fixture.replicate("nightly", spec).await;

    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    let (_, reason, message) = condition(&failed, "Ready");
    assert_eq!(reason, "SnapshotFailed");
    assert!(message.contains("the pool is full") && message.contains("orders"), "{message}");
    for agent in &agents {
        assert_eq!(agent.told().last(), Some(&Told::Release));
    }
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_snapshot_without_a_creation_time_is_not_waited_for_beyond_the_hold() {
    let fixture = Fixture::new("hangs").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let _snapshots = snapshots::play(&fixture, |claim| (claim != "orders").then(snapshots::usable));
    let mut spec = spec(&fixture, &class);
    // Whoever plays the snapshot controller takes notice of one of them in that time.
    spec["suspension"]["holdTimeout"] = json!("4s");
    fixture.replicate("nightly", spec).await;

    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "CutTimeout");
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    }
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_check_answers_and_keeps_nothing() {
    let fixture = Fixture::new("check").await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let mut spec = spec(&fixture, "unused");
    spec["mode"] = json!("Check");
    spec.as_object_mut().expect("a map").remove("replication");
    fixture.replicate("could-i", spec).await;

    let done = fixture.wait_for_phase("could-i", Phase::Done).await;
    assert_eq!(condition(&done, "Ready").0, "True");
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    }
    assert_eq!(replicas(&fixture).await.len(), 0);
}

#[tokio::test]
async fn an_agent_that_dies_in_the_hold_voids_the_attempt() {
    let fixture = Fixture::new("dies").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let [ledger, orders] = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    fixture.replicate("nightly", spec(&fixture, &class)).await;

    fixture.wait_for_phase("nightly", Phase::Replicating).await;
    orders.die();
    fixture.wait_for_phase("nightly", Phase::Failed).await;
    assert_eq!(ledger.told().last(), Some(&Told::Release));
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn an_object_deleted_in_the_hold_gives_writes_back_and_leaves_nothing() {
    let fixture = Fixture::new("deleted").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let run = fixture.replicate("nightly", spec(&fixture, &class)).await;

    fixture.wait_for_phase("nightly", Phase::Replicating).await;
    delete(&fixture, &run).await;
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    }
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn an_object_deleted_while_agents_look_is_gone_and_they_are_released() {
    let fixture = Fixture::new("deleted-early").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let blocked = Behaviour::Waits(vec![lock_blocker("journal")]);
    let agents = group(&fixture, [Behaviour::Clean, blocked]).await;
    let mut spec = spec(&fixture, &class);
    spec["suspension"]["prepareTimeout"] = json!("1m");
    let run = fixture.replicate("nightly", spec).await;

    let asked = async || agents.iter().all(|agent| agent.told() == [Told::Prepare]);
    fixture.wait_until("both agents are asked", asked).await;
    fixture.wait_for_phase("nightly", Phase::Checking).await;
    delete(&fixture, &run).await;
    for agent in &agents {
        assert_eq!(agent.told(), [Told::Prepare, Told::Release]);
    }
    assert_eq!(replicas(&fixture).await.len(), 0);
}

#[tokio::test]
async fn an_object_deleted_after_it_ended_is_gone() {
    for (behaviour, end) in
        [(Behaviour::Blocked(vec![lock_blocker("journal")]), Phase::Aborted), (Behaviour::Breaks, Phase::Failed)]
    {
        let fixture = Fixture::new("deleted-late").await;
        let class = snapshot_class(&fixture, DRIVER).await;
        let _agents = group(&fixture, [Behaviour::Clean, behaviour]).await;
        let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
        let run = fixture.replicate("nightly", spec(&fixture, &class)).await;
        fixture.wait_for_phase("nightly", end).await;
        delete(&fixture, &run).await;
        assert_eq!(replicas(&fixture).await.len(), 0);
    }
}

#[tokio::test]
async fn replicas_are_retained_without_an_owner_when_asked() {
    let fixture = Fixture::new("retain").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let mut spec = spec(&fixture, &class);
    spec["deletionPolicy"] = json!("Retain");
    let run = fixture.replicate("nightly", spec).await;

    fixture.wait_for_phase("nightly", Phase::Done).await;
    delete(&fixture, &run).await;
    let replicas = replicas(&fixture).await;
    assert_eq!(replicas.len(), 2);
    assert!(replicas.iter().all(|replica| replica.owner_references().is_empty()));
}

#[tokio::test]
async fn a_snapshot_that_turns_up_late_is_deleted() {
    let fixture = Fixture::new("late").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _agents = group(&fixture, [Behaviour::Clean, Behaviour::Breaks]).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let run = fixture.replicate("nightly", spec(&fixture, &class)).await;
    fixture.wait_for_phase("nightly", Phase::Failed).await;

    snapshots::create_late(&fixture, &run, 1, "late").await;
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_snapshot_that_turns_up_between_the_clean_up_and_the_end_is_deleted() {
    let fixture = Fixture::new("late").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let [_ledger, orders] = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let run = fixture.replicate("nightly", spec(&fixture, &class)).await;
    fixture.wait_until("two replicas are there", async || replicas(&fixture).await.len() == 2).await;
    // It cannot answer the release any more, so that the run waits for it when everything is removed already.
    orders.die();
    assert_no_replica_is_left(&fixture).await;

    snapshots::create_late(&fixture, &run, 1, "late").await;
    let now = fixture.api::<ConsistencyGroupReplication>().get("nightly").await.expect("a replication");
    assert_eq!(
        now.status.and_then(|status| status.phase),
        Some(Phase::Replicating),
        "the snapshot came before the end"
    );
    fixture.wait_for_phase("nightly", Phase::Failed).await;
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_run_that_only_waits_for_its_uploads_keeps_no_other_away() {
    let fixture = Fixture::new("uploads").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let agents = group(&fixture, [Behaviour::Clean, Behaviour::Clean]).await;
    let _snapshots = snapshots::play(&fixture, |_| {
        let mut cut = snapshots::usable();
        cut["readyToUse"] = json!(false);
        Some(cut)
    });
    for name in ["first", "second"] {
        fixture.replicate(name, spec(&fixture, &class)).await;
        let cut = |object: Option<&ConsistencyGroupReplication>| {
            let status = object.and_then(|object| object.status.as_ref());
            status.is_some_and(|status| status.creation_time.is_some() && status.phase == Some(Phase::Replicating))
        };
        fixture.wait_for(name, "cut and not usable yet", cut).await;
    }
    for agent in &agents {
        let once = [Told::Prepare, Told::Suspend, Told::Release];
        assert_eq!(agent.told(), [once, once].concat());
    }
}
