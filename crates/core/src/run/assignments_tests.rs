#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::jiff::Timestamp;

use super::*;
use stillpoint_api::ClaimReference;

fn pod(name: &str) -> PodFacts {
    PodFacts { name: name.into(), uid: format!("uid-{name}"), ..PodFacts::default() }
}

/// A member that these pods mount, with agents in those.
fn member(mounts: &[&str], agents: &[&str]) -> Member {
    let claim = ClaimReference { name: "data".into(), uid: "claim".into() };
    let mounts = mounts.iter().map(|name| Mount::from(&pod(name))).collect();
    let agents = agents.iter().map(|name| AgentRef::sidecar(&pod(name), "data")).collect();
    Member::new(claim, mounts, agents)
}

fn at(seconds: u64) -> Moment {
    Moment { monotonic: Duration::from_secs(seconds), wall: Timestamp::UNIX_EPOCH }
}

#[test]
fn a_member_is_blind_where_no_agent_covers_a_mount() {
    let uncovered = |mounts: &[&str], agents: &[&str]| member(mounts, agents).uncovered().map(|own| own.name.clone());
    assert_eq!(uncovered(&[], &[]), None);
    assert_eq!(uncovered(&["a"], &["a"]), None);
    assert_eq!(uncovered(&["a", "b"], &["b", "a"]), None);
    assert_eq!(uncovered(&["a", "b"], &["a"]), Some("b".into()));
    assert_eq!(uncovered(&["a"], &[]), Some("a".into()));

    let blind = member(&["a"], &[]);
    assert_eq!(blind.state(), MemberState::NotReady);
    assert!(!blind.all_are(MemberState::Ready) && !blind.was_ready());
    let standing = blind.standing();
    assert_eq!((standing.blockers[0].reason.as_str(), standing.more_blockers), ("Blind", 0));
}

#[test]
fn who_nobody_mounts_and_nobody_is_asked_about_is_unmounted() {
    let unmounted = member(&[], &[]);
    assert_eq!(unmounted.state(), MemberState::Unmounted);
    assert!(unmounted.all_are(MemberState::Ready) && unmounted.all_are(MemberState::Prepared));
    assert!(unmounted.was_ready() && !unmounted.owes_release());
}

#[test]
fn of_two_agents_the_one_that_is_least_far_is_shown() {
    use MemberState::{Broken, NotReady, Pending, Prepared, Preparing, Ready, Released, Releasing, Suspending};
    for (one, other, both) in [
        (Ready, Ready, Ready),
        (Ready, NotReady, NotReady),
        (Broken, Released, Broken),
        (Prepared, Pending, Pending),
        (Preparing, Prepared, Preparing),
        (Ready, Suspending, Suspending),
        (Releasing, Released, Releasing),
        (Released, Ready, Releasing),
        (Released, Released, Released),
    ] {
        for (first, second) in [(one, other), (other, one)] {
            let mut member = member(&["a", "b"], &["a", "b"]);
            member.assignments[0].state = first;
            member.assignments[1].state = second;
            assert_eq!(member.state(), both, "{first:?} and {second:?}");
            assert_eq!(member.all_are(Ready), both == Ready, "{first:?} and {second:?}");
        }
    }
}

#[test]
fn the_latest_the_longest_and_the_weakest_are_shown() {
    let mut member = member(&["a", "b"], &["a", "b"]);
    let ready = |seconds| Some(Ready { at: at(seconds), lease_end: Duration::ZERO });
    let released = |seconds| Some(Released { at: at(seconds), unbroken: true, reason: String::new() });
    let [first, second] = &mut member.assignments[..] else { panic!("two") };
    (first.ready, first.released, first.suspended_for) = (ready(5), released(9), Some(Duration::from_secs(4)));
    first.protection = Some(Protection::PodGuardian);
    second.protection = Some(Protection::NodeGuardian);
    let standing = member.standing();
    assert_eq!((standing.ready_at, standing.released_at), (None, None), "the second has said neither");
    let [_, second] = &mut member.assignments[..] else { panic!("two") };
    (second.ready, second.released, second.suspended_for) = (ready(3), released(11), Some(Duration::from_secs(8)));
    let standing = member.standing();
    assert_eq!((standing.ready_at, standing.released_at), (Some(at(5)), Some(at(11))));
    assert_eq!(
        (standing.suspended_for, standing.protection),
        (Some(Duration::from_secs(8)), Some(Protection::PodGuardian))
    );
}

#[test]
fn blockers_of_all_agents_are_listed_up_to_the_limit_and_the_rest_is_counted() {
    let mut member = member(&["a", "b"], &["a", "b"]);
    for (one, reason) in member.assignments.iter_mut().zip(["First", "Second"]) {
        one.blockers = vec![Blocker { reason: reason.into(), ..Blocker::default() }; MAX_BLOCKERS - 1];
        one.more_blockers = 3;
    }
    let standing = member.standing();
    assert_eq!((standing.blockers.len(), standing.blockers[0].reason.as_str()), (MAX_BLOCKERS, "First"));
    assert_eq!(standing.blockers[MAX_BLOCKERS - 1].reason, "Second");
    assert_eq!(standing.blockers.len() + standing.more_blockers as usize, member.count_blockers());
    assert_eq!(member.count_blockers(), 2 * (MAX_BLOCKERS + 2));
}

#[test]
fn agents_are_told_apart_by_the_pod_they_run_in() {
    let mut run = Run::new(vec![member(&["a", "b"], &["a", "b"]), member(&["a"], &["a"])], Default::default(), at(0));
    run.members[1].claim.uid = "other".into();
    let agent = |name: &str| AgentKey::of_pod(format!("uid-{name}"));
    assert_eq!(run.agents().collect::<Vec<_>>(), [agent("a"), agent("b"), agent("a")]);
    let of = |name: &str| run.assigned_to(&agent(name)).map(|key| key.claim).collect::<Vec<_>>();
    assert_eq!((of("a"), of("b"), of("c")), (vec!["claim".into(), "other".into()], vec!["claim".into()], vec![]));
}
