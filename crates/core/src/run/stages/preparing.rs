//! Agents look, and writes go on.

use stillpoint_api::MemberState;

use super::super::plan::Draft;
use super::super::state::{Command, Member, Stage};

impl Draft<'_> {
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
}
