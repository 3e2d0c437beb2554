#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::facts::AgentMount;
use super::super::fixtures;
use super::super::observed::Observed;
use super::super::plan::{Step, plan};
use super::*;
use crate::api::{ClaimReference, Consistency, ReplicaStatus, Retry};

fn request() -> Request {
    Request { epoch: 2, ..fixtures::request() }
}

fn status(phase: Phase) -> ReplicationStatus {
    let member = Member::new(ClaimReference { name: "data".into(), uid: "claim".into() }, String::new(), None);
    let mut status = super::super::report::render(
        &request(),
        &Run::new(vec![member], ReplicationStatus::default(), now()),
        &Observed::default(),
        now(),
    );
    status.phase = Some(phase);
    status.members[0].pod = Some("db".into());
    status.members[0].state = MemberState::Ready;
    status
}

fn now() -> Moment {
    Moment { monotonic: Duration::from_secs(100), wall: Timestamp::UNIX_EPOCH }
}

/// The world as a new controller finds it: the pod is there and its agent is connected.
fn found() -> Observed {
    let mount = AgentMount { path: "/data".into(), sub_path: false };
    let pod = PodFacts {
        name: "db".into(),
        uid: "pod".into(),
        claims: ["data".into()].into(),
        has_agent: true,
        agent_mounts: [("data".into(), mount)].into(),
        running: true,
        ..PodFacts::default()
    };
    let mut observed = Observed { watching: true, ..Observed::default() };
    observed.pods.insert("pod".into(), pod);
    observed.connected.insert("pod".into());
    observed
}

#[test]
fn a_hold_that_was_not_proven_is_void() {
    for (phase, left_behind, end) in [
        (Phase::Checking, 0, Phase::Aborted),
        // Phases are written behind the hold, so a cut may be there already.
        (Phase::Checking, 1, Phase::Failed),
        (Phase::Ready, 0, Phase::Aborted),
        (Phase::Replicating, 0, Phase::Failed),
    ] {
        let mut observed = found();
        let run = resume(&request(), &status(phase), &observed.pods, now());
        let first = plan(&request(), &run, &observed, now());
        let releases = first
            .steps
            .iter()
            .filter(|step| matches!(step, Step::Send { command: Command::Release, pod_uid, .. } if pod_uid == "pod"));
        assert_eq!(releases.count(), 1, "{phase:?}: what was asked is released");
        assert!(
            first.steps.iter().any(|step| matches!(step, Step::DeleteReplicas(_))),
            "{phase:?}: what was cut is void"
        );
        observed.deleted_replicas = Some(left_behind);
        let later = Moment { monotonic: now().monotonic + crate::limits::RELEASE_TIMEOUT, ..now() };
        let last = plan(&request(), &first.run, &observed, later);
        assert_eq!(last.run.phase(), end, "{phase:?}");
        assert_eq!(last.run.verdict.unwrap().reason, "ControllerRestarted");
    }
}

#[test]
fn a_change_of_the_leader_costs_an_attempt_and_no_more() {
    let request = Request { retry: Some(Retry::default()), ..request() };
    for (left_behind, end) in [(0, Phase::Pending), (1, Phase::Failed)] {
        let mut observed = found();
        let run = resume(&request, &status(Phase::Checking), &observed.pods, now());
        let run = plan(&request, &run, &observed, now()).run;
        observed.deleted_replicas = Some(left_behind);
        let later = Moment { monotonic: now().monotonic + crate::limits::RELEASE_TIMEOUT, ..now() };
        let run = plan(&request, &run, &observed, later).run;
        assert_eq!((run.phase(), run.attempt), (end, 1), "a fresh attempt only if nothing was cut");
        assert_eq!(run.next_attempt.is_some(), end == Phase::Pending);
    }
}

#[test]
fn only_an_attempt_that_was_begun_is_taken_up() {
    let cooling = ReplicationStatus { attempt: 1, phase: Some(Phase::Pending), ..ReplicationStatus::default() };
    assert!(!is_under_way(&cooling) && !is_under_way(&ReplicationStatus::default()));
    for phase in [Phase::Checking, Phase::Ready, Phase::Replicating] {
        assert!(is_under_way(&status(phase)), "{phase:?}");
    }
    assert!(!is_under_way(&status(Phase::Done)));
}

#[test]
fn a_proven_cut_goes_on() {
    let mut status = status(Phase::Replicating);
    status.consistency = Some(Consistency::Crash);
    let name = snapshot_name("nightly", "uid", 1, "data", "claim");
    status.members[0].replica = Some(ReplicaStatus { volume_snapshot_name: name.clone(), ..ReplicaStatus::default() });
    let run = resume(&request(), &status, &found().pods, now());
    assert!(matches!(run.stage, Stage::AwaitingUsable { .. }));
    assert_eq!(run.members[0].replica_name, name);
    // Before the watch has listed, a snapshot that is not known is not missing.
    let plan = plan(&request(), &run, &Observed::default(), now());
    assert!(matches!(plan.run.stage, Stage::AwaitingUsable { .. }) && plan.steps.is_empty());
}

#[test]
fn a_pod_that_is_gone_stops_nothing() {
    let observed = Observed { watching: true, deleted_replicas: Some(0), ..Observed::default() };
    let run = resume(&request(), &status(Phase::Ready), &observed.pods, now());
    let plan = plan(&request(), &run, &observed, now());
    assert!(plan.run.phase().is_final() || matches!(plan.run.stage, Stage::Abandoning { .. }));
    let plan = super::super::plan::plan(&request(), &plan.run, &observed, now());
    assert!(plan.run.phase().is_final());
}
