//! The attempt has ended, and it is not known yet whether all writes go on.

use std::time::Duration;

use stillpoint_api::MemberState;

use super::super::assignments::Assignment;
use super::super::plan::Draft;
use super::super::state::{Member, Stage};
use crate::limits::SILENCE_TIMEOUT;

impl Draft<'_> {
    /// Until every agent has said that writes go on, or its hold has surely ended, or nobody waits for it any more: what the status
    /// says of writes is true meanwhile, and settles.
    pub fn listening(&mut self) -> bool {
        self.release_returned();
        self.judge_lapses();
        self.end_hold();
        if self.is_unsettled() {
            return false;
        }
        self.run.stage = Stage::Ended;
        true
    }

    /// Whether something may still be learnt of what is not known.
    pub fn is_unsettled(&self) -> bool {
        let nobody_asks = self.observed.deleted || self.observed.cut_off.is_some();
        !nobody_asks && self.listens_until().is_some()
    }

    /// When something that is not known is known, or waited for no longer.
    pub fn listens_until(&self) -> Option<Duration> {
        let open = self.run.assignments().filter(|(_, one)| one.may_suspend());
        open.filter_map(|(_, one)| self.answer_due(one)).filter(|due| self.now.monotonic < *due).min()
    }

    /// Of who held, the end of the hold is known in any case. Who has not answered since it was told to suspend may wait in the
    /// kernel, for as long as that takes.
    fn answer_due(&self, one: &Assignment) -> Option<Duration> {
        match one.ready {
            Some(_) => one.hold_over(self.request.hold_timeout),
            None => Some(one.told_to_suspend?.monotonic + SILENCE_TIMEOUT),
        }
    }

    /// Whose hold has surely ended without an answer cannot say that it held.
    pub fn judge_lapses(&mut self) {
        let (now, hold_timeout) = (self.now, self.request.hold_timeout);
        for one in self.run.assignments_mut().filter(|one| one.ready.is_some() && one.may_suspend()) {
            if one.hold_over(hold_timeout).is_some_and(|over| over <= now.monotonic) {
                one.lapsed = Some(now);
                one.state = MemberState::Broken;
            }
        }
    }

    /// Nobody waits for answers to Release any more: who has given none is called silent. Who has held is so once its limit is over.
    pub fn judge_silence(&mut self) {
        self.judge_lapses();
        for one in self.run.assignments_mut().filter(|one| one.owes_release() && one.lapsed.is_none()) {
            let never_held = one.told_to_suspend.is_some() && one.ready.is_none() && one.refused.is_none();
            if never_held || one.state == MemberState::Releasing && one.ready.is_none() {
                one.state = MemberState::Silent;
            }
        }
    }

    /// The end of a hold is known when every member's is.
    pub fn end_hold(&mut self) {
        let held = self.run.assignments().any(|(_, one)| one.ready.is_some());
        if !held || self.run.members.iter().any(Member::may_be_suspended) {
            return;
        }
        let ends = self.run.assignments().filter_map(|(_, one)| {
            let released = one.released.as_ref().map(|released| released.at);
            released.or(one.lapsed)
        });
        self.run.hold_ended = ends.max_by_key(|at| at.monotonic).or(self.run.hold_ended);
    }
}
