//! What a status says of writes is true at every moment, also of who never answers.

use super::*;
use crate::limits::{HOLD_GRACE, RELEASE_MARGIN, RELEASE_TIMEOUT, SILENCE_TIMEOUT};
use stillpoint_api::{MemberState, Retry};

fn condition(world: &World, kind: &str) -> (String, String) {
    let conditions = &world.statuses.last().unwrap().conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.message.clone())
}

fn state(world: &World, member: usize) -> MemberState {
    world.statuses.last().unwrap().members[member].state
}

/// Two members are told to suspend; the first one holds, the second one says nothing.
fn half_silent(retry: Option<Retry>) -> World {
    let mut world = World::suspending(Mode::Replicate, 2);
    world.request.retry = retry;
    world.answer(0, ready(1));
    world.turn();
    world.pass(HOLD_TIMEOUT - RELEASE_MARGIN);
    world.turn();
    assert_eq!(world.verdict(), Some("NotReadyTogether"));
    world.answer(0, released(true));
    world.turn();
    world
}

/// Nobody waits for the answer to Release any more.
fn ended(retry: Option<Retry>) -> World {
    let mut world = half_silent(retry);
    while world.run.phase() == Phase::Checking {
        world.pass(world.wake_at.unwrap() - world.now.monotonic);
        world.turn();
    }
    world
}

#[test]
fn who_was_silent_is_named() {
    let world = half_silent(None);
    let message = &world.run.verdict.as_ref().unwrap().message;
    assert!(message.contains("data-1: the agent of pod db-1 did not answer"), "{message}");
    let (blocked, message) = condition(&world, "Blocked");
    assert!(blocked == "True" && message.contains("db-1"), "{blocked} {message}");
    assert_eq!(condition(&world, "WritesSuspended").0, "True", "it may be suspended, and the run waits for it");
}

#[test]
fn of_who_never_answers_nothing_is_said_that_is_not_known() {
    let mut world = ended(None);
    assert_eq!((world.run.phase(), world.run.stage.clone()), (Phase::Aborted, Stage::Listening));
    assert_eq!((state(&world, 0), state(&world, 1)), (MemberState::Released, MemberState::Silent));
    let (status, message) = condition(&world, "WritesSuspended");
    assert_eq!(status, "Unknown");
    assert!(message.contains("the agent of pod db-1 has not answered") && message.contains("since 1970-"), "{message}");
    let (_, message) = condition(&world, "Ready");
    assert!(!message.contains("writes go on") && message.contains("it is not known"), "{message}");
    let hold = world.statuses.last().unwrap().hold.clone().unwrap();
    assert_eq!((hold.ended_at, hold.duration), (None, None), "it may last");

    world.pass(SILENCE_TIMEOUT);
    world.turn();
    assert_eq!((world.run.phase(), world.run.stage.clone()), (Phase::Aborted, Stage::Ended));
    assert_eq!(condition(&world, "WritesSuspended").0, "Unknown", "waiting less does not mean knowing more");
}

#[test]
fn the_status_settles_when_the_silent_answers_after_the_end() {
    let mut world = ended(None);
    world.lose(1);
    world.turn();
    world.observed.connected.insert(agent(1));
    world.pass(Duration::from_secs(50));
    world.turn();
    assert_eq!(world.last_command(1), Some(Command::Release), "it is told again when it is back");
    let late = AnswerContent::Released { unbroken: false, reason: String::new(), suspended: Duration::from_secs(53) };
    world.answer(1, late);
    world.turn();
    assert_eq!((world.run.phase(), world.run.stage.clone()), (Phase::Aborted, Stage::Ended));
    assert_eq!(condition(&world, "WritesSuspended"), ("False".into(), "writes go on".into()));
    assert!(condition(&world, "Ready").1.ends_with("Nothing was cut and writes go on."));
    assert_eq!(state(&world, 1), MemberState::NotReady);
    let status = world.statuses.last().unwrap();
    let longest = status.longest_suspension.clone().unwrap();
    assert_eq!((&*longest.persistent_volume_claim, longest.attempt), ("data-1", 1));
    assert_eq!(longest.duration, Some(Duration::from_secs(53).into()));
    assert!(status.hold.as_ref().unwrap().ended_at.is_some(), "now it is known");
}

#[test]
fn who_held_and_is_lost_is_known_to_go_on_when_its_limit_is_over() {
    let mut world = World::suspending(Mode::Replicate, 2);
    world.answer(0, ready(1));
    world.turn();
    world.lose(0);
    world.turn();
    world.answer(1, released(false));
    world.pass(RELEASE_TIMEOUT);
    world.turn();
    assert_eq!((world.verdict(), world.run.phase()), (Some("AgentLost"), Phase::Aborted));
    assert_eq!((condition(&world, "WritesSuspended").0.as_str(), state(&world, 0)), ("True", MemberState::Releasing));
    assert!(!condition(&world, "Ready").1.contains("and writes go on"), "{:?}", condition(&world, "Ready"));
    world.pass(HOLD_TIMEOUT + HOLD_GRACE - RELEASE_TIMEOUT);
    world.turn();
    assert_eq!((condition(&world, "WritesSuspended").0.as_str(), state(&world, 0)), ("False", MemberState::Broken));
    assert_eq!(world.run.stage, Stage::Ended);
}

#[test]
fn a_member_that_was_asked_to_prepare_only_goes_on() {
    let mut world = World::preparing(Mode::Replicate, 2, 0);
    world.answer(1, not_ready(0, false));
    world.turn();
    world.answer(1, released(false));
    world.turn();
    assert_eq!(condition(&world, "WritesSuspended").0, "False");
    world.pass(RELEASE_TIMEOUT);
    world.turn();
    assert_eq!((world.run.stage.clone(), state(&world, 0)), (Stage::Ended, MemberState::Silent));
    assert_eq!(condition(&world, "WritesSuspended").0, "False");
}

#[test]
fn what_may_have_waited_in_the_kernel_is_not_asked_for_again() {
    let retry = Some(Retry { limit: 3, cool_down: Duration::from_secs(2).into() });
    let refusing = |reason: &str, message: &str, suspended: u64| {
        let mut world = World::suspending(Mode::Replicate, 2);
        world.request.retry = retry;
        let blockers = vec![Blocker { reason: reason.into(), message: message.into(), ..Blocker::default() }];
        let suspended = Duration::from_secs(suspended);
        world.answer(1, AnswerContent::NotReady { round: 1, retryable: false, blockers, more: 0, suspended });
        world.turn();
        world.settle();
        world
    };
    for (name, world, retried) in [
        ("slow to suspend", refusing("SuspensionPending", "suspending writes was given up after 5s", 0), false),
        ("slow to flush", refusing("TooSlow", "writing dirty pages back did not end within 30s", 0), true),
        ("longer than the limit", refusing("TooSlow", "the look for locks did not end", 53), false),
        ("silent", ended(retry), false),
    ] {
        assert_eq!(world.run.phase() == Phase::Pending, retried, "{name}");
        assert_eq!(world.run.next_attempt.is_some(), retried, "{name}");
        let message = condition(&world, "Ready").1;
        assert_eq!(message.contains("No other attempt follows by itself: "), !retried, "{name}: {message}");
    }
}

#[test]
fn the_longest_suspension_of_all_attempts_stays_in_view() {
    let mut world = World::suspending(Mode::Replicate, 2);
    world.request.retry = Some(Retry::default());
    let suspended = Duration::from_secs(7);
    let refused = AnswerContent::NotReady { round: 1, retryable: false, blockers: Vec::new(), more: 0, suspended };
    world.answer(1, refused);
    world.turn();
    world.settle();
    assert_eq!(world.run.phase(), Phase::Pending);
    let before = world.statuses.last().unwrap().clone();
    assert_eq!(before.members[1].suspended_for, Some(suspended.into()), "a later Released tells of no other");
    let mut second = World::new(Mode::Replicate, 2, 0);
    second.run = Run::new(second.run.members, before, second.now);
    second.observed.recorded = true;
    for content in [prepared(), ready(1), released(true)] {
        second.turn();
        for member in 0..2 {
            second.answer(member, content.clone());
        }
    }
    second.turn();
    let longest = second.statuses.last().unwrap().longest_suspension.clone().unwrap();
    assert_eq!((&*longest.persistent_volume_claim, longest.attempt), ("data-1", 1));
    assert_eq!(longest.duration, Some(suspended.into()));
}
