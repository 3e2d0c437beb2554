//! Every stage against every answer and every mishap.

use super::*;
use crate::limits::{
    MAX_BLOCKERS, MAX_MEMBERS, MAX_MESSAGE_CHARS, MAX_PATH_CHARS, MAX_STATUS_BLOCKERS, MAX_WORD_CHARS, RELEASE_MARGIN,
    RELEASE_TIMEOUT,
};
use stillpoint_api::{Consistency, MemberState, Retry};

#[test]
fn a_group_is_cut_phase_by_phase() {
    let mut world = World::awaiting(3);
    assert_eq!(world.phases(), [Phase::Checking, Phase::Ready, Phase::Replicating]);
    let status = world.statuses.last().unwrap();
    assert_eq!((status.consistency, status.ready_to_use), (Some(Consistency::Crash), false));
    assert_eq!(status.hold.as_ref().unwrap().ended_at.as_ref().unwrap().0, world.now.wall);
    for member in 0..3 {
        world.snapshot(member, cut(true));
        world.turn();
    }
    assert_eq!(world.run.stage, Stage::Ended);
    assert_eq!(world.phases(), [Phase::Checking, Phase::Ready, Phase::Replicating, Phase::Done]);
    let shown: Vec<Phase> = world.statuses.iter().filter_map(|status| status.phase).collect();
    for phase in world.phases() {
        assert!(shown.contains(&phase), "{phase:?} has a status of its own");
    }
    let status = world.statuses.last().unwrap();
    assert!(status.ready_to_use);
    assert_eq!(status.ready_members.as_deref(), Some("3/3"));
    let condition = |kind: &str| status.conditions.iter().find(|one| one.type_ == kind).unwrap().status.clone();
    assert_eq!(
        (condition("Ready"), condition("Reconciling"), condition("Stalled")),
        ("True".into(), "False".into(), "False".into())
    );
    assert_eq!((condition("WritesSuspended"), condition("Consistent")), ("False".into(), "True".into()));
}

#[test]
fn who_waits_for_the_list_of_pods_alone_waits_for_no_time_that_is_past() {
    let mut world = World::preparing(Mode::Check, 1, 1);
    world.answer(0, prepared());
    world.turn();
    world.answer(0, ready(1));
    world.turn();
    world.observed.rechecked = false;
    world.answer(0, released(true));
    world.pass(RELEASE_TIMEOUT);
    world.turn();
    assert!(matches!(world.run.stage, Stage::Releasing { .. }));
    assert!(world.wake_at.is_none_or(|at| at > world.now.monotonic), "it would turn without a pause");
}

#[test]
fn a_check_keeps_nothing() {
    let mut world = World::suspending(Mode::Check, 2);
    for member in 0..2 {
        world.answer(member, ready(1));
        world.turn();
    }
    assert_eq!(world.last_command(0), Some(Command::Release));
    for member in 0..2 {
        world.answer(member, released(true));
        world.turn();
    }
    assert_eq!((world.phases(), world.cuts), (vec![Phase::Checking, Phase::Ready, Phase::Done], 0));
    assert_eq!(world.statuses.last().unwrap().consistency, None);
}

/// A limit that a spec sets.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// One mishap at one stage, and how the run must end.
struct Case {
    name: &'static str,
    world: fn() -> World,
    happens: fn(&mut World),
    ends: (Phase, &'static str),
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table, one line for each mishap")]
fn every_mishap_ends_with_everything_given_back() {
    let preparing = || World::preparing(Mode::Replicate, 2, 0);
    let suspending = || World::suspending(Mode::Replicate, 2);
    let half_ready = || {
        let mut world = World::suspending(Mode::Replicate, 2);
        world.answer(0, ready(1));
        world.turn();
        world
    };
    let (cutting, releasing, awaiting) = (|| World::cutting(2), || World::releasing(2), || World::awaiting(2));
    let unmounted = || {
        let mut world = World::preparing(Mode::Replicate, 1, 1);
        world.answer(0, prepared());
        world.turn();
        world
    };
    let pod_gone: fn(&mut World) = |world| drop(world.observed.pods.remove(&pod_uid(1)));
    let claim_gone: fn(&mut World) = |world| drop(world.observed.claims.remove(&claim_uid(1)));
    let deleted: fn(&mut World) = |world| world.observed.deleted = true;
    let lost: fn(&mut World) = |world| world.lose(1);
    let cut_off: fn(&mut World) = |world| world.observed.cut_off = Some("stopping".into());
    let aborted = |reason| (Phase::Aborted, reason);
    let failed = |reason| (Phase::Failed, reason);
    #[rustfmt::skip]
    let cases = [
        Case { name: "prepare: refused for good", world: preparing, happens: |w| w.answer(1, not_ready(0, false)), ends: aborted("MissingCapability") },
        Case { name: "prepare: waits too long", world: preparing, happens: |w| { w.answer(0, prepared()); w.answer(1, waiting()); w.turn(); w.pass(PREPARE_TIMEOUT); }, ends: aborted("LockHeld") },
        Case { name: "prepare: silent", world: preparing, happens: |w| w.pass(PREPARE_TIMEOUT), ends: aborted("AgentSilent") },
        Case { name: "prepare: lost", world: preparing, happens: |w| { w.lose(1); w.turn(); w.pass(PREPARE_TIMEOUT); }, ends: aborted("AgentSilent") },
        Case { name: "prepare: pod gone", world: preparing, happens: pod_gone, ends: aborted("PodChanged") },
        Case { name: "prepare: claim gone", world: preparing, happens: claim_gone, ends: aborted("ClaimDeleted") },
        Case { name: "prepare: deleted", world: preparing, happens: deleted, ends: aborted("Deleted") },
        Case { name: "prepare: cut off", world: preparing, happens: cut_off, ends: aborted("ControllerInterrupted") },
        Case { name: "suspend: refused for good", world: half_ready, happens: |w| w.answer(1, not_ready(1, false)), ends: aborted("MissingCapability") },
        Case { name: "suspend: silent", world: suspending, happens: |w| w.pass(PREPARE_TIMEOUT), ends: aborted("AgentSilent") },
        Case { name: "suspend: one silent", world: half_ready, happens: |w| w.pass(HOLD_TIMEOUT - RELEASE_MARGIN), ends: aborted("NotReadyTogether") },
        Case { name: "suspend: lost", world: half_ready, happens: lost, ends: aborted("AgentLost") },
        Case { name: "suspend: lapsed", world: half_ready, happens: |w| w.answer(0, released(false)), ends: aborted("HoldBroken") },
        Case { name: "suspend: pod gone", world: half_ready, happens: pod_gone, ends: aborted("PodChanged") },
        Case { name: "suspend: claim gone", world: half_ready, happens: claim_gone, ends: aborted("ClaimDeleted") },
        Case { name: "suspend: deleted", world: half_ready, happens: deleted, ends: aborted("Deleted") },
        Case { name: "suspend: another pod mounts", world: half_ready, happens: |w| drop(w.observed.pods.insert("new".into(), PodFacts { claims: ["data-1".into()].into(), ..PodFacts::default() })), ends: aborted("MountedByMorePods") },
        Case { name: "suspend: unmounted is mounted", world: unmounted, happens: |w| drop(w.observed.pods.insert("new".into(), PodFacts { claims: ["data-1".into()].into(), ..PodFacts::default() })), ends: aborted("MountedMeanwhile") },
        Case { name: "cut: refused", world: cutting, happens: |w| w.not_made(1, NotMade::Refused("quota".into())), ends: failed("SnapshotFailed") },
        Case { name: "cut: error to the end", world: cutting, happens: |w| { w.created(1); w.snapshot(1, snapshot_error()); w.turn(); w.pass(HOLD_TIMEOUT - RELEASE_MARGIN); }, ends: failed("SnapshotFailed") },
        Case { name: "cut: no answer to the end", world: cutting, happens: |w| { w.created(0); w.snapshot(0, cut(true)); w.not_made(1, NotMade::Unknown("no answer".into())); w.turn(); w.pass(HOLD_TIMEOUT - RELEASE_MARGIN); }, ends: failed("SnapshotFailed") },
        Case { name: "cut: too slow", world: cutting, happens: |w| { w.created(0); w.snapshot(0, cut(true)); w.turn(); w.pass(HOLD_TIMEOUT - RELEASE_MARGIN); }, ends: failed("CutTimeout") },
        Case { name: "cut: noticed, and too slow", world: cutting, happens: |w| { w.created(0); w.snapshot(1, noticed()); w.turn(); w.pass(HOLD_TIMEOUT - RELEASE_MARGIN); }, ends: failed("CutTimeout") },
        Case { name: "cut: not noticed", world: cutting, happens: |w| { w.created(0); w.created(1); w.turn(); w.pass(HOLD_TIMEOUT - RELEASE_MARGIN); }, ends: failed("ReplicaNotNoticed") },
        Case { name: "cut: from before", world: cutting, happens: |w| { w.created(0); w.snapshot(0, cut_at(-301)); }, ends: failed("ReplicaTooOld") },
        Case { name: "cut: replica gone", world: cutting, happens: |w| { w.created(0); w.observed.vanished.insert(fixtures::replica(&w.run.members[0])); }, ends: failed("ReplicaDeleted") },
        Case { name: "cut: another's replica", world: cutting, happens: |w| { w.snapshot(0, cut(true)); w.another_asked(0); }, ends: failed("SnapshotFailed") },
        Case { name: "cut: lost", world: cutting, happens: lost, ends: failed("AgentLost") },
        Case { name: "cut: lapsed", world: cutting, happens: |w| w.answer(0, released(false)), ends: failed("HoldBroken") },
        Case { name: "cut: pod gone", world: cutting, happens: pod_gone, ends: failed("PodChanged") },
        Case { name: "cut: claim gone", world: cutting, happens: claim_gone, ends: failed("ClaimDeleted") },
        Case { name: "cut: deleted", world: cutting, happens: deleted, ends: failed("Deleted") },
        Case { name: "cut: cut off", world: cutting, happens: cut_off, ends: failed("ControllerInterrupted") },
        Case { name: "release: broken", world: releasing, happens: |w| { w.answer(0, released(true)); w.answer(1, released(false)); }, ends: failed("HoldBroken") },
        Case { name: "release: lost", world: releasing, happens: lost, ends: failed("HoldBroken") },
        Case { name: "release: silent", world: releasing, happens: |w| w.pass(RELEASE_TIMEOUT), ends: failed("HoldBroken") },
        Case { name: "release: another pod mounts", world: releasing, happens: |w| { w.answer(0, released(true)); w.answer(1, released(true)); w.observed.pods.insert("new".into(), PodFacts { name: "new".into(), claims: ["data-1".into()].into(), ..PodFacts::default() }); }, ends: failed("MountedByMorePods") },
        Case { name: "release: deleted", world: releasing, happens: deleted, ends: failed("Deleted") },
        Case { name: "usable: deleted", world: awaiting, happens: deleted, ends: failed("Deleted") },
        Case { name: "usable: replica gone", world: awaiting, happens: |w| w.observed.replicas.clear(), ends: failed("ReplicaDeleted") },
        Case { name: "usable: never", world: awaiting, happens: |w| { w.request.wishes.ready_timeout = Some(READY_TIMEOUT); w.pass(READY_TIMEOUT); }, ends: failed("ReplicaNotUsable") },
    ];
    for Case { name, world, happens, ends } in cases {
        let mut world = world();
        happens(&mut world);
        world.turn();
        assert!(matches!(world.run.stage, Stage::Abandoning { .. } | Stage::Ended), "{name}: {:?}", world.run.stage);
        assert_eq!(world.verdict(), Some(ends.1), "{name}");
        world.settle();
        assert_eq!((world.run.stage.clone(), world.run.phase()), (Stage::Ended, ends.0), "{name}");
        for member in world.mounted() {
            let last = world.last_command(member);
            assert!(
                matches!(last, None | Some(Command::Release)),
                "{name}: {member} was asked and not released: {last:?}"
            );
        }
        assert_eq!(world.deletions > 0, ends.0 == Phase::Failed, "{name}: replicas are removed if any was asked for");
        let status = world.statuses.last().unwrap();
        assert!(status.members.iter().all(|member| member.replica.is_none()), "{name}");
        assert_eq!(status.consistency, None, "{name}");
        let ready = status.conditions.iter().find(|one| one.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", ends.1), "{name}");
    }
}

#[test]
fn an_aborted_attempt_is_followed_by_another_one_within_the_limit() {
    let retry = Some(Retry { limit: 1, cool_down: Duration::from_secs(30).into() });
    let blocked = |mut world: World| {
        world.request.retry = retry;
        world.observed.recorded = true;
        world.turn();
        world.answer(1, not_ready(0, false));
        world.turn();
        world.settle();
        world
    };
    let world = blocked(World::new(Mode::Replicate, 2, 0));
    let next = world.now.wall + Duration::from_secs(30);
    assert_eq!((world.run.stage.clone(), world.run.phase()), (Stage::Ended, Phase::Pending));
    assert_eq!((world.run.next_attempt, world.last_command(0)), (Some(next), Some(Command::Release)));
    let status = world.statuses.last().unwrap().clone();
    assert_eq!(status.next_attempt_at.as_ref().unwrap().0, next);
    assert_eq!(status.members[1].blockers[0].reason, "MissingCapability", "it stays in view");
    let condition = |kind: &str| {
        let found = status.conditions.iter().find(|one| one.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone())
    };
    let (ready, reason, message) = condition("Ready");
    assert_eq!((&*ready, &*reason), ("False", "MissingCapability"));
    assert!(
        message.starts_with("attempt 1 of 2 was aborted, the next one begins at 1970-01-01T00:00:30Z: "),
        "{message}"
    );
    assert_eq!((condition("Reconciling").1, condition("Stalled").0), ("CoolingDown".into(), "False".into()));

    let mut second = World::new(Mode::Replicate, 2, 0);
    second.run = Run::new(second.run.members, status, second.now);
    assert_eq!(
        (second.run.attempt, second.run.stage.clone()),
        (2, Stage::Declaring),
        "nobody hears of it before it is stored"
    );
    let second = blocked(second);
    assert_eq!((second.run.phase(), second.run.next_attempt), (Phase::Aborted, None), "the limit is reached");
    let ended = second.statuses.last().unwrap();
    let ready = ended.conditions.iter().find(|one| one.type_ == "Ready").unwrap();
    assert!(ready.message.starts_with("attempt 2 of 2 was aborted: "), "{}", ready.message);
    assert_eq!(
        second.phases(),
        [Phase::Checking, Phase::Pending, Phase::Checking, Phase::Aborted],
        "every attempt is in view"
    );
}

#[test]
fn what_failed_is_tried_again_when_nothing_of_it_is_left_and_another_hold_may_help() {
    let retry = Some(Retry::default());
    let lost: fn(&mut World) = |world| world.lose(1);
    let not_noticed: fn(&mut World) = |world| {
        world.created(0);
        world.created(1);
        world.pass(HOLD_TIMEOUT - RELEASE_MARGIN);
    };
    // The agent of a member was lost, and has not come back to say that writes go on.
    let away: fn(&mut World) = |world| {
        world.lose(1);
        world.unreachable.insert((1, 0));
    };
    let deleted: fn(&mut World) = |world| world.observed.deleted = true;
    let deleted_later: fn(&mut World) = |world| {
        world.lose(1);
        world.turn();
        world.observed.deleted = true;
    };
    for (name, mut world, happens, end) in [
        ("aborted", World::suspending(Mode::Replicate, 2), lost, Phase::Pending),
        ("cut", World::cutting(2), lost, Phase::Pending),
        ("cut, and deleted", World::cutting(2), deleted, Phase::Failed),
        ("cut, and nobody knows whether writes go on", World::cutting(2), away, Phase::Failed),
        ("cut, and not noticed", World::cutting(2), not_noticed, Phase::Failed),
        ("usable: replica gone", World::awaiting(2), |world| world.observed.replicas.clear(), Phase::Pending),
        ("deleted", World::suspending(Mode::Replicate, 2), deleted, Phase::Aborted),
        ("deleted while it ends", World::suspending(Mode::Replicate, 2), deleted_later, Phase::Aborted),
    ] {
        world.request.retry = retry;
        happens(&mut world);
        world.turn();
        if world.unreachable.is_empty() {
            world.settle();
        } else {
            world.observed.open_creations.clear();
            world.turn();
            world.observed.removed = Some(crate::replica::removal::Removed { found: 2, left: Vec::new() });
            world.turn();
            assert!(matches!(world.run.stage, Stage::Abandoning { .. }), "{name}");
            world.pass(RELEASE_TIMEOUT);
            world.turn();
        }
        assert_eq!(world.run.phase(), end, "{name}");
        if end == Phase::Pending && world.cuts > 0 {
            let message = shown(&world);
            assert!(message.starts_with("attempt 1 of 3 failed, the next one begins at "), "{name}: {message}");
            assert!(message.ends_with("The cut is void, its replicas were removed and writes go on."), "{message}");
        }
    }
}

#[test]
fn a_proven_cut_is_kept_however_long_it_takes_to_become_usable() {
    let mut world = World::awaiting(2);
    world.snapshot(0, cut(true));
    world.pass(Duration::from_secs(7 * 86_400));
    world.turn();
    assert!(matches!(world.run.stage, Stage::AwaitingUsable { .. }), "{:?}", world.run.stage);
    assert_eq!(world.wake_at, None, "nothing is to be done by itself");
    assert!(shown(&world).contains("since 1970-01-01T00:00:00Z (1 of 2 are)"), "{}", shown(&world));
    world.snapshot(1, cut(true));
    world.turn();
    assert_eq!(world.run.phase(), Phase::Done);
}

#[test]
fn the_proof_is_written_onto_the_replicas_once_it_is_stored_and_not_before() {
    let mut world = World::releasing(2);
    let plan_of = |world: &World| plan(&world.request, &world.run, &world.observed, world.now);
    world.answer(0, released(true));
    world.turn();
    world.answer(1, released(true));
    let proven = plan_of(&world);
    assert!(proven.run.proven && !proven.steps.iter().any(|step| matches!(step, Step::Mark(_))), "it is not stored");
    world.run = proven.run;
    world.observed.proof_stored = true;
    let marked = plan_of(&world);
    let [Step::Mark(marks)] = marked.steps.as_slice() else { panic!("{:?}", marked.steps) };
    assert_eq!(marks.len(), 2);
    let annotations: BTreeMap<_, _> = marks[0].annotations.iter().cloned().collect();
    let expected = [
        ("stillpoint.io/consistency", "Crash"),
        ("stillpoint.io/cut-confirmed-at", "1970-01-01T00:00:00.000000Z"),
        ("stillpoint.io/hold-started-at", "1970-01-01T00:00:00.000000Z"),
        ("stillpoint.io/members", "2"),
        ("stillpoint.io/proven-at", "1970-01-01T00:00:00.000000Z"),
    ];
    assert_eq!(annotations, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    world.run = marked.run;
    for member in 0..2 {
        world.snapshot(member, cut(true));
    }
    world.turn();
    assert!(matches!(world.run.stage, Stage::AwaitingUsable { .. }), "Done says that the replicas carry it");
    world.observed.marked = Some(Err("not allowed".into()));
    world.turn();
    assert_eq!(world.run.phase(), Phase::Done);
    assert!(shown(&world).contains("could not be written onto them: not allowed"), "{}", shown(&world));
}

#[test]
fn what_does_not_matter_changes_nothing() {
    let mut world = World::awaiting(2);
    world.lose(0);
    world.observed.claims.clear();
    world.observed.pods.clear();
    world.observed.cut_off = Some("stopping".into());
    world.turn();
    assert!(matches!(world.run.stage, Stage::AwaitingUsable { .. }), "outside the hold agents are not needed");

    let mut world = World::suspending(Mode::Replicate, 2);
    world.answer(0, ready(7));
    world.answer(1, not_ready(0, false));
    world.turn();
    assert_eq!(world.run.stage, Stage::Suspending, "answers of other rounds say nothing");
    assert_eq!(world.run.members[0].state(), MemberState::Suspending);
}

#[test]
fn a_lock_that_goes_away_costs_a_round_and_nobody_waits_suspended() {
    let mut world = World::suspending(Mode::Replicate, 2);
    world.answer(0, ready(1));
    world.turn();
    world.answer(1, not_ready(1, true));
    world.turn();
    assert_eq!((world.last_command(0), world.last_command(1)), (Some(Command::Release), Some(Command::Release)));
    assert!(matches!(world.run.stage, Stage::Pausing { .. }));
    for member in 0..2 {
        world.answer(member, released(member == 0));
        world.turn();
    }
    assert!(matches!(world.run.stage, Stage::Pausing { .. }), "the pause is not over");
    world.pass(world.wake_at.unwrap() - world.now.monotonic);
    world.turn();
    assert_eq!((world.last_command(0), world.run.round), (Some(Command::Prepare), 2));
    for content in [prepared(), ready(2)] {
        for member in [1, 0] {
            world.answer(member, content.clone());
            world.turn();
        }
    }
    assert_eq!(world.run.stage, Stage::Cutting);
    assert_eq!(world.phases(), [Phase::Checking, Phase::Ready, Phase::Replicating]);
}

#[test]
fn an_agent_that_comes_late_or_back_is_asked() {
    let mut world = World::new(Mode::Replicate, 1, 0);
    world.observed.connected.clear();
    world.observed.recorded = true;
    world.turn();
    assert_eq!(world.sent, []);
    world.observed.connected.insert(agent(0));
    world.turn();
    world.lose(0);
    world.turn();
    world.observed.connected.insert(agent(0));
    world.turn();
    assert_eq!(world.sent, [(0, Command::Prepare), (0, Command::Prepare)]);
}

#[test]
fn an_agent_that_never_comes_is_blamed() {
    let mut world = World::new(Mode::Replicate, 1, 0);
    world.observed.connected.clear();
    world.observed.recorded = true;
    world.turn();
    world.pass(PREPARE_TIMEOUT);
    world.turn();
    assert_eq!((world.run.phase(), world.verdict()), (Phase::Aborted, Some("AgentNotConnected")));
}

#[test]
fn an_agent_whose_pod_cannot_find_the_controller_is_told_why() {
    let mut world = World::new(Mode::Replicate, 1, 0);
    world.observed.connected.clear();
    world.observed.recorded = true;
    world.observed.pods.values_mut().for_each(|pod| pod.node_dns = true);
    world.turn();
    world.pass(PREPARE_TIMEOUT);
    world.turn();
    let blocker = world.run.members[0].blockers().next().unwrap();
    assert!(blocker.message.contains("dnsPolicy: ClusterFirstWithHostNet"), "{}", blocker.message);
}

#[test]
fn a_claim_that_nobody_mounts_is_ready_by_itself_and_looked_at_again() {
    let mut world = World::new(Mode::Replicate, 0, 2);
    world.observed.recorded = true;
    world.turn();
    assert_eq!((world.run.stage.clone(), world.sent.len()), (Stage::Cutting, 0));
    for member in 0..2 {
        world.created(member);
        world.snapshot(member, cut(true));
    }
    let steps = world.turn();
    assert!(steps.iter().any(|step| matches!(step, Step::RecheckPods)));
    world.observed.pods.insert("new".into(), PodFacts { claims: ["data-1".into()].into(), ..PodFacts::default() });
    world.turn();
    assert_eq!(world.verdict(), Some("MountedMeanwhile"));
    world.settle();
    assert_eq!(world.run.phase(), Phase::Failed);
}

#[test]
fn a_release_that_did_not_arrive_is_sent_again() {
    let mut world = World::cutting(2);
    world.lose(1);
    world.turn();
    assert!(matches!(world.run.stage, Stage::Abandoning { .. }));
    let releases = |world: &World| world.sent.iter().filter(|sent| **sent == (1, Command::Release)).count();
    let before = releases(&world);
    world.observed.connected.insert(agent(1));
    world.turn();
    assert_eq!(releases(&world), before + 1);
}

/// The message of the condition `Ready`.
fn shown(world: &World) -> String {
    let conditions = &world.statuses.last().unwrap().conditions;
    conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message.clone()
}

#[test]
fn an_error_of_the_driver_is_shown_and_waited_out() {
    let mut world = World::cutting(2);
    world.created(0);
    world.snapshot(0, snapshot_error());
    world.created(1);
    world.snapshot(1, VolumeSnapshotStatus { error: snapshot_error().error, ..cut(false) });
    world.turn();
    assert_eq!(world.run.stage, Stage::Cutting);
    assert!(shown(&world).contains("replicas are being cut; ") && shown(&world).contains("no space"));
    world.snapshot(0, cut(false));
    world.turn();
    assert!(matches!(world.run.stage, Stage::Releasing { .. }), "a creationTime is a cut, whatever stands beside it");
}

#[test]
fn the_last_error_is_told_when_the_time_is_over() {
    let mut world = World::cutting(1);
    world.created(0);
    world.snapshot(0, snapshot_error());
    world.pass(HOLD_TIMEOUT - RELEASE_MARGIN);
    world.turn();
    let message = &world.run.verdict.as_ref().unwrap().message;
    assert!(message.contains("no space") && message.contains("1 of 1"), "{message}");
}

#[test]
fn what_nobody_took_notice_of_is_not_blamed_on_the_time() {
    let mut world = World::cutting(1);
    world.created(0);
    world.pass(HOLD_TIMEOUT - RELEASE_MARGIN);
    world.turn();
    let message = &world.run.verdict.as_ref().unwrap().message;
    assert!(message.contains("snapshot controller") && !message.contains("raise"), "{message}");
}

#[test]
fn a_creation_of_which_nothing_is_known_is_asked_for_again_with_growing_pauses() {
    let mut world = World::cutting(2);
    world.created(0);
    world.snapshot(0, cut(true));
    for pause in [100, 200, 400] {
        world.not_made(1, NotMade::Unknown("etcdserver: leader changed".into()));
        world.turn();
        assert_eq!(world.wake_at, Some(world.now.monotonic + Duration::from_millis(pause)));
        assert!(shown(&world).contains("leader changed"), "{}", shown(&world));
        let before = world.asked_again;
        world.pass(Duration::from_millis(pause));
        world.turn();
        assert_eq!((world.asked_again, world.cuts), (before + 1, 1), "the one, and nothing twice");
        world.turn();
        assert_eq!(world.asked_again, before + 1);
    }
    world.created(1);
    world.snapshot(1, cut(true));
    world.turn();
    assert!(matches!(world.run.stage, Stage::Releasing { .. }));
}

#[test]
fn what_was_made_without_an_answer_is_not_asked_for_again() {
    let mut world = World::cutting(1);
    world.not_made(0, NotMade::Unknown("no answer".into()));
    world.turn();
    world.created(0);
    world.pass(Duration::from_secs(1));
    world.turn();
    assert_eq!((world.asked_again, world.run.stage.clone()), (0, Stage::Cutting));
    assert!(world.wake_at > Some(world.now.monotonic), "for no pause that is over: {:?}", world.wake_at);
}

#[test]
fn clocks_of_storage_systems_may_differ() {
    for seconds in [-300, 0, 3_600] {
        let mut world = World::cutting(1);
        world.created(0);
        world.snapshot(0, cut_at(seconds));
        world.turn();
        assert!(matches!(world.run.stage, Stage::Releasing { .. }), "{seconds}");
    }
}

#[test]
fn a_driver_error_after_the_cut_is_shown_while_the_run_waits() {
    let mut world = World::awaiting(2);
    world.snapshot(1, VolumeSnapshotStatus { error: snapshot_error().error, ..cut(false) });
    world.turn();
    assert!(matches!(world.run.stage, Stage::AwaitingUsable { .. }));
    assert!(shown(&world).contains("no space"), "{}", shown(&world));
    world.snapshot(1, cut(false));
    world.turn();
    assert!(!shown(&world).contains("no space"), "{}", shown(&world));
}

#[test]
fn a_member_that_was_never_suspended_has_no_time_of_suspension() {
    let mut world = World::preparing(Mode::Replicate, 2, 0);
    world.answer(0, prepared());
    world.answer(1, not_ready(0, false));
    world.turn();
    let never = AnswerContent::Released { unbroken: false, reason: String::new(), suspended: Duration::ZERO };
    world.answer(0, never.clone());
    world.answer(1, never);
    world.turn();
    assert_eq!(world.phases().last(), Some(&Phase::Aborted));
    assert!(world.run.assignments().all(|(_, one)| one.released.is_some() && one.suspended_for.is_none()));
}

#[test]
fn a_status_stays_small_enough_to_be_stored_whatever_agents_say() {
    // What one blocker may be at the most: its texts are bounded where answers are taken in.
    let blocker = Blocker {
        reason: "R".repeat(MAX_WORD_CHARS),
        message: "\u{fffd}".repeat(MAX_MESSAGE_CHARS),
        path: Some("\u{fffd}".repeat(MAX_PATH_CHARS)),
        ..Blocker::default()
    };
    let mut world = World::preparing(Mode::Replicate, MAX_MEMBERS, 0);
    for member in 0..MAX_MEMBERS {
        world.answer(member, AnswerContent::Waiting { blockers: vec![blocker.clone(); MAX_BLOCKERS], more: 7 });
    }
    world.turn();
    let status = world.statuses.last().unwrap();
    let listed: usize = status.members.iter().map(|member| member.blockers.len()).sum();
    let counted: u32 = status.members.iter().map(|member| member.more_blockers).sum();
    assert_eq!(listed, MAX_STATUS_BLOCKERS);
    assert_eq!(counted as usize, MAX_MEMBERS * (MAX_BLOCKERS + 7) - MAX_STATUS_BLOCKERS);
    // etcd takes 1.5 MiB by default.
    assert!(serde_json::to_vec(status).unwrap().len() < 1024 * 1024);
}

#[test]
fn no_round_begins_while_a_member_is_away_that_may_still_hold() {
    let mut world = World::suspending(Mode::Replicate, 2);
    world.answer(1, not_ready(1, true));
    world.turn();
    let let_go = AnswerContent::Released { unbroken: false, reason: String::new(), suspended: Duration::ZERO };
    world.answer(1, let_go.clone());
    world.lose(0);
    world.pass(Duration::from_secs(5));
    world.turn();
    assert!(matches!(world.run.stage, Stage::Pausing { .. }), "{:?}", world.run.stage);

    world.observed.connected.insert(agent(0));
    world.turn();
    assert_eq!(world.last_command(0), Some(Command::Release), "it is told again when it is back");
    world.answer(0, let_go);
    world.turn();
    assert_eq!((world.run.round, world.run.stage.clone()), (2, Stage::Preparing));
}

#[test]
fn what_is_proven_is_not_taken_back() {
    let mut world = World::awaiting(1);
    world.answer(0, released(false));
    world.snapshot(0, cut(true));
    world.turn();
    assert_eq!(world.run.phase(), Phase::Done);
    let status = world.statuses.last().unwrap();
    assert_eq!(status.members[0].state, MemberState::Released, "Done shows no broken member");
}
