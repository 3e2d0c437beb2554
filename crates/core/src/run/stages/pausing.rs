//! Nobody is suspended until the next round.

use std::time::Duration;

use stillpoint_api::MemberState;

use super::super::plan::Draft;
use super::super::state::Stage;

impl Draft<'_> {
    /// The next round begins when the pause is over and everybody has said that it let go: one that is away may still hold.
    pub fn pausing(&mut self, until: Duration) -> bool {
        self.release_returned();
        let free = self.run.members.iter().all(|member| !member.owes_release());
        if !free || self.now.monotonic < until {
            return self.give_up_in_time();
        }
        self.run.round += 1;
        self.run.stage = Stage::Preparing;
        self.run.hold_began = None;
        for one in self.run.assignments_mut() {
            one.asked = None;
            one.refused = None;
            one.ready = None;
            one.released = None;
            // The blockers stay in view until the agent answers anew.
            one.state = MemberState::Pending;
        }
        true
    }
}
