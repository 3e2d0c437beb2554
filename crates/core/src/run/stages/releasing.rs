//! Everybody was told to release, and the proof is collected.

use stillpoint_api::{Mode, Phase, Reason};

use super::super::assignments::Assignment;
use super::super::disturbances::another_pod;
use super::super::plan::{Draft, Step};
use super::super::state::{Member, Moment, Stage, Verdict};
use crate::limits::RELEASE_TIMEOUT;

impl Draft<'_> {
    /// Tells everybody to release. What follows is the proof.
    pub fn begin_release(&mut self) -> bool {
        self.run.stage = Stage::Releasing { since: self.now };
        self.release_all();
        self.steps.push(Step::RecheckPods);
        true
    }

    /// Done is proven: every agent of every member must answer that it held from ready to release.
    pub fn releasing(&mut self, since: Moment) -> bool {
        if let Some(verdict) = self.run.members.iter().find_map(|member| self.broken(member, since)) {
            return self.abandon(verdict);
        }
        if self.run.members.iter().any(Member::owes_release) || !self.observed.rechecked {
            return false;
        }
        self.run.proven = true;
        let ends = self.run.assignments().filter_map(|(_, one)| Some(one.released.as_ref()?.at));
        self.run.hold_ended = ends.max_by_key(|at| at.monotonic).or(Some(self.now));
        match self.request.mode {
            Mode::Check => self.finish(Phase::Done),
            Mode::Replicate => {
                self.run.stage = Stage::AwaitingUsable { since: self.now };
                true
            }
        }
    }

    /// Why this member's release does not prove the hold, if it does not.
    fn broken(&self, member: &Member, since: Moment) -> Option<Verdict> {
        let other = another_pod(self, member).filter(|_| self.observed.rechecked);
        other.or_else(|| member.assignments.iter().find_map(|one| self.broken_by(member, one, since)))
    }

    /// Why this agent's release does not prove the hold, if it does not.
    fn broken_by(&self, member: &Member, one: &Assignment, since: Moment) -> Option<Verdict> {
        let (agent, claim) = (&one.agent, &member.claim.name);
        let broken = |message| Some(Verdict::new(Reason::HoldBroken, message));
        match &one.released {
            Some(released) if released.unbroken => None,
            Some(released) => broken(format!(
                "{agent} did not hold PersistentVolumeClaim {claim} until the release: {}",
                released.reason
            )),
            None if self.was_lost(member, one) => broken(format!(
                "{agent} was lost before it could say that it held PersistentVolumeClaim {claim} until the release"
            )),
            None if self.now.since(&since) >= RELEASE_TIMEOUT => broken(format!(
                "{agent} did not say within {RELEASE_TIMEOUT:?} that it held PersistentVolumeClaim {claim} until the release"
            )),
            None => None,
        }
    }
}
