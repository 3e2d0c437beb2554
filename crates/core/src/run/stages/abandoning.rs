//! Everything is given back and removed.

use stillpoint_api::Phase;

use super::super::plan::{Draft, Step};
use super::super::state::{CleanUp, Moment, Stage, Verdict};
use crate::limits::RELEASE_TIMEOUT;

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
        if clean_up == CleanUp::Needed && self.observed.open_creations == 0 {
            self.steps.push(Step::Remove(self.all_replicas()));
            self.run.stage = Stage::Abandoning { since, clean_up: CleanUp::Begun };
            return true;
        }
        let free = self.run.members.iter().all(|member| !member.owes_release());
        let removed = clean_up == CleanUp::NotNeeded || self.observed.removed.is_some();
        if !removed {
            return false;
        }
        if !free && self.now.since(&since) < RELEASE_TIMEOUT {
            return false;
        }
        let were_there = self.observed.removed.as_ref().is_some_and(|it| it.found > 0 || !it.left.is_empty());
        let void = self.run.replicas_requested() || were_there;
        if self.run.assignments().any(|(_, one)| one.ready.is_some()) {
            // The agents' answers say when; without one of them it may have lasted until now.
            let ends = self.run.assignments().filter(|(_, one)| one.asked.is_some());
            let ends = ends.map(|(_, one)| one.released.as_ref().map_or(self.now, |released| released.at));
            self.run.hold_ended = ends.max_by_key(|at| at.monotonic);
        }
        for member in &mut self.run.members {
            member.replica = None;
        }
        if void {
            return self.finish(Phase::Failed);
        }
        // Whoever deletes the object wants no other attempt.
        if !self.observed.deleted {
            self.run.next_attempt = self.request.next_attempt(self.run.attempt, self.now);
        }
        self.finish(if self.run.next_attempt.is_some() { Phase::Pending } else { Phase::Aborted })
    }
}
