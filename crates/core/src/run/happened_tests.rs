use super::*;

fn blocker(message: &str) -> Blocker {
    Blocker { reason: "LockHeld".into(), message: message.into(), ..Blocker::default() }
}

fn claim() -> ClaimReference {
    ClaimReference { name: "orders".into(), uid: "uid".into() }
}

#[test]
fn a_blocker_is_told_once() {
    let mut told = Told::default();
    let first = [blocker("a"), blocker("b")];
    assert_eq!(told.news(&claim(), &first).len(), 2, "two of one reason are two");

    let mut longer = first.clone();
    longer[0].seen_for = Some(std::time::Duration::from_secs(1).into());
    assert!(told.news(&claim(), &longer).is_empty());
    told.news(&claim(), &[]);
    assert!(told.news(&claim(), &first).is_empty(), "it came back");
    assert_eq!(told.news(&claim(), &[blocker("a"), blocker("c")]), [blocker("c")]);
}

#[test]
fn blockers_that_come_and_go_do_not_become_a_stream() {
    let mut told = Told::default();
    let all = (0..1_000).map(|n| told.news(&claim(), &[blocker(&n.to_string())]).len());
    assert_eq!(all.sum::<usize>(), MAX_BLOCKERS);
}
