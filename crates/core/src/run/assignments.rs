//! How far a member is: what its agents have said, each of them an assignment, and what follows from that for the member as a
//! whole. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agents::{AgentKey, AgentRef, AssignmentKey};
use super::facts::{PodFacts, RunningContainer};
use super::state::{Command, Member, Moment, Ready, Refused, Released, Run};
use crate::limits::{HOLD_GRACE, MAX_BLOCKERS};
use stillpoint_api::{Blocker, MemberState, Method, Protection, Reason};

/// A pod that mounts a member: who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Name.
    pub name: String,
    /// UID: a new pod of the same name is another pod.
    pub uid: String,
    /// The node, once it is scheduled.
    pub node: Option<String>,
}

impl From<&PodFacts> for Mount {
    fn from(pod: &PodFacts) -> Self {
        Self { name: pod.name.clone(), uid: pod.uid.clone(), node: pod.node.clone() }
    }
}

/// An agent that is responsible for a member, and how far it is with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Whom to ask.
    pub agent: AgentRef,
    /// How far it is.
    pub state: MemberState,
    /// How it suspends writes.
    pub method: Option<Method>,
    /// What resumes the writes if it dies.
    pub protection: Option<Protection>,
    /// What stands in its way, at most [`MAX_BLOCKERS`].
    pub blockers: Vec<Blocker>,
    /// Blockers that are not listed.
    pub more_blockers: u32,
    /// The last command that was sent to it in this round.
    pub asked: Option<Command>,
    /// When it was told to suspend in this round; of a run that was taken over: when this controller began to ask.
    pub told_to_suspend: Option<Moment>,
    /// The containers that it was told to see.
    pub asked_containers: Vec<RunningContainer>,
    /// How often the containers that it watches had restarted when it was first asked, by the pod's UID and the container's name.
    pub restarts_before: Option<BTreeMap<(String, String), u32>>,
    /// Containers of its pod that restart again and again.
    pub flapping: Vec<Blocker>,
    /// It refused a round before: the others are not suspended before it is.
    pub goes_first: bool,
    /// It refused; the value says whether asking again may help.
    pub refused: Option<Refused>,
    /// It holds, or held.
    pub ready: Option<Ready>,
    /// It resumed writes.
    pub released: Option<Released>,
    /// It held and did not say that it resumed, and its hold has surely ended: when that was known.
    pub lapsed: Option<Moment>,
    /// It said that a suspension did not come about in time: writers may have waited for it without a limit.
    pub was_slow: bool,
    /// How long it suspended writes the last time, by its own clock.
    pub suspended_for: Option<Duration>,
}

impl Assignment {
    /// An assignment of which nothing was asked yet.
    pub fn new(agent: AgentRef) -> Self {
        Self {
            agent,
            state: MemberState::Pending,
            method: None,
            protection: None,
            blockers: Vec::new(),
            more_blockers: 0,
            asked: None,
            told_to_suspend: None,
            asked_containers: Vec::new(),
            restarts_before: None,
            flapping: Vec::new(),
            goes_first: false,
            refused: None,
            ready: None,
            released: None,
            lapsed: None,
            was_slow: false,
            suspended_for: None,
        }
    }

    /// It let go, and is to be asked from the beginning. The blockers stay in view until it answers.
    pub fn ask_anew(&mut self) {
        self.asked = None;
        self.told_to_suspend = None;
        self.refused = None;
        self.ready = None;
        self.released = None;
        self.state = MemberState::Pending;
    }

    /// Whether the agent was asked for something and has not said since that it let go.
    pub fn owes_release(&self) -> bool {
        self.asked.is_some() && self.released.is_none()
    }

    /// Whether it may suspend writes now: it was told to, and it is not known that writes go on. Who refuses a round has resumed
    /// them before.
    pub fn may_suspend(&self) -> bool {
        self.told_to_suspend.is_some() && self.owes_release() && self.refused.is_none() && self.lapsed.is_none()
    }

    /// Since when it has not answered, where that leaves open whether writes are suspended.
    pub fn unknown_since(&self) -> Option<Moment> {
        self.told_to_suspend.filter(|_| self.state == MemberState::Silent && self.may_suspend())
    }

    /// When a hold of its own, if it is one, has surely ended.
    pub fn hold_over(&self, hold_timeout: Duration) -> Option<Duration> {
        let limit = self.ready.map(|ready| ready.lease_end);
        let limit = limit.or_else(|| Some(self.told_to_suspend?.monotonic + hold_timeout));
        Some(limit? + HOLD_GRACE)
    }
}

/// How far a member is, as the status shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// How far.
    pub state: MemberState,
    /// How writes are suspended.
    pub method: Option<Method>,
    /// What resumes the writes if an agent dies.
    pub protection: Option<Protection>,
    /// What stands in the way, at most [`MAX_BLOCKERS`].
    pub blockers: Vec<Blocker>,
    /// Blockers that are not listed.
    pub more_blockers: u32,
    /// When the controller learnt that it was ready.
    pub ready_at: Option<Moment>,
    /// When the controller learnt that its writes go on.
    pub released_at: Option<Moment>,
    /// How long its writes were suspended, by the agents' clocks.
    pub suspended_for: Option<Duration>,
}

impl Standing {
    /// A member in this state, of which nothing else is known.
    pub fn new(state: MemberState) -> Self {
        Self {
            state,
            method: None,
            protection: None,
            blockers: Vec::new(),
            more_blockers: 0,
            ready_at: None,
            released_at: None,
            suspended_for: None,
        }
    }
}

impl Member {
    /// What an agent's part in this member is called.
    pub fn key_of(&self, agent: &AgentRef) -> AssignmentKey {
        AssignmentKey::new(&self.claim.uid, agent.key())
    }

    /// The first pod that mounts it and whose writes none of its agents sees. Such a member is blind: it is never ready.
    pub fn uncovered(&self) -> Option<&Mount> {
        self.mounts.iter().find(|mount| !self.assignments.iter().any(|one| one.agent.covers(&mount.uid)))
    }

    /// How far it is.
    pub fn state(&self) -> MemberState {
        match &self.unassigned {
            Some(standing) => standing.state,
            None if self.uncovered().is_some() => MemberState::NotReady,
            None => together(self.assignments.iter().map(|one| one.state)),
        }
    }

    /// Whether all its agents are in this state; nobody has to be where nobody mounts it.
    pub fn all_are(&self, state: MemberState) -> bool {
        let seen = self.unassigned.is_none() && self.uncovered().is_none();
        seen && self.assignments.iter().all(|one| one.state == state)
    }

    /// Whether an agent of it was asked for something and has not said since that it let go.
    pub fn owes_release(&self) -> bool {
        self.assignments.iter().any(Assignment::owes_release)
    }

    /// Whether its writes may be suspended now, as far as the controller knows.
    pub fn may_be_suspended(&self) -> bool {
        self.assignments.iter().any(Assignment::may_suspend)
    }

    /// Whether an agent of it refused so.
    pub fn is_refused(&self, how: Refused) -> bool {
        self.assignments.iter().any(|one| one.refused == Some(how))
    }

    /// Whether it is ready, or was until it was released.
    pub fn was_ready(&self) -> bool {
        let all = || self.assignments.iter().all(|one| one.ready.is_some());
        self.state() == MemberState::Unmounted || (!self.assignments.is_empty() && all())
    }

    /// What stands in its way: first what no agent sees, then what each agent says.
    pub fn blockers(&self) -> impl Iterator<Item = Blocker> {
        let own = self.unassigned.iter().flat_map(|standing| &standing.blockers).cloned();
        let blind = self.uncovered().map(|mount| blind(&self.claim.name, mount));
        let said = self.assignments.iter().flat_map(|one| one.blockers.iter().chain(&one.flapping)).cloned();
        own.chain(blind).chain(said)
    }

    /// How many blockers it has, those that are not listed included.
    pub fn count_blockers(&self) -> usize {
        let own = self.unassigned.iter().map(|standing| (standing.blockers.len(), standing.more_blockers));
        let said = self.assignments.iter().map(|one| (one.blockers.len(), one.more_blockers));
        let all: usize = own.chain(said).map(|(listed, more)| listed + more as usize).sum();
        let flapping: usize = self.assignments.iter().map(|one| one.flapping.len()).sum();
        all + flapping + usize::from(self.uncovered().is_some())
    }

    /// How far it is, as the status shows it: of several agents the latest, the longest and all blockers.
    pub fn standing(&self) -> Standing {
        if let Some(standing) = &self.unassigned {
            return standing.clone();
        }
        let all = &self.assignments;
        let blockers: Vec<Blocker> = self.blockers().take(MAX_BLOCKERS).collect();
        let left_out = self.count_blockers().saturating_sub(blockers.len());
        Standing {
            state: self.state(),
            method: all.iter().find_map(|one| one.method),
            protection: weakest(all.iter().filter_map(|one| one.protection)),
            blockers,
            more_blockers: u32::try_from(left_out).unwrap_or(u32::MAX),
            ready_at: latest(all.iter().map(|one| one.ready.map(|ready| ready.at))),
            released_at: latest(all.iter().map(|one| one.released.as_ref().map(|released| released.at))),
            suspended_for: all.iter().filter_map(|one| one.suspended_for).max(),
        }
    }
}

/// The state of a member whose agents are in these states: what stands in the way first, then the one that is least far.
fn together(states: impl Iterator<Item = MemberState> + Clone) -> MemberState {
    const ORDER: [MemberState; 8] = [
        MemberState::Silent,
        MemberState::NotReady,
        MemberState::Broken,
        MemberState::Pending,
        MemberState::Preparing,
        MemberState::Prepared,
        MemberState::Suspending,
        MemberState::Releasing,
    ];
    let has = |state: MemberState| states.clone().any(|one| one == state);
    if let Some(first) = ORDER.into_iter().find(|state| has(*state)) {
        return first;
    }
    match (has(MemberState::Ready), has(MemberState::Released)) {
        // Its writes are not suspended by all any more.
        (true, true) => MemberState::Releasing,
        (true, false) => MemberState::Ready,
        (false, true) => MemberState::Released,
        (false, false) => MemberState::Unmounted,
    }
}

/// What outlives least.
fn weakest(mut all: impl Iterator<Item = Protection>) -> Option<Protection> {
    let first = all.next()?;
    Some(all.fold(first, |weakest, one| if one == Protection::PodGuardian { one } else { weakest }))
}

/// The latest, once there are all.
fn latest(all: impl Iterator<Item = Option<Moment>>) -> Option<Moment> {
    let all: Option<Vec<Moment>> = all.collect();
    all?.into_iter().max_by_key(|at| at.monotonic)
}

fn blind(claim: &str, mount: &Mount) -> Blocker {
    Blocker {
        reason: Reason::Blind.into(),
        message: format!("no agent sees how pod {} writes to PersistentVolumeClaim {claim}; give it one", mount.name),
        pod: Some(mount.name.clone()),
        ..Blocker::default()
    }
}

impl Run {
    /// Every assignment of every member.
    pub fn assignments(&self) -> impl Iterator<Item = (&Member, &Assignment)> {
        self.members.iter().flat_map(|member| member.assignments.iter().map(move |one| (member, one)))
    }

    /// The same, to be changed.
    pub fn assignments_mut(&mut self) -> impl Iterator<Item = &mut Assignment> {
        self.members.iter_mut().flat_map(|member| &mut member.assignments)
    }

    /// The agents that are asked; one that has several members as often as that.
    pub fn agents(&self) -> impl Iterator<Item = AgentKey> {
        self.assignments().map(|(_, one)| one.agent.key())
    }

    /// What an agent is responsible for.
    pub fn assigned_to(&self, agent: &AgentKey) -> impl Iterator<Item = AssignmentKey> {
        let own = self.assignments().filter(move |(_, one)| one.agent.has_key(agent));
        own.map(|(member, one)| member.key_of(&one.agent))
    }
}

#[cfg(test)]
#[path = "assignments_tests.rs"]
mod tests;
