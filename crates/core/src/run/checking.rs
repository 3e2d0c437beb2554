//! The stages up to the point where every member holds: nothing is cut in any of them. Pure.

use std::time::Duration;

use super::plan::Draft;
use super::state::{Command, Member, Refused, Stage, Verdict};
use crate::limits::{MAX_ROUNDS, ROUND_PAUSE};
use stillpoint_api::{Blocker, MemberState, Mode, Phase};

impl Draft<'_> {
    /// Intent before action: agents hear of the attempt only when the status that declares it is stored, so that whoever
    /// comes after a crash knows whom to release and what to void.
    pub fn recording(&mut self) -> bool {
        if !self.observed.recorded {
            return false;
        }
        self.run.prepare_deadline = Some(self.now.monotonic + self.request.prepare_timeout);
        self.run.stage = Stage::Preparing;
        true
    }

    /// Every agent looks; writes go on. When all say that nothing stands in the way, all are told to suspend at once.
    pub fn preparing(&mut self) -> bool {
        for index in 0..self.run.members.len() {
            let member = &self.run.members[index];
            if self.wants_prepare(member) {
                self.send(index, Command::Prepare);
            } else if self.was_lost(member) && member.state == MemberState::Prepared {
                // Whoever prepared it is gone.
                self.run.members[index].state = MemberState::Pending;
            }
        }
        if let Some(moved) = self.handle_refusals() {
            return moved;
        }
        if self.containers_changed() {
            return self.try_again();
        }
        let prepared = |member: &Member| matches!(member.state, MemberState::Prepared | MemberState::Unmounted);
        if self.observed.watching && self.run.members.iter().all(prepared) {
            self.run.stage = Stage::Suspending;
            for index in 0..self.run.members.len() {
                self.send(index, Command::Suspend);
            }
            return true;
        }
        self.give_up_in_time()
    }

    fn wants_prepare(&self, member: &Member) -> bool {
        let running =
            member.pod.as_ref().and_then(|pod| self.observed.pods.get(&pod.uid)).is_some_and(|pod| pod.running);
        running && self.is_connected(member) && (member.asked.is_none() || self.was_lost(member))
    }

    /// A container that started after its pod's agent was told what to see is one that the agent does not look for.
    fn containers_changed(&self) -> bool {
        self.run.members.iter().filter(|member| member.asked.is_some()).any(|member| {
            let pod = member.pod.as_ref().and_then(|pod| self.observed.pods.get(&pod.uid));
            pod.is_some_and(|pod| pod.containers != member.asked_containers)
        })
    }

    /// All hold at once, or nobody does.
    pub fn suspending(&mut self) -> bool {
        if self.run.hold_began.is_none() {
            let ready = self.run.members.iter().filter_map(|member| Some(member.ready?.at));
            self.run.hold_began = ready.min_by_key(|at| at.monotonic);
        }
        if let Some(moved) = self.handle_refusals() {
            return moved;
        }
        let ready = |member: &Member| matches!(member.state, MemberState::Ready | MemberState::Unmounted);
        if self.run.members.iter().all(ready) && self.cut_deadline().is_none_or(|end| self.now.monotonic < end) {
            self.run.hold_began.get_or_insert(self.now);
            self.enter(Phase::Ready);
            if self.request.mode == Mode::Check {
                return self.begin_release();
            }
            return self.begin_cut();
        }
        if self.cut_deadline().is_some_and(|end| end <= self.now.monotonic) {
            let verdict =
                self.not_ready("NotReadyTogether", "not all members were ready within holdTimeout of the first");
            return self.abandon(verdict);
        }
        self.give_up_in_time()
    }

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
        for member in self.run.members.iter_mut().filter(|member| member.pod.is_some()) {
            member.asked = None;
            member.refused = None;
            member.ready = None;
            member.released = None;
            // The blockers stay in view until the agent answers anew.
            member.state = MemberState::Pending;
        }
        true
    }

    /// `Some` when an agent refused: whether that moved the run.
    fn handle_refusals(&mut self) -> Option<bool> {
        let refused = |how| self.run.members.iter().any(|member| member.refused == Some(how));
        if refused(Refused::ForGood) {
            let verdict = self.not_ready("NotReady", "an agent cannot suspend its member");
            return Some(self.abandon(verdict));
        }
        refused(Refused::ForNow).then(|| self.try_again())
    }

    /// Releases everybody at once, so that the trouble of one member does not stop the writes of the others, and pauses.
    fn try_again(&mut self) -> bool {
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

    fn give_up_in_time(&mut self) -> bool {
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
    fn not_ready(&self, reason: &str, message: &str) -> Verdict {
        let blocked = || self.run.members.iter().filter(|member| !member.blockers.is_empty());
        let Some((member, first)) = blocked().find_map(|member| Some((member, member.blockers.first()?))) else {
            return Verdict::new(reason, message);
        };
        let all: usize = blocked().map(|member| member.blockers.len() + member.more_blockers as usize).sum();
        let more = if all > 1 { format!(" (and {} more, see status.members)", all - 1) } else { String::new() };
        Verdict::new(&first.reason, format!("{}: {}{more}", member.claim.name, first.message))
    }
}
