//! Everything is given back and removed.

use std::time::Duration;

use stillpoint_api::{Phase, Reason};

use super::super::plan::{Draft, Step};
use super::super::state::{CleanUp, Moment, Stage, Verdict};
use crate::limits::{HOLD_GRACE, RELEASE_TIMEOUT};

impl Draft<'_> {
    /// Gives everything back: every agent that was asked is told to release, whether it answered or not, and every replica
    /// that was asked for is deleted.
    pub fn abandon(&mut self, verdict: Verdict) -> bool {
        self.run.verdict = Some(verdict);
        self.run.proven = false;
        let clean_up = if self.run.replicas_requested() { CleanUp::Needed } else { CleanUp::NotNeeded };
        self.run.stage = Stage::Abandoning { since: self.now, clean_up };
        true
    }

    /// Ends when everybody has let go (or had the time to) and every replica is gone, or its removal was tried. What is left then
    /// is the goodbye's, which has more time.
    pub fn abandoning(&mut self, since: Moment, clean_up: CleanUp) -> bool {
        // Also those of a run that was taken over, whom this controller has told nothing yet.
        self.release_all();
        self.release_returned();
        // A creation that is still open could put a snapshot behind the deletion's back.
        if clean_up == CleanUp::Needed && self.observed.open_creations.is_empty() {
            self.steps.push(Step::Remove(self.all_replicas()));
            self.run.stage = Stage::Abandoning { since, clean_up: CleanUp::Begun };
            return true;
        }
        let free = self.run.members.iter().all(|member| !member.owes_release());
        let removed = clean_up == CleanUp::NotNeeded || self.observed.removed.is_some();
        if !removed {
            return false;
        }
        if !free && self.now.monotonic < self.released_by(since) {
            return false;
        }
        self.judge_silence();
        self.end_hold();
        let were_there = self.observed.removed.as_ref().is_some_and(|it| it.found > 0 || !it.left.is_empty());
        let void = self.run.replicas_requested() || were_there;
        for member in &mut self.run.members {
            member.replica = None;
        }
        self.run.cut_void = void;
        if self.may_be_retried() {
            self.run.not_retried = self.suspension_without_limit().or_else(|| self.void_attempt_remains(free));
            if self.run.not_retried.is_none() {
                self.run.next_attempt = self.request.next_attempt(self.run.attempt, self.now);
            }
        }
        let end = if void { Phase::Failed } else { Phase::Aborted };
        self.finish_abandoned(if self.run.next_attempt.is_some() { Phase::Pending } else { end })
    }

    /// Ends the attempt, and listens on where it is not known whether writes go on.
    fn finish_abandoned(&mut self, phase: Phase) -> bool {
        self.run.stage = if self.is_unsettled() { Stage::Listening } else { Stage::Ended };
        self.enter(phase);
        true
    }

    /// When the answers to Release are waited for no longer. Another attempt waits until every hold of this one has surely ended.
    pub fn released_by(&self, since: Moment) -> Duration {
        let timeout = since.monotonic + RELEASE_TIMEOUT;
        // After a cut that is void only answers count.
        if !self.may_be_retried() || self.run.replicas_requested() || self.observed.cut_off.is_some() {
            return timeout;
        }
        let suspended = self.run.assignments().filter(|(_, one)| one.may_suspend());
        let over = suspended.filter_map(|(_, one)| one.hold_over(self.request.hold_timeout));
        over.fold(timeout, Duration::max)
    }

    /// Whether another attempt may follow this one. Whoever deletes the object wants none.
    fn may_be_retried(&self) -> bool {
        !self.observed.deleted && self.request.next_attempt(self.run.attempt, self.now).is_some()
    }

    /// Why no other attempt may follow a cut that is void: nothing may be left of it, everybody must have said that writes go on
    /// (`free`), and another hold must be able to end otherwise. It is the writers who pay for it.
    fn void_attempt_remains(&self, free: bool) -> Option<String> {
        if !self.run.cut_void {
            return None;
        }
        if self.run.verdict.as_ref().is_some_and(|verdict| verdict.reason == Reason::ReplicaNotNoticed) {
            return Some("another hold would end in the same way".to_owned());
        }
        if !self.observed.left().is_empty() {
            return Some("not all of its replicas are removed".to_owned());
        }
        (!free).then(|| "not every agent has said that writes go on".to_owned())
    }

    /// Why a suspension of this attempt may have lasted without a limit: what nobody can take back is not asked for again.
    fn suspension_without_limit(&self) -> Option<String> {
        let limit = self.request.hold_timeout + HOLD_GRACE;
        self.run.assignments().find_map(|(member, one)| {
            let claim = &member.claim.name;
            let agent = &one.agent;
            if one.unknown_since().is_some() {
                return Some(format!(
                    "it is not known whether {agent} still suspends writes to PersistentVolumeClaim {claim}"
                ));
            }
            if one.was_slow {
                return Some(format!("{agent} could not suspend writes to PersistentVolumeClaim {claim} in time"));
            }
            let lasted = one.suspended_for.filter(|lasted| *lasted > limit)?;
            Some(format!(
                "writes to PersistentVolumeClaim {claim} were suspended for {lasted:?}, longer than holdTimeout"
            ))
        })
    }
}
