//! Agents suspend, and those that are ready hold.

use stillpoint_api::{MemberState, Mode, Phase, Reason};

use super::super::assignments::Assignment;
use super::super::plan::Draft;
use super::super::state::{Command, Member, Verdict};

impl Draft<'_> {
    /// All hold at once, or nobody does.
    pub fn suspending(&mut self) -> bool {
        if self.run.hold_began.is_none() {
            let ready = self.run.assignments().filter_map(|(_, one)| Some(one.ready?.at));
            self.run.hold_began = ready.min_by_key(|at| at.monotonic);
        }
        if let Some(moved) = self.handle_refusals() {
            return moved;
        }
        if let Some(moved) = self.suspend_the_others() {
            return moved;
        }
        let ready = |member: &Member| member.all_are(MemberState::Ready);
        if self.run.members.iter().all(ready) && self.cut_deadline().is_none_or(|end| self.now.monotonic < end) {
            self.run.hold_began.get_or_insert(self.now);
            self.enter(Phase::Ready);
            if self.request.mode == Mode::Check {
                return self.begin_release();
            }
            return self.begin_cut();
        }
        if self.cut_deadline().is_some_and(|end| end <= self.now.monotonic) {
            self.blame_the_silent();
            let late = "not all members were ready within holdTimeout of the first";
            let blockers = self.run.members.iter().any(|member| member.count_blockers() > 0);
            let named = blockers.then(|| self.not_ready(Reason::NotReadyTogether, late).message);
            let message = named.map_or_else(|| late.to_owned(), |named| format!("{late}: {named}"));
            return self.abandon(Verdict::new(Reason::NotReadyTogether, message));
        }
        self.give_up_in_time()
    }

    /// When those hold that go first, the others follow. `Some`: whether that moved the run.
    fn suspend_the_others(&mut self) -> Option<bool> {
        let (first, others): (Vec<_>, Vec<_>) =
            self.run.assignments().partition(|(_, one)| one.told_to_suspend.is_some());
        if others.is_empty() {
            return None;
        }
        let fell_back = |(member, one): &(&Member, &Assignment)| {
            one.state != MemberState::Prepared || self.was_lost(member, one) || self.has_other_containers(one)
        };
        if others.iter().any(fell_back) {
            return Some(self.try_again());
        }
        if !first.iter().all(|(_, one)| one.state == MemberState::Ready) {
            return None;
        }
        self.send(Command::Suspend, |_, _, one| one.told_to_suspend.is_none());
        Some(true)
    }
}
