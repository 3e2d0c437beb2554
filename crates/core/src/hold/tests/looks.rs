//! What a look costs, and for how long it has seen what it sees.

use super::*;
use crate::locks::Cost;
use crate::wire;

/// A clean look that took so long.
fn look(took: Duration, throttled: Duration) -> Outcome {
    Outcome::Looked(Look { cost: Cost { took, throttled }, ..Look::default() })
}

fn words(report: Report) -> (String, String) {
    let (Report::Waiting(wire::Waiting { blockers, .. }) | Report::NotReady(wire::NotReady { blockers, .. })) = report
    else {
        panic!("{report:?}")
    };
    (blockers[0].reason.clone(), blockers[0].message.clone())
}

#[test]
fn what_is_too_costly_for_a_hold_is_never_prepared_and_the_cpu_limit_is_named() {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.well_until("Look");
    story.done(look(Duration::from_millis(5_100), Duration::from_secs(4)));
    let (reason, message) = words(story.heard());
    assert_eq!(reason, "TooSlow");
    assert!(
        message.contains("takes 5.1s") && message.contains("CPU limit") && message.contains("for 4.0s"),
        "{message}"
    );
    // It may go better in time.
    story.pass(LOCK_POLL);
    story.done(look(Duration::from_millis(4_900), Duration::ZERO));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Prepared(_)));
}

#[test]
fn what_became_too_costly_ends_the_round_before_anybody_is_suspended() {
    let mut story = Story::suspending_until("Look");
    story.done(look(Duration::from_millis(5_100), Duration::ZERO));
    assert!(story.asked.is_none(), "{:?}", story.asked);
    let (reason, message) = words(story.heard());
    assert!(reason == "TooSlow" && message.contains("how many processes"), "{message}");
}

#[test]
fn a_look_that_no_time_is_left_for_is_not_begun_while_writes_are_suspended() {
    let mut story = Story::suspending_until("Look");
    story.done(look(LIMIT / 2, Duration::ZERO));
    story.well_until("Arm");
    story.now += Duration::from_millis(100);
    story.well_until("Suspend");
    // Within the time that a suspension may take, and more of the hold than is left.
    story.now += FREEZE_TIMEOUT.min(LIMIT / 2) - Duration::from_millis(1);
    story.done(Outcome::Suspended(Ok(Duration::ZERO)));
    assert!(matches!(story.asked, Some(Action::Resume(_))), "{:?}", story.asked);
    story.well_until("");
    let (reason, message) = words(story.heard());
    assert!(reason == "TooSlow" && message.contains("room for "), "{message}");
}

#[test]
fn for_how_long_a_lock_is_seen_is_said_again_as_it_grows() {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.well_until("Look");
    let mut said = Vec::new();
    let begun = story.now;
    while story.now - begun < PREPARE - Duration::from_secs(1) {
        let mut look = locked();
        look.blockers[0].seen_us = u64::try_from((story.now - begun).as_micros()).unwrap();
        story.done(Outcome::Looked(look));
        let seconds = |report| match report {
            Report::Waiting(wire::Waiting { blockers, .. }) => blockers[0].seen_us / 1_000_000,
            other => panic!("{other:?}"),
        };
        said.extend(story.said.drain(..).map(|(_, report)| seconds(report)));
        story.pass(LOCK_POLL);
    }
    assert!(said.len() < 25 && said[..2] == [0, 1] && said.last().is_some_and(|last| *last >= 23), "{said:?}");
}
