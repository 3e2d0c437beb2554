//! What follows when members are not ready, and what is said of it. Pure.

use stillpoint_api::{Blocker, MemberState};

use super::plan::Draft;
use super::state::{Refused, Stage, Verdict};
use crate::limits::{MAX_ROUNDS, ROUND_PAUSE};

impl Draft<'_> {
    /// `Some` when an agent refused: whether that moved the run.
    pub fn handle_refusals(&mut self) -> Option<bool> {
        let refused = |how| self.run.members.iter().any(|member| member.refused == Some(how));
        if refused(Refused::ForGood) {
            let verdict = self.not_ready("NotReady", "an agent cannot suspend its member");
            return Some(self.abandon(verdict));
        }
        refused(Refused::ForNow).then(|| self.try_again())
    }

    /// Releases everybody at once, so that the trouble of one member does not stop the writes of the others, and pauses.
    pub fn try_again(&mut self) -> bool {
        let pause = ROUND_PAUSE * 2_u32.saturating_pow(self.run.round - 1);
        let until = self.now.monotonic + pause;
        let in_time = self.run.prepare_deadline.is_none_or(|end| until < end);
        if self.run.round >= MAX_ROUNDS || !in_time {
            let verdict = self.not_ready("NotReady", "the members were not ready together in any round");
            return self.abandon(verdict);
        }
        self.release_all();
        self.run.stage = Stage::Pausing { until };
        true
    }

    pub fn give_up_in_time(&mut self) -> bool {
        if self.run.prepare_deadline.is_none_or(|end| self.now.monotonic < end) {
            return false;
        }
        self.blame_the_silent();
        let verdict = self.not_ready("NotReadyInTime", "not all members were ready within prepareTimeout");
        self.abandon(verdict)
    }

    /// A member that is not ready and says nothing gets a blocker that says so.
    fn blame_the_silent(&mut self) {
        for index in 0..self.run.members.len() {
            let member = &self.run.members[index];
            let Some(pod) = &member.pod else { continue };
            let expected =
                matches!(member.state, MemberState::Pending | MemberState::Preparing | MemberState::Suspending);
            if !expected || !member.blockers.is_empty() {
                continue;
            }
            let claim = &member.claim.name;
            let running = self.observed.pods.get(&pod.uid).is_some_and(|pod| pod.running);
            let (reason, message) = if !running {
                (
                    "PodNotRunning",
                    format!(
                        "pod {}, which mounts PersistentVolumeClaim {claim}, is not running; see why it does not start",
                        pod.name
                    ),
                )
            } else if !self.is_connected(member) {
                (
                    "AgentNotConnected",
                    format!(
                        "the agent of pod {}, which mounts PersistentVolumeClaim {claim}, is not connected to the controller; see the logs of its container stillpoint-agent",
                        pod.name
                    ),
                )
            } else {
                (
                    "AgentSilent",
                    format!(
                        "the agent of pod {} did not answer for PersistentVolumeClaim {claim} in time; see the logs of its container stillpoint-agent",
                        pod.name
                    ),
                )
            };
            let blocker = Blocker { reason: reason.into(), message, pod: Some(pod.name.clone()), ..Blocker::default() };
            let member = &mut self.run.members[index];
            member.state = MemberState::NotReady;
            member.blockers.push(blocker);
        }
    }

    /// The verdict over members that were not ready: the first blocker, and how many more there are.
    pub fn not_ready(&self, reason: &str, message: &str) -> Verdict {
        let blocked = || self.run.members.iter().filter(|member| !member.blockers.is_empty());
        let Some((member, first)) = blocked().find_map(|member| Some((member, member.blockers.first()?))) else {
            return Verdict::new(reason, message);
        };
        let all: usize = blocked().map(|member| member.blockers.len() + member.more_blockers as usize).sum();
        let more = if all > 1 { format!(" (and {} more, see status.members)", all - 1) } else { String::new() };
        Verdict::new(&first.reason, format!("{}: {}{more}", member.claim.name, first.message))
    }
}
