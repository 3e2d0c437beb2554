//! Everything is given back and removed.

use stillpoint_api::{Phase, Reason};

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

    /// Ends when everybody has let go (or had the time to) and every replica is gone.
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
        let removed = clean_up == CleanUp::NotNeeded || self.observed.deleted_replicas.is_some();
        if !removed {
            return false;
        }
        if !free && self.now.since(&since) < RELEASE_TIMEOUT {
            return false;
        }
        let void = self.run.replicas_requested() || self.observed.deleted_replicas.unwrap_or(0) > 0;
        if self.run.assignments().any(|(_, one)| one.ready.is_some()) {
            // The agents' answers say when; without one of them it may have lasted until now.
            let ends = self.run.assignments().filter(|(_, one)| one.asked.is_some());
            let ends = ends.map(|(_, one)| one.released.as_ref().map_or(self.now, |released| released.at));
            self.run.hold_ended = ends.max_by_key(|at| at.monotonic);
        }
        for member in &mut self.run.members {
            member.replica = None;
        }
        // Whoever deletes the object wants no other attempt. After a cut that is void nothing may be left of it: its replicas are
        // gone by now, and everybody must have said that writes go on.
        if !self.observed.deleted && self.may_repeat_hold() && (free || !void) {
            self.run.next_attempt = self.request.next_attempt(self.run.attempt, self.now);
        }
        let end = if void { Phase::Failed } else { Phase::Aborted };
        self.run.cut_void = void;
        self.finish(if self.run.next_attempt.is_some() { Phase::Pending } else { end })
    }

    /// Whether another hold may end otherwise: it is the writers who pay for it.
    fn may_repeat_hold(&self) -> bool {
        self.run.verdict.as_ref().is_none_or(|verdict| verdict.reason != Reason::ReplicaNotNoticed)
    }
}
