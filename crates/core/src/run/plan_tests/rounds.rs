//! Members wait well: rounds go on until the time is up, stall nobody for long, and restarts cost none.

use super::*;
use crate::limits::{ROUND_PAUSE_MAX, ROUND_REST};

const TEN_MINUTES: Duration = Duration::from_secs(600);

fn refused(round: u32, suspended: Duration) -> AnswerContent {
    AnswerContent::NotReady { round, retryable: true, blockers: vec![blocker("LockHeld")], more: 0, suspended }
}

fn let_go() -> AnswerContent {
    AnswerContent::Released { unbroken: false, reason: String::new(), suspended: Duration::ZERO }
}

fn preparing(members: usize) -> World {
    let mut world = World::new(Mode::Replicate, members, 0);
    world.request.prepare_timeout = TEN_MINUTES;
    world.observed.recorded = true;
    world.turn();
    world
}

fn all_prepared(world: &mut World) {
    for (member, agent) in world.agents() {
        world.say(member, agent, prepared());
    }
    world.turn();
    assert_eq!(world.run.stage, Stage::Suspending);
}

/// A member that was told to suspend refuses, everybody lets go, and the pause passes.
fn fail_round(world: &mut World, member: usize, suspended: Duration) {
    world.answer(member, refused(world.run.round, suspended));
    world.turn();
    for (member, agent) in world.agents() {
        world.say(member, agent, let_go());
    }
    world.turn();
    if let Some(wake_at) = world.wake_at {
        world.now.monotonic = wake_at;
        world.turn();
    }
}

#[test]
fn rounds_go_on_until_the_time_is_up() {
    let mut world = preparing(3);
    let began = world.now.monotonic;
    let stall = Duration::from_millis(60);
    let mut stalled = Duration::ZERO;
    while world.run.stage == Stage::Preparing {
        all_prepared(&mut world);
        let before = world.now.monotonic;
        world.pass(stall);
        stalled += stall;
        fail_round(&mut world, 1, stall);
        assert!(world.now.monotonic - before <= stall + ROUND_PAUSE_MAX, "pauses stay short");
    }
    world.settle();
    assert_eq!((world.run.phase(), world.verdict()), (Phase::Aborted, Some("LockHeld")));
    let lasted = world.now.monotonic - began;
    assert!(lasted + ROUND_PAUSE_MAX >= TEN_MINUTES, "given up after {lasted:?}");
    assert!(world.run.round > 200, "{} rounds", world.run.round);
    assert!(stalled * 10 <= lasted, "stalled for {stalled:?} of {lasted:?}");
}

#[test]
fn pauses_grow() {
    let mut world = preparing(1);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        all_prepared(&mut world);
        let before = world.now.monotonic;
        fail_round(&mut world, 0, Duration::ZERO);
        pauses.push((world.now.monotonic - before).as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
}

#[test]
fn after_a_round_writes_go_on_for_nine_times_the_longest_suspension() {
    for (refused_after, held_for) in [(3_000, 0), (0, 3_000)] {
        let mut world = preparing(2);
        all_prepared(&mut world);
        world.answer(0, ready(1));
        world.turn();
        world.pass(Duration::from_secs(3));
        world.answer(1, refused(1, Duration::from_millis(refused_after)));
        world.turn();
        world.answer(1, let_go());
        let suspended = Duration::from_millis(held_for);
        world.answer(0, AnswerContent::Released { unbroken: true, reason: String::new(), suspended });
        let resumed = world.now.monotonic;
        world.turn();
        let rest = Duration::from_secs(3) * ROUND_REST;
        assert_eq!(world.wake_at, Some(resumed + rest));
        world.pass(rest);
        world.turn();
        assert_eq!((world.run.stage.clone(), world.run.round), (Stage::Preparing, 2));
    }
}

#[test]
fn a_rest_that_does_not_fit_into_the_time_ends_the_attempt_at_once() {
    let mut world = preparing(1);
    all_prepared(&mut world);
    world.pass(TEN_MINUTES - Duration::from_secs(20));
    fail_round(&mut world, 0, Duration::from_secs(5));
    world.settle();
    assert_eq!((world.run.phase(), world.verdict()), (Phase::Aborted, Some("LockHeld")));
}

#[test]
fn who_refused_goes_first_and_nobody_else_is_stalled_for_it() {
    let mut world = preparing(3);
    all_prepared(&mut world);
    fail_round(&mut world, 1, Duration::ZERO);
    world.sent.clear();
    all_prepared(&mut world);
    let suspends = |world: &World| {
        let suspends = world.sent.iter().filter(|(_, command)| *command == Command::Suspend);
        suspends.map(|(member, _)| *member).collect::<Vec<_>>()
    };
    assert_eq!(suspends(&world), [1]);
    fail_round(&mut world, 1, Duration::ZERO);
    all_prepared(&mut world);
    assert_eq!(suspends(&world), [1, 1], "nobody was stalled in vain");
    world.answer(1, ready(3));
    world.turn();
    assert_eq!((suspends(&world), world.cuts), (vec![1, 1, 0, 2], 0));
    world.answer(0, ready(3));
    world.answer(2, ready(3));
    world.turn();
    assert_eq!((world.run.stage.clone(), world.cuts), (Stage::Cutting, 1));
}

#[test]
fn who_is_not_prepared_any_more_ends_the_round_of_those_that_go_first() {
    let falls_back: [fn(&mut World); 3] = [
        |world| world.answer(0, waiting()),
        |world| world.lose(0),
        |world| world.observed.pods.get_mut(&pod_uid(0)).unwrap().containers[0].id.push('x'),
    ];
    for happens in falls_back {
        let mut world = preparing(2);
        all_prepared(&mut world);
        fail_round(&mut world, 1, Duration::ZERO);
        all_prepared(&mut world);
        happens(&mut world);
        world.turn();
        assert!(matches!(world.run.stage, Stage::Pausing { .. }), "{:?}", world.run.stage);
        assert_eq!(world.last_command(1), Some(Command::Release));
    }
}

fn restart(world: &mut World, member: usize) {
    let pod = world.observed.pods.get_mut(&pod_uid(member)).unwrap();
    pod.containers[0].id.push('x');
    *pod.restarts.entry("db".into()).or_default() += 1;
}

#[test]
fn a_restart_costs_no_round_and_the_others_wait_prepared() {
    let mut world = preparing(2);
    restart(&mut world, 0);
    world.run.pauses = crate::pauses::Pauses::between(TEN_MINUTES, TEN_MINUTES);
    world.answer(1, prepared());
    for restarts in 1..20 {
        world.answer(0, prepared());
        world.turn();
        assert_eq!((world.run.stage.clone(), world.last_command(0)), (Stage::Preparing, Some(Command::Release)));
        world.answer(0, let_go());
        world.turn();
        assert_eq!(world.last_command(0), Some(Command::Prepare), "of the containers as they are now");
        let named = world.run.members[0].blockers().any(|blocker| blocker.container.as_deref() == Some("db"));
        assert_eq!(named, restarts >= 2, "after {restarts} restarts");
        restart(&mut world, 0);
    }
    assert_eq!((world.run.round, world.last_command(1)), (1, Some(Command::Prepare)));
    let conditions = &world.statuses.last().unwrap().conditions;
    let blocked = conditions.iter().find(|condition| condition.type_ == "Blocked").unwrap();
    assert_eq!(blocked.reason, "ContainerRestarts");
    assert!(blocked.message.contains("container db of pod db-0"), "{}", blocked.message);
}
