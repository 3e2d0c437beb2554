//! Agents look, and writes go on.

use stillpoint_api::MemberState;

use super::super::assignments::Assignment;
use super::super::plan::Draft;
use super::super::state::{Command, Member, Stage};

impl Draft<'_> {
    /// Every agent looks; writes go on. When all say that nothing stands in the way, all are told to suspend at once.
    pub fn preparing(&mut self) -> bool {
        self.send(Command::Prepare, Self::wants_prepare);
        self.forget_the_lost();
        if let Some(moved) = self.handle_refusals() {
            return moved;
        }
        if self.containers_changed() {
            return self.try_again();
        }
        let prepared = |member: &Member| member.all_are(MemberState::Prepared);
        if self.observed.watching && self.run.members.iter().all(prepared) {
            self.run.stage = Stage::Suspending;
            self.send(Command::Suspend, |_, _, _| true);
            return true;
        }
        self.give_up_in_time()
    }

    fn wants_prepare(&self, member: &Member, one: &Assignment) -> bool {
        let running = one.agent.watched_pod(&self.observed.pods).is_some_and(|pod| pod.running);
        running && self.is_connected(one) && (one.asked.is_none() || self.was_lost(member, one))
    }

    /// Whoever had prepared and was lost must prepare again.
    fn forget_the_lost(&mut self) {
        if self.observed.lost.is_empty() {
            return;
        }
        for member in 0..self.run.members.len() {
            let own = &self.run.members[member];
            let gone = |one: &Assignment| one.state == MemberState::Prepared && self.was_lost(own, one);
            let gone: Vec<bool> = own.assignments.iter().map(gone).collect();
            for (one, _) in self.run.members[member].assignments.iter_mut().zip(gone).filter(|(_, gone)| *gone) {
                one.state = MemberState::Pending;
            }
        }
    }

    /// A container that started after an agent was told what to see is one that the agent does not look for.
    fn containers_changed(&self) -> bool {
        self.run.assignments().filter(|(_, one)| one.asked.is_some()).any(|(_, one)| {
            let pod = one.agent.watched_pod(&self.observed.pods);
            pod.is_some_and(|pod| pod.containers != one.asked_containers)
        })
    }
}
