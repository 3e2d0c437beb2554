use super::*;
use stillpoint_api::{MemberState, MemberStatus};

fn blocker(message: &str) -> Blocker {
    Blocker { reason: "LockHeld".into(), message: message.into(), ..Blocker::default() }
}

fn status(phase: Phase, blockers: Vec<Blocker>) -> ReplicationStatus {
    let member = MemberStatus {
        persistent_volume_claim: ClaimReference { name: "orders".into(), uid: "uid".into() },
        volume: String::new(),
        driver: String::new(),
        pod: None,
        node: None,
        state: MemberState::NotReady,
        method: None,
        protection: None,
        blockers,
        more_blockers: 0,
        ready_at: None,
        released_at: None,
        suspended_for: None,
        replica: None,
    };
    ReplicationStatus { phase: Some(phase), members: vec![member], ..ReplicationStatus::default() }
}

/// The phase that began, and how many blockers were new.
fn told(news: Vec<Happened>) -> (Option<Phase>, usize) {
    let phase = news.iter().find_map(|one| match one {
        Happened::Began { phase, .. } => Some(*phase),
        Happened::Blocked { .. } => None,
    });
    let blockers = news.iter().filter(|one| matches!(one, Happened::Blocked { .. })).count();
    (phase, blockers)
}

#[test]
fn a_phase_and_a_blocker_are_told_once_each() {
    let mut teller = Told::default();
    let first = status(Phase::Checking, vec![blocker("a"), blocker("b")]);
    assert_eq!(told(teller.news(&first)), (Some(Phase::Checking), 2), "two of one reason are two");

    let mut longer = first.clone();
    longer.members[0].blockers[0].seen_for = Some(std::time::Duration::from_secs(1).into());
    assert_eq!(told(teller.news(&longer)), (None, 0));
    teller.news(&status(Phase::Checking, Vec::new()));
    assert_eq!(told(teller.news(&first)), (None, 0), "it came back");
    assert_eq!(told(teller.news(&status(Phase::Aborted, vec![blocker("a"), blocker("c")]))).1, 1);
    assert_eq!(told(Told::by(&first).news(&first)), (None, 0), "the next leader goes on where this one stopped");
}

#[test]
fn blockers_that_come_and_go_do_not_become_a_stream() {
    let mut teller = Told::default();
    let all = (0..1_000).map(|n| told(teller.news(&status(Phase::Checking, vec![blocker(&n.to_string())]))).1);
    assert_eq!(all.sum::<usize>(), MAX_BLOCKERS);
}
