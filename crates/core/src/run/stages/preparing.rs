//! Agents look, and writes go on.

use std::collections::BTreeMap;

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
        one.agent.sees_running_pods(&self.observed.pods)
            && self.is_connected(one)
            && (one.asked.is_none() || self.was_lost(member, one))
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
        let pods = &self.observed.pods;
        let there = one.agent.watched_pods(pods).next().is_some();
        one.asked.is_some() && there && one.agent.watched_containers(pods) != one.asked_containers
    }

    fn name_flapping(&mut self) {
        let pods = &self.observed.pods;
        for one in self.run.assignments_mut() {
            let now = restarts(one, pods);
            let before = one.restarts_before.get_or_insert_with(|| now.clone());
            let since = |key, now: &u32| now.saturating_sub(before.get(key).copied().unwrap_or(0));
            let flapping = now.iter().filter(|(key, now)| since(key, now) >= FLAPPING_RESTARTS);
            one.flapping = flapping.filter_map(|((uid, name), _)| Some(flaps(pods.get(uid)?, name))).collect();
        }
    }
}

/// How often the containers that an agent watches have restarted, by the pod's UID and the container's name.
fn restarts(one: &Assignment, pods: &BTreeMap<String, PodFacts>) -> BTreeMap<(String, String), u32> {
    let mut all = BTreeMap::new();
    for pod in one.agent.watched_pods(pods) {
        all.extend(pod.restarts.iter().map(|(name, count)| ((pod.uid.clone(), name.clone()), *count)));
    }
    all
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
