//! Members with two agents: what holds for one holds for each.

use super::*;
use stillpoint_api::MemberState;

/// Two members, of which the first has two agents, at the point where everybody was told to suspend.
fn suspending() -> World {
    let mut world = World::with_agents(Mode::Replicate, &[2, 1]);
    world.observed.recorded = true;
    world.turn();
    for (member, agent) in world.agents() {
        assert_eq!(world.run.stage, Stage::Preparing, "all must have prepared");
        world.say(member, agent, prepared());
        world.turn();
    }
    assert_eq!(world.run.stage, Stage::Suspending);
    world
}

/// To the point where everybody was told to release, and nobody has answered.
fn releasing() -> World {
    let mut world = suspending();
    for (member, agent) in world.agents() {
        world.say(member, agent, ready(1));
    }
    world.turn();
    for member in 0..2 {
        world.created(member);
        world.snapshot(member, cut(true));
    }
    world.turn();
    assert!(matches!(world.run.stage, Stage::Releasing { .. }));
    world
}

fn all_released(world: &World) -> bool {
    world.agents().iter().all(|one| world.told.get(one) == Some(&Command::Release))
}

#[test]
fn a_member_is_ready_only_when_all_its_agents_are() {
    let mut world = suspending();
    world.say(1, 0, ready(1));
    world.say(0, 1, ready(1));
    world.turn();
    let shown = |world: &World| {
        let status = world.statuses.last().unwrap();
        (status.members[0].state, status.members[0].ready_at.is_some(), status.ready_members.clone().unwrap())
    };
    assert_eq!(world.run.stage, Stage::Suspending, "one of its agents does not hold yet");
    assert_eq!(shown(&world), (MemberState::Suspending, false, "1/2".into()));
    world.say(0, 0, ready(1));
    world.turn();
    assert_eq!((world.run.stage.clone(), world.cuts), (Stage::Cutting, 1));
    assert_eq!(shown(&world), (MemberState::Ready, true, "2/2".into()));
}

#[test]
fn one_refusal_releases_both_agents_and_names_what_each_says() {
    let mut world = World::with_agents(Mode::Replicate, &[2, 1]);
    world.observed.recorded = true;
    world.turn();
    world.say(0, 0, AnswerContent::Waiting { blockers: vec![blocker("LockHeld")], more: 2 });
    world.say(0, 1, not_ready(0, false));
    world.turn();
    assert!(all_released(&world), "{:?}", world.told);
    assert_eq!(world.verdict(), Some("LockHeld"));
    let member = world.statuses.last().unwrap().members[0].clone();
    let reasons: Vec<&str> = member.blockers.iter().map(|blocker| blocker.reason.as_str()).collect();
    assert_eq!((member.state, reasons), (MemberState::NotReady, vec!["LockHeld", "MissingCapability"]));
    assert_eq!(member.more_blockers, 2);
    let message = &world.run.verdict.as_ref().unwrap().message;
    assert!(message.contains("(and 3 more, see status.members)"), "{message}");
    world.settle();
    assert_eq!(world.run.phase(), Phase::Aborted);
}

#[test]
fn one_broken_release_voids_the_cut() {
    for broken in [(0, 0), (0, 1), (1, 0)] {
        let mut world = releasing();
        for (member, agent) in world.agents() {
            world.say(member, agent, released((member, agent) != broken));
        }
        world.turn();
        assert_eq!(world.verdict(), Some("HoldBroken"), "{broken:?}");
        world.settle();
        assert_eq!((world.run.phase(), world.run.proven), (Phase::Failed, false), "{broken:?}");
    }
}

#[test]
fn done_waits_for_the_release_of_every_agent() {
    let mut world = releasing();
    world.say(0, 0, released(true));
    world.say(1, 0, released(true));
    world.turn();
    assert!(matches!(world.run.stage, Stage::Releasing { .. }) && !world.run.proven);
    let shown = world.statuses.last().unwrap().members[0].clone();
    assert_eq!((shown.state, shown.released_at), (MemberState::Releasing, None));
    world.say(
        0,
        1,
        AnswerContent::Released { unbroken: true, reason: String::new(), suspended: Duration::from_millis(90) },
    );
    world.turn();
    assert_eq!(world.run.phase(), Phase::Done);
    let shown = world.statuses.last().unwrap().members[0].clone();
    assert_eq!((shown.state, shown.pod.as_deref()), (MemberState::Released, Some("db-0")));
    assert_eq!(shown.suspended_for, Some(Duration::from_millis(90).into()), "the longest");
}

#[test]
fn one_lost_session_ends_the_hold_of_both_agents() {
    let mut world = suspending();
    world.say(0, 0, ready(1));
    world.turn();
    world.lose_agent(0, 1);
    world.turn();
    assert_eq!(world.verdict(), Some("AgentLost"));
    assert!(world.run.verdict.as_ref().unwrap().message.contains("pod db-0.1"), "the one that was lost is named");
    assert!(all_released(&world), "{:?}", world.told);
}

#[test]
fn a_round_begins_when_every_agent_has_let_go() {
    let mut world = suspending();
    world.say(0, 0, not_ready(1, true));
    world.turn();
    world.pass(Duration::from_secs(5));
    world.say(0, 0, released(false));
    world.say(1, 0, released(false));
    world.turn();
    assert!(matches!(world.run.stage, Stage::Pausing { .. }), "the other agent may still hold");
    world.say(0, 1, released(false));
    world.turn();
    world.pass(Duration::from_secs(1));
    world.turn();
    assert_eq!((world.run.stage.clone(), world.run.round), (Stage::Preparing, 2));
}

#[test]
fn what_no_agent_sees_is_blind_and_nobody_is_asked_to_suspend() {
    let mut world = World::with_agents(Mode::Replicate, &[2, 1]);
    world.run.members[0].assignments.truncate(1);
    world.observed.recorded = true;
    world.turn();
    assert_eq!(world.verdict(), Some("Blind"));
    let member = &world.statuses.last().unwrap().members[0];
    assert_eq!((member.state, member.blockers[0].pod.as_deref()), (MemberState::NotReady, Some("db-0.1")));
    assert!(world.sent.iter().all(|(_, command)| *command != Command::Suspend), "{:?}", world.sent);
    world.settle();
    assert_eq!(world.run.phase(), Phase::Aborted);
}
