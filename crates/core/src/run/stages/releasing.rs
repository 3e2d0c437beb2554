//! Everybody was told to release, and the proof is collected.

use stillpoint_api::{Mode, Phase};

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

    /// Done is proven: every member must answer that it held from ready to release.
    pub fn releasing(&mut self, since: Moment) -> bool {
        if let Some(verdict) = self.run.members.iter().find_map(|member| self.broken(member, since)) {
            return self.abandon(verdict);
        }
        if self.run.members.iter().any(Member::owes_release) || !self.observed.rechecked {
            return false;
        }
        self.run.proven = true;
        let ends = self.run.members.iter().filter_map(|member| Some(member.released.as_ref()?.at));
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
        let claim = &member.claim.name;
        let broken = |message| Some(Verdict::new("HoldBroken", message));
        if let Some(verdict) = another_pod(self, member).filter(|_| self.observed.rechecked) {
            return Some(verdict);
        }
        match (&member.pod, &member.released) {
            (None, _) => None,
            (Some(_), Some(released)) if released.unbroken => None,
            (Some(pod), Some(released)) => broken(format!(
                "the agent of pod {} did not hold PersistentVolumeClaim {claim} until the release: {}",
                pod.name, released.reason
            )),
            (Some(pod), None) if self.was_lost(member) => broken(format!(
                "the agent of pod {} was lost before it could say that it held PersistentVolumeClaim {claim} until the release",
                pod.name
            )),
            (Some(pod), None) if self.now.since(&since) >= RELEASE_TIMEOUT => broken(format!(
                "the agent of pod {} did not say within {RELEASE_TIMEOUT:?} that it held PersistentVolumeClaim {claim} until the release",
                pod.name
            )),
            (Some(_), None) => None,
        }
    }
}
