use std::time::Duration;

use stateright::HasDiscoveries;

use super::check::check_until;
use super::{Bounds, Without, check};

/// Small enough for a build without optimisation.
fn small(without: Option<Without>) -> Bounds {
    Bounds {
        members: 2,
        leaders: if without == Some(Without::EpochCheck) { 2 } else { 1 },
        faults: 1,
        retry: false,
        deletion: false,
        prepare_timeout: Duration::from_millis(150),
        hold_timeout: Duration::from_secs(10),
        without,
    }
}

#[test]
fn every_promise_holds() {
    let found = check(small(None), 2);
    assert!(found.is_sound(), "{:?} {:#?}", found.seen, found.broken.first().map(|(promise, way)| (promise.name, way)));
    assert!(found.states > 1_000, "{} states are too few to mean anything", found.states);
}

#[test]
fn every_promise_holds_when_it_is_tried_again_and_deleted() {
    let found = check(Bounds { members: 1, retry: true, deletion: true, ..small(None) }, 2);
    assert!(found.is_sound(), "{:?} {:#?}", found.seen, found.broken.first().map(|(promise, way)| (promise.name, way)));
}

/// A guard that is taken out must break this promise, whatever else it breaks earlier.
fn breaks(without: Without, expected: &'static str) {
    let found = check_until(small(Some(without)), 1, HasDiscoveries::AllOf([expected].into()));
    let broken: Vec<&str> = found.broken.iter().map(|(promise, _)| promise.name).collect();
    assert!(broken.contains(&expected), "without {without:?}, only {broken:?} broke in {} states", found.states);
}

#[test]
fn without_the_guardians_acknowledgement_no_thaw_is_certain() {
    breaks(Without::AcknowledgedGuardian, "P3 a thaw is certain");
}

#[test]
fn without_the_check_of_epochs_an_old_leader_suspends_again() {
    breaks(Without::EpochCheck, "P2 who was dismissed stays so");
}

#[test]
fn without_the_release_vote_done_is_not_proven() {
    breaks(Without::ReleaseVote, "P4 Done is proven");
}

#[test]
fn without_the_list_of_who_was_asked_somebody_stays_suspended() {
    breaks(Without::AskBeforeRelease, "P2 everybody asked is resumed");
}
