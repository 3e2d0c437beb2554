//! A few hundred seeds of whole groups, and that each guard is missed when it is taken away.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use protocol::simulation::{Break, tell};

#[track_caller]
fn is_kept(seed: u64) {
    let story = tell(seed, None, 40);
    if let Some(violation) = story.violation {
        panic!("seed {seed}: {} is broken: {}\n{}", violation.promise, violation.what, story.trace.join("\n"));
    }
}

#[test]
fn every_promise_is_kept() {
    (0..500).for_each(is_kept);
}

#[test]
fn a_seed_tells_the_same_story_again() {
    for seed in 0..20 {
        let (one, other) = (tell(seed, None, usize::MAX), tell(seed, None, usize::MAX));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}

/// The first seed that misses a guard, among so many.
fn missed(broken: Break, seeds: u64) -> Option<(u64, &'static str)> {
    (0..seeds).find_map(|seed| Some((seed, tell(seed, Some(broken), 0).violation?.promise)))
}

/// The promise that each guard keeps, and in how many seeds the lack of it is found.
const GUARDS: [(Break, &str, u64); Break::ALL.len()] = [
    (Break::Guardian, "P3", 1_000),
    (Break::Deadline, "P3", 1_000),
    (Break::Epoch, "an older leader commands nothing", 2_000),
    (Break::Ready, "P1", 1_000),
    (Break::Vote, "P4", 1_000),
    (Break::Release, "P2", 1_000),
    (Break::Recheck, "P4", 2_000),
    (Break::Cleanup, "P8", 1_000),
    (Break::Claim, "an older leader stores nothing", 1_000),
    (Break::Conflict, "an older leader stores nothing", 1_000),
    (Break::Tenure, "an older leader asks for nothing", 1_000),
    (Break::Sweep, "P8", 1_000),
    (Break::CoolDown, "cool-down", 1_000),
    (Break::Limit, "attempts", 1_000),
    (Break::UnderWay, "one attempt after the other", 1_000),
    (Break::Waiting, "attempts", 1_000),
];

#[test]
fn every_guard_is_missed() {
    assert_eq!(GUARDS.map(|(broken, ..)| broken), Break::ALL);
    for (broken, promise, seeds) in GUARDS {
        let (seed, found) = missed(broken, seeds).unwrap_or_else(|| panic!("nobody misses {broken:?}"));
        println!("{broken:?}: {found} at seed {seed}");
        assert_eq!(found, promise, "{broken:?}, seed {seed}");
    }
}
