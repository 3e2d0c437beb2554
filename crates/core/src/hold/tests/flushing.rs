//! Members with more dirty pages than a freeze may wait for.

use super::*;
use crate::limits::SHORT_FLUSH_PART;

const SHORT: Duration = Duration::from_millis(LIMIT.as_millis() as u64 / SHORT_FLUSH_PART as u64);

#[test]
fn a_flush_is_repeated_until_one_was_short() {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.well_until("Flush");
    for (number, seconds) in [(1, 13), (2, 4)] {
        story.pass(Duration::from_secs(seconds));
        story.done(Outcome::Flushed(Ok(())));
        let Report::Waiting(waiting) = story.heard() else { panic!("nothing is said of it") };
        assert_eq!(waiting.blockers[0].reason, "TooSlow");
        let numbers = format!("flush {number} took {seconds}.0s, and at most 1.0s are allowed");
        assert!(waiting.blockers[0].message.contains(&numbers), "{waiting:?}");
        assert!(matches!(story.asked, Some(Action::Flush(_))), "another one");
    }
    story.pass(SHORT);
    story.well_until("");
    assert!(matches!(story.heard(), Report::Prepared(_)));
}

#[test]
fn a_member_whose_flushes_are_never_short_is_not_ready() {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.well_until("Flush");
    story.pass(2 * PREPARE / 3);
    story.done(Outcome::Flushed(Ok(())));
    story.said.clear();
    story.pass(PREPARE / 3);
    let Report::NotReady(refusal) = story.heard() else { panic!("it is prepared") };
    assert_eq!((refusal.blockers[0].reason.as_str(), refusal.retryable), ("TooSlow", true));
    assert!(refusal.blockers[0].message.contains("flush 2 had not ended after 10.0s"), "{refusal:?}");
    assert!(story.hold.is_idle());
}

/// Others may hold already, and a freeze would have to wait for the pages that are left.
#[test]
fn a_round_in_which_a_flush_is_not_short_suspends_nobody() {
    for which in 1..=2 {
        let mut story = Story::suspending_until("Flush");
        for _ in 1..which {
            story.done(Outcome::Flushed(Ok(())));
            story.well_until("Flush");
        }
        story.pass(SHORT);
        let Report::NotReady(refusal) = story.heard() else { panic!("flush {which}") };
        assert_eq!((refusal.blockers[0].reason.as_str(), refusal.retryable), ("TooSlow", true));
        assert_eq!(refusal.suspended_us, 0);
        // It comes back late.
        story.done(Outcome::Flushed(Ok(())));
        assert!(story.asked.is_none() && story.said.is_empty(), "{:?}", story.asked);
        story.command(Command::Suspend(attempt(1, 1, 1), 2));
        story.well_until("");
        assert!(matches!(story.heard(), Report::Ready(_)));
    }
}

#[test]
fn a_first_freeze_has_a_part_of_the_time_of_both() {
    let mut story = Story::suspending_until("Suspend");
    assert!(matches!(story.asked, Some(Action::Suspend(_, within)) if 2 * within == FREEZE_TIMEOUT));
    story.pass(FREEZE_TIMEOUT / 2);
    story.done(Outcome::Suspended(Err(refused("TooSlow", true))));
    let Report::NotReady(refusal) = story.heard() else { panic!("it holds") };
    assert_eq!(refusal.suspended_us, 2_500_000, "what the first one cost the writers");
}
