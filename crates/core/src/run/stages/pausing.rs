//! Nobody is suspended until the next round.

use std::time::Duration;

use super::super::plan::Draft;
use super::super::state::{Moment, Refused, Stage};
use crate::limits::ROUND_REST;

impl Draft<'_> {
    /// The next round begins when the pause is over and everybody has said that it let go: one that is away may still hold. Whoever
    /// refused goes first then.
    pub fn pausing(&mut self, since: Moment, pause: Duration) -> bool {
        self.release_returned();
        let free = self.run.members.iter().all(|member| !member.owes_release());
        let next = self.next_round_at(since, pause);
        if free && !self.is_in_time(next) {
            return self.give_up_rounds();
        }
        if !free || self.now.monotonic < next {
            return self.give_up_in_time();
        }
        self.run.round += 1;
        self.run.stage = Stage::Preparing;
        self.run.hold_began = None;
        for one in self.run.assignments_mut() {
            one.goes_first |= one.told_to_suspend.is_some() && one.refused == Some(Refused::ForNow);
            one.ask_anew();
        }
        true
    }

    /// When the next round may begin, as far as is known: after the pause, and after a rest from the longest suspension of this one.
    pub fn next_round_at(&self, since: Moment, pause: Duration) -> Duration {
        let suspended = self.run.assignments().filter(|(_, one)| one.told_to_suspend.is_some());
        let rested = suspended.filter_map(|(_, one)| {
            let over = one.released.as_ref().map_or(since, |released| released.at);
            Some(over.monotonic + one.suspended_for? * ROUND_REST)
        });
        rested.fold(since.monotonic + pause, Duration::max)
    }
}
