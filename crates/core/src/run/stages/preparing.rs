//! Agents look, and writes go on.

use stillpoint_api::{Blocker, MemberState, Reason};

use super::super::assignments::Assignment;
use super::super::facts::PodFacts;
use super::super::plan::Draft;
use super::super::state::{Command, Member, Stage};
use crate::limits::FLAPPING_RESTARTS;

impl Draft<'_> {
    /// Every agent looks; writes go on. When all say that nothing stands in the way, all are told to suspend at once; but after a round
    /// that failed, those first that refused it.
    pub fn preparing(&mut self) -> bool {
        self.follow_restarts();
        self.send(Command::Prepare, Self::wants_prepare);
        self.forget_the_lost();
        if let Some(moved) = self.handle_refusals() {
            return moved;
        }
        let prepared = |member: &Member| member.all_are(MemberState::Prepared);
        if self.observed.watching && self.run.members.iter().all(prepared) {
            self.run.stage = Stage::Suspending;
            let first = self.run.assignments().any(|(_, one)| one.goes_first);
            self.send(Command::Suspend, |_, _, one| one.goes_first || !first);
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

    /// Who was told of containers that are not those of its pod any more is told anew; the others wait, prepared.
    fn follow_restarts(&mut self) {
        self.name_flapping();
        for one in self.run.assignments_mut() {
            if one.asked == Some(Command::Release) && one.released.is_some() {
                one.ask_anew();
            }
        }
        self.send(Command::Release, |draft, _, one| {
            one.asked == Some(Command::Prepare) && draft.has_other_containers(one)
        });
    }

    /// A container that started after an agent was told what to see is one that the agent does not look for.
    pub fn has_other_containers(&self, one: &Assignment) -> bool {
        let pod = one.agent.watched_pod(&self.observed.pods);
        one.asked.is_some() && pod.is_some_and(|pod| pod.containers != one.asked_containers)
    }

    fn name_flapping(&mut self) {
        let pods = &self.observed.pods;
        for one in self.run.assignments_mut() {
            let Some(pod) = one.agent.watched_pod(pods) else { continue };
            let before = one.restarts_before.get_or_insert_with(|| pod.restarts.clone());
            let since = |name: &str, now: u32| now.saturating_sub(before.get(name).copied().unwrap_or(0));
            let flapping = pod.restarts.iter().filter(|(name, now)| since(name, **now) >= FLAPPING_RESTARTS);
            one.flapping = flapping.map(|(name, _)| flaps(pod, name)).collect();
        }
    }
}

fn flaps(pod: &PodFacts, container: &str) -> Blocker {
    Blocker {
        reason: Reason::ContainerRestarts.into(),
        message: format!(
            "container {container} of pod {} restarts again and again, and the agent must look anew whenever it starts; see why it ends",
            pod.name
        ),
        pod: Some(pod.name.clone()),
        container: Some(container.to_owned()),
        ..Blocker::default()
    }
}
