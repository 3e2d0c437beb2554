#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::agents::{AgentKey, AssignmentKey};
use super::super::facts::AgentMount;
use super::super::fixtures;
use super::super::observed::{Answer, AnswerContent, Observed};
use super::super::plan::{Step, plan};
use super::*;
use crate::replica::removal::{Left, Removed};
use stillpoint_api::{ClaimReference, Consistency, ReplicaStatus, Retry};

fn request() -> Request {
    Request { epoch: 2, ..fixtures::request() }
}

fn status(phase: Phase) -> ReplicationStatus {
    let member = Member::new(ClaimReference { name: "data".into(), uid: "claim".into() }, Vec::new(), Vec::new());
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
    observed.connected.insert(AgentKey::of_pod("pod"));
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
        let run = resume(&request(), &status(phase), &observed.pods, &BTreeMap::new(), now());
        let first = plan(&request(), &run, &observed, now());
        let releases = first.steps.iter().filter(
            |step| matches!(step, Step::Send { command: Command::Release, to, .. } if to.agent.as_str() == "pod"),
        );
        assert_eq!(releases.count(), 1, "{phase:?}: what was asked is released");
        assert!(first.steps.iter().any(|step| matches!(step, Step::Remove(_))), "{phase:?}: what was cut is void");
        observed.removed = Some(Removed { found: left_behind, left: Vec::new() });
        let later = Moment { monotonic: now().monotonic + crate::limits::RELEASE_TIMEOUT, ..now() };
        let last = plan(&request(), &first.run, &observed, later);
        assert_eq!(last.run.phase(), end, "{phase:?}");
        assert_eq!(last.run.verdict.unwrap().reason, "ControllerRestarted");
    }
}

#[test]
fn a_change_of_the_leader_costs_an_attempt_and_no_more() {
    let request = Request { retry: Some(Retry::default()), ..request() };
    let kept = Left { what: "VolumeSnapshot one could not be deleted".into(), refused: true };
    for (found_replicas, left, end) in [
        (0, Vec::new(), Phase::Pending),
        (1, Vec::new(), Phase::Pending),
        (0, vec![kept.clone()], Phase::Failed),
        (1, vec![kept], Phase::Failed),
    ] {
        let mut observed = found();
        let run = resume(&request, &status(Phase::Checking), &observed.pods, &BTreeMap::new(), now());
        let run = plan(&request, &run, &observed, now()).run;
        let let_go = AnswerContent::Released { unbroken: false, reason: String::new(), suspended: Duration::ZERO };
        let agent = AssignmentKey::new("claim", AgentKey::of_pod("pod"));
        observed.answers.insert(agent, Answer { at: now(), content: let_go });
        observed.removed = Some(Removed { found: found_replicas, left });
        let later = Moment { monotonic: now().monotonic + crate::limits::RELEASE_TIMEOUT, ..now() };
        let run = plan(&request, &run, &observed, later).run;
        assert_eq!((run.phase(), run.attempt), (end, 1), "a fresh attempt only if nothing is left of this one");
        assert_eq!(run.next_attempt.is_some(), end == Phase::Pending);
        assert_eq!(run.not_retried.is_some(), end == Phase::Failed, "{:?}", run.not_retried);
        assert_eq!(run.cut_void, observed.removed.is_some_and(|it| it.found > 0 || !it.left.is_empty()));
    }
}

#[test]
fn who_does_not_answer_a_new_leader_may_still_suspend_and_is_not_asked_again() {
    let request = Request { retry: Some(Retry::default()), ..request() };
    let mut observed = found();
    let run = resume(&request, &status(Phase::Checking), &observed.pods, &BTreeMap::new(), now());
    let mut run = plan(&request, &run, &observed, now()).run;
    observed.removed = Some(Removed { found: 0, left: Vec::new() });
    for after in [crate::limits::RELEASE_TIMEOUT, request.hold_timeout + crate::limits::HOLD_GRACE] {
        assert_eq!(run.phase(), Phase::Checking, "a hold may last until its limit");
        run = plan(&request, &run, &observed, Moment { monotonic: now().monotonic + after, ..now() }).run;
    }
    assert_eq!((run.phase(), run.next_attempt, run.stage.clone()), (Phase::Aborted, None, Stage::Listening));
    assert!(run.not_retried.unwrap().contains("the agent of pod db"));
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
    status.members[0].replica =
        Some(ReplicaStatus { kind: "VolumeSnapshot".into(), name: "snapshot".into(), ..ReplicaStatus::default() });
    let run = resume(&request(), &status, &found().pods, &BTreeMap::new(), now());
    assert!(matches!(run.stage, Stage::AwaitingUsable { .. }));
    assert_eq!(run.members[0].replica, status.members[0].replica);
    // Before the watch has listed, a snapshot that is not known is not missing.
    let plan = plan(&request(), &run, &Observed::default(), now());
    assert!(matches!(plan.run.stage, Stage::AwaitingUsable { .. }) && plan.steps.is_empty());
}

#[test]
fn a_replica_that_an_earlier_version_stored_gets_its_kind_and_name() {
    let mut status = full();
    status["members"][0]["replica"] = json!({"volumeSnapshotName": "snapshot", "readyToUse": false});
    let run = resume(&request(), &serde_json::from_value(status).unwrap(), &found().pods, &BTreeMap::new(), now());
    let name = fixtures::replica(&run.members[0]);
    let mut observed = found();
    observed.replicas.insert(name.clone(), fixtures::snapshot(None));
    let plan = plan(&request(), &run, &observed, now());
    let replica = plan.statuses.last().unwrap().members[0].replica.clone().unwrap();
    assert_eq!((replica.kind, replica.name), (name.kind, name.name));
}

#[test]
fn a_pod_that_is_gone_stops_nothing() {
    let observed = Observed { watching: true, removed: Some(Removed::default()), ..Observed::default() };
    let run = resume(&request(), &status(Phase::Ready), &observed.pods, &BTreeMap::new(), now());
    let plan = plan(&request(), &run, &observed, now());
    assert!(plan.run.phase().is_final() || matches!(plan.run.stage, Stage::Abandoning { .. }));
    let plan = super::super::plan::plan(&request(), &plan.run, &observed, now());
    assert!(plan.run.phase().is_final());
}

/// A status with every field set.
fn full() -> Value {
    let at = "2026-01-01T00:00:00.000000Z";
    json!({
        "phase": "Replicating",
        "phases": [{"phase": "Checking", "startedAt": at}, {"phase": "Replicating", "startedAt": at}],
        "attempt": 1,
        "nextAttemptAt": at,
        "leaderEpoch": 7,
        "observedGeneration": 1,
        "readyToUse": false,
        "creationTime": at,
        "consistency": "Crash",
        "hold": {"startedAt": at, "endedAt": at, "duration": "216.8ms", "cutDuration": "80ms"},
        "readyMembers": "1/1",
        "members": [{
            "persistentVolumeClaim": {"name": "data", "uid": "claim"},
            "volume": "volume",
            "driver": "driver",
            "pod": "db",
            "node": "node",
            "state": "Released",
            "method": "FilesystemFreeze",
            "protection": "NodeGuardian",
            "blockers": [{
                "reason": "LockHeld",
                "message": "in the way",
                "pod": "db",
                "container": "postgres",
                "process": {"pid": 7, "name": "postgres"},
                "lock": {"type": "POSIX", "mode": "WRITE", "start": 0, "end": 9},
                "path": "x",
                "seenFor": "1s",
            }],
            "moreBlockers": 1,
            "readyAt": at,
            "releasedAt": at,
            "suspendedFor": "200ms",
            "replica": {
                "kind": "VolumeSnapshot", "name": "snapshot", "creationTime": at, "requestedAt": at, "cutAt": at, "cutTook": "80ms",
                "readyToUse": false,
            },
        }],
        "conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "Replicating", "message": "", "lastTransitionTime": at,
        }],
    })
}

/// Anything that may stand in a field.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop_oneof![
            Just("Pending"),
            Just("Checking"),
            Just("Ready"),
            Just("Replicating"),
            Just("Done"),
            Just("Failed"),
            Just("Crash"),
            Just("Unmounted"),
            Just("Broken"),
            Just("Suspending"),
            Just("1s-2s"),
            Just("-5s"),
            Just("99999999999999999999h"),
            Just("9999-12-31T23:59:59Z"),
            Just("-009999-01-01T00:00:00Z"),
            Just("0001-01-01T00:00:00Z"),
            Just("db"),
            Just("other"),
        ]
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ]
}

/// Puts `new` where `path` leads, from the top down, each number choosing among what is there.
fn replace(value: &mut Value, path: &[usize], new: Value) {
    let Some((choice, rest)) = path.split_first() else {
        *value = new;
        return;
    };
    let next = match value {
        Value::Object(fields) if !fields.is_empty() => {
            let choice = choice % fields.len();
            fields.values_mut().nth(choice)
        }
        Value::Array(items) if !items.is_empty() => {
            let choice = choice % items.len();
            items.get_mut(choice)
        }
        _ => None,
    };
    match next {
        Some(next) => replace(next, rest, new),
        None => *value = new,
    }
}

/// Takes a run up from a stored status, in a world where everything works, and turns it to its end.
fn turn_to_end(status: &ReplicationStatus) -> Result<Phase, TestCaseError> {
    let mut observed = found();
    observed.recorded = true;
    observed.proof_stored = status.consistency.is_some();
    let mut now = now();
    let mut run = resume(&request(), status, &observed.pods, &BTreeMap::new(), now);
    for member in &run.members {
        let snapshot = json!({
            "metadata": {},
            "spec": {"source": {}},
            "status": {"creationTime": "2026-01-01T00:00:00Z", "readyToUse": true},
        });
        observed.replicas.insert(fixtures::replica(member), serde_json::from_value(snapshot).unwrap());
    }
    for _ in 0..32 {
        let planned = plan(&request(), &run, &observed, now);
        for step in &planned.steps {
            match step {
                Step::Ask(_) => prop_assert!(false, "a run that is taken up cuts nothing"),
                Step::Send { command, to, .. } => {
                    prop_assert_eq!(*command, Command::Release, "a run that is taken up asks for nothing");
                    observed.asking(to);
                    let content = super::super::observed::AnswerContent::Released {
                        unbroken: true,
                        reason: String::new(),
                        suspended: Duration::ZERO,
                    };
                    observed.answers.insert(to.clone(), super::super::observed::Answer { at: now, content });
                }
                Step::Remove(_) => observed.removed = Some(Removed::default()),
                Step::Mark(_) => observed.marked = Some(Ok(())),
                Step::RecheckPods => observed.rechecked = true,
            }
        }
        for status in &planned.statuses {
            serde_json::to_string(status).unwrap();
        }
        run = planned.run;
        if run.stage == Stage::Ended {
            return Ok(run.phase());
        }
        now.monotonic = planned.wake_at.unwrap_or(now.monotonic);
    }
    Err(TestCaseError::fail(format!("it does not end: {:?}", run.stage)))
}

#[test]
fn the_full_status_is_a_status_and_leads_to_done() {
    let status: ReplicationStatus = serde_json::from_value(full()).unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap().as_object().unwrap().len(), full().as_object().unwrap().len());
    assert_eq!(turn_to_end(&status).unwrap(), Phase::Done);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A status that somebody has changed is refused as a whole, or is taken up: without a panic, to an end, and to `Done`
    /// only where the proof stands in it.
    #[test]
    fn a_changed_status_leads_to_no_false_done(
        changes in proptest::collection::vec((proptest::collection::vec(0..20_usize, 1..6), value()), 0..4),
        phase in prop_oneof![Just("Checking"), Just("Ready"), Just("Replicating")],
        proven: bool,
    ) {
        let mut changed = full();
        changed["phase"] = json!(phase);
        if !proven {
            changed["consistency"] = Value::Null;
        }
        for (path, new) in changes {
            replace(&mut changed, &path, new);
        }
        if let Ok(status) = serde_json::from_value::<ReplicationStatus>(changed) {
            let proven = status.phase == Some(Phase::Replicating) && status.consistency.is_some();
            let ended = turn_to_end(&status)?;
            prop_assert!(proven || ended != Phase::Done, "{:?}", status);
        }
    }
}
