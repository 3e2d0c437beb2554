//! The planner against a world that is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod assignments;
mod invariants;
mod rounds;
mod table;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::agents::{AgentKey, AgentRef, AssignmentKey};
use super::super::assignments::Mount;
use super::super::facts::{AgentMount, Claim, PodFacts, RunningContainer};
use super::super::fixtures;
use super::super::observed::{Answer, AnswerContent, Observed};
use super::super::state::{Command, Member, Moment, Request, Run, Stage};
use super::{Step, plan};
use crate::replica::ask::{Ask, NotMade};
use stillpoint_api::snapshot::{VolumeSnapshotError, VolumeSnapshotStatus};
use stillpoint_api::{Blocker, ClaimReference, Mode, Phase, Protection, ReplicationStatus};

pub(super) const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// One replication with everything around it; steps are carried out at once, answers come when a test gives them.
pub(super) struct World {
    pub request: Request,
    pub run: Run,
    pub observed: Observed,
    pub now: Moment,
    /// Every command that was sent, by member.
    pub sent: Vec<(usize, Command)>,
    /// The last command to each agent of each member.
    pub told: BTreeMap<(usize, usize), Command>,
    pub cuts: usize,
    /// Replicas that were asked for once more.
    pub asked_again: usize,
    pub deletions: usize,
    pub statuses: Vec<ReplicationStatus>,
    pub wake_at: Option<Duration>,
    /// Agents of members that take no commands.
    pub unreachable: BTreeSet<(usize, usize)>,
    /// Agents of members that say that they hold for the round that they were last told to suspend in.
    pub holding: BTreeSet<(usize, usize)>,
}

pub(super) fn claim_uid(member: usize) -> String {
    format!("claim-{member}")
}

pub(super) fn pod_uid(member: usize) -> String {
    pod_of(member, 0)
}

/// The first pod of a member is named by the member alone.
fn numbered(member: usize, agent: usize) -> String {
    if agent == 0 { member.to_string() } else { format!("{member}.{agent}") }
}

/// UID of the pod in which this agent of a member runs.
pub(super) fn pod_of(member: usize, agent: usize) -> String {
    format!("pod-{}", numbered(member, agent))
}

/// The key of the first agent of a member.
pub(super) fn agent(member: usize) -> AgentKey {
    agent_of(member, 0)
}

pub(super) fn agent_of(member: usize, agent: usize) -> AgentKey {
    AgentKey::of_pod(pod_of(member, agent))
}

pub(super) fn key(member: usize, agent: usize) -> AssignmentKey {
    AssignmentKey::new(claim_uid(member), agent_of(member, agent))
}

fn pod(member: usize, agent: usize) -> PodFacts {
    let mount = AgentMount { path: "/data".into(), sub_path: false };
    PodFacts {
        name: format!("db-{}", numbered(member, agent)),
        uid: pod_of(member, agent),
        claims: [format!("data-{member}")].into(),
        has_agent: true,
        agent_mounts: [(format!("data-{member}"), mount)].into(),
        running: true,
        containers: vec![RunningContainer { name: "db".into(), id: format!("id-{member}") }],
        ..PodFacts::default()
    }
}

impl World {
    /// `mounted` members with a pod each, then `unmounted` ones.
    pub fn new(mode: Mode, mounted: usize, unmounted: usize) -> Self {
        Self::with_agents(mode, &[vec![1; mounted], vec![0; unmounted]].concat())
    }

    /// Members that are mounted by so many pods, each with an agent.
    pub fn with_agents(mode: Mode, agents: &[usize]) -> Self {
        let now = Moment { monotonic: Duration::from_secs(100), wall: Timestamp::UNIX_EPOCH };
        let mut observed = Observed { watching: true, ..Observed::default() };
        let members = agents.iter().enumerate().map(|(member, agents)| {
            let reference = ClaimReference { name: format!("data-{member}"), uid: claim_uid(member) };
            observed.claims.insert(
                reference.uid.clone(),
                Claim { name: reference.name.clone(), uid: reference.uid.clone(), ..Claim::default() },
            );
            let pods: Vec<PodFacts> = (0..*agents).map(|agent| pod(member, agent)).collect();
            observed.pods.extend(pods.iter().map(|pod| (pod.uid.clone(), pod.clone())));
            observed.connected.extend(pods.iter().map(|pod| AgentKey::of_pod(&pod.uid)));
            Member::new(
                reference,
                pods.iter().map(Mount::from).collect(),
                pods.iter().map(|pod| AgentRef::sidecar(pod, &format!("data-{member}"))).collect(),
            )
        });
        let members = members.collect();
        let request =
            Request { mode, prepare_timeout: PREPARE_TIMEOUT, hold_timeout: HOLD_TIMEOUT, ..fixtures::request() };
        Self {
            request,
            run: Run::new(members, ReplicationStatus::default(), now),
            observed,
            now,
            sent: Vec::new(),
            told: BTreeMap::new(),
            cuts: 0,
            asked_again: 0,
            deletions: 0,
            statuses: Vec::new(),
            wake_at: None,
            unreachable: BTreeSet::new(),
            holding: BTreeSet::new(),
        }
    }

    /// Plans and carries out.
    pub fn turn(&mut self) -> Vec<Step> {
        let plan = plan(&self.request, &self.run, &self.observed, self.now);
        let first = self.run.cut_requested.is_none();
        self.run = plan.run;
        self.wake_at = plan.wake_at;
        self.statuses.extend(plan.statuses);
        for step in &plan.steps {
            match step {
                Step::Send { to, command, .. } => {
                    let one = self.agents().into_iter().find(|(member, agent)| key(*member, *agent) == *to).unwrap();
                    self.observed.asking(to);
                    self.sent.push((one.0, *command));
                    self.told.insert(one, *command);
                    self.holding.remove(&one);
                    if self.unreachable.contains(&one) || !self.observed.connected.contains(&to.agent) {
                        self.observed.lost(&to.agent, [to.clone()]);
                    }
                }
                Step::Ask(asks) => {
                    if first {
                        self.cuts += 1
                    } else {
                        self.asked_again += asks.len()
                    }
                    self.observed.open_creations.extend(asks.iter().map(Ask::name));
                }
                Step::Remove(_) => self.deletions += 1,
                Step::Mark(_) => self.observed.marked = Some(Ok(())),
                Step::RecheckPods => self.observed.rechecked = true,
            }
        }
        let mut steps = plan.steps;
        // Once it is stored, the proof is written onto the replicas at once.
        let proven = self.statuses.last().is_some_and(|status| status.consistency.is_some());
        if proven && !self.observed.proof_stored {
            self.observed.proof_stored = true;
            steps.extend(self.turn());
        }
        if steps.iter().any(|step| matches!(step, Step::Mark(_))) && self.run.stage != Stage::Ended {
            steps.extend(self.turn());
        }
        steps
    }

    pub fn answer(&mut self, member: usize, content: AnswerContent) {
        self.say(member, 0, content);
    }

    /// An agent of a member answers.
    pub fn say(&mut self, member: usize, agent: usize, content: AnswerContent) {
        let one = (member, agent);
        let suspends = self.told.get(&one) == Some(&Command::Suspend);
        match content {
            AnswerContent::Ready { round, .. } if suspends && round == self.run.round => {
                self.holding.insert(one);
            }
            AnswerContent::NotReady { round, .. } if round != self.run.round => {}
            AnswerContent::NotReady { .. } | AnswerContent::Released { .. } => {
                self.holding.remove(&one);
            }
            AnswerContent::Ready { .. }
            | AnswerContent::Waiting { .. }
            | AnswerContent::Pending { .. }
            | AnswerContent::Prepared { .. } => {}
        }
        self.observed.answers.insert(key(member, agent), Answer { at: self.now, content });
    }

    pub fn lose(&mut self, member: usize) {
        self.lose_agent(member, 0);
    }

    /// The session of an agent of a member is lost.
    pub fn lose_agent(&mut self, member: usize, agent: usize) {
        let assignments: Vec<AssignmentKey> = self.run.assigned_to(&agent_of(member, agent)).collect();
        self.observed.lost(&agent_of(member, agent), assignments);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
    }

    pub fn created(&mut self, member: usize) {
        self.observed.open_creations.remove(&fixtures::replica(&self.run.members[member]));
        self.snapshot(member, VolumeSnapshotStatus::default());
    }

    pub fn snapshot(&mut self, member: usize, status: VolumeSnapshotStatus) {
        let snapshot = fixtures::snapshot(Some(&status));
        self.observed.replicas.insert(fixtures::replica(&self.run.members[member]), snapshot);
    }

    /// A member's snapshot says that it was asked for at another time.
    pub fn another_asked(&mut self, member: usize) {
        let replica = self.observed.replicas.get_mut(&fixtures::replica(&self.run.members[member])).unwrap();
        let annotations = replica.metadata.annotations.as_mut().unwrap();
        annotations.insert(stillpoint_api::labels::ASKED_AT.to_owned(), "1970-01-01T00:00:01.000000Z".to_owned());
    }

    /// The request for a member's snapshot has made none, as far as is known.
    pub fn not_made(&mut self, member: usize, why: NotMade) {
        let name = fixtures::replica(&self.run.members[member]);
        self.observed.open_creations.remove(&name);
        self.observed.unmade.insert(name, why);
    }

    pub fn mounted(&self) -> Vec<usize> {
        (0..self.run.members.len()).filter(|member| !self.run.members[*member].mounts.is_empty()).collect()
    }

    /// Every agent of every member.
    pub fn agents(&self) -> Vec<(usize, usize)> {
        let members = self.run.members.iter().enumerate();
        members.flat_map(|(member, own)| (0..own.assignments.len()).map(move |agent| (member, agent))).collect()
    }

    /// The last command to each mounted member that was sent any.
    pub fn last_command(&self, member: usize) -> Option<Command> {
        self.sent.iter().rev().find(|(to, _)| *to == member).map(|(_, command)| *command)
    }

    pub fn phases(&self) -> Vec<Phase> {
        self.run.phases.iter().map(|entry| entry.phase).collect()
    }

    pub fn verdict(&self) -> Option<&str> {
        self.run.verdict.as_ref().map(|verdict| verdict.reason.as_str())
    }

    /// To the point where every agent is looking.
    pub fn preparing(mode: Mode, mounted: usize, unmounted: usize) -> Self {
        let mut world = Self::new(mode, mounted, unmounted);
        world.turn();
        assert_eq!(world.sent, [], "nothing is sent before the intent is stored");
        world.observed.recorded = true;
        world.turn();
        world
    }

    /// To the point where every agent was told to suspend.
    pub fn suspending(mode: Mode, mounted: usize) -> Self {
        let mut world = Self::preparing(mode, mounted, 0);
        for member in 0..mounted {
            world.answer(member, prepared());
            world.turn();
        }
        assert_eq!(world.run.stage, Stage::Suspending);
        world
    }

    /// To the point where replicas were asked for.
    pub fn cutting(mounted: usize) -> Self {
        let mut world = Self::suspending(Mode::Replicate, mounted);
        for member in 0..mounted {
            world.answer(member, ready(1));
            world.turn();
        }
        assert_eq!(world.run.stage, Stage::Cutting);
        world
    }

    /// To the point where all replicas are cut and everybody was told to release.
    pub fn releasing(mounted: usize) -> Self {
        let mut world = Self::cutting(mounted);
        for member in 0..mounted {
            world.created(member);
            world.snapshot(member, cut(false));
            world.turn();
        }
        assert!(matches!(world.run.stage, Stage::Releasing { .. }));
        world
    }

    /// To the point where the cut is proven.
    pub fn awaiting(mounted: usize) -> Self {
        let mut world = Self::releasing(mounted);
        for member in 0..mounted {
            world.answer(member, released(true));
            world.turn();
        }
        assert!(matches!(world.run.stage, Stage::AwaitingUsable { .. }));
        world
    }

    /// Answers every release and completes every creation and deletion.
    pub fn settle(&mut self) {
        for (member, agent) in self.agents() {
            if self.told.get(&(member, agent)) == Some(&Command::Release) {
                self.say(member, agent, released(false));
            }
        }
        self.observed.open_creations.clear();
        self.turn();
        if self.deletions > 0 {
            self.observed.removed =
                Some(crate::replica::removal::Removed { found: self.run.members.len(), left: Vec::new() });
        }
        self.turn();
    }
}

pub(super) fn blocker(reason: &str) -> Blocker {
    Blocker { reason: reason.into(), message: "in the way".into(), ..Blocker::default() }
}

pub(super) fn waiting() -> AnswerContent {
    AnswerContent::Waiting { blockers: vec![blocker("LockHeld")], more: 0 }
}

pub(super) fn prepared() -> AnswerContent {
    AnswerContent::Prepared { protection: Some(Protection::NodeGuardian) }
}

pub(super) fn ready(round: u32) -> AnswerContent {
    AnswerContent::Ready { round, suspended: Duration::from_millis(30) }
}

pub(super) fn not_ready(round: u32, retryable: bool) -> AnswerContent {
    let reason = if retryable { "LockHeld" } else { "MissingCapability" };
    AnswerContent::NotReady { round, retryable, blockers: vec![blocker(reason)], more: 0, suspended: Duration::ZERO }
}

pub(super) fn released(unbroken: bool) -> AnswerContent {
    AnswerContent::Released { unbroken, reason: "lapsed".into(), suspended: Duration::from_millis(80) }
}

pub(super) fn cut(usable: bool) -> VolumeSnapshotStatus {
    VolumeSnapshotStatus {
        creation_time: Some(Time(Timestamp::UNIX_EPOCH)),
        ready_to_use: Some(usable),
        ..VolumeSnapshotStatus::default()
    }
}

/// Cut so many seconds after it was asked for, as far as its own clock says.
pub(super) fn cut_at(seconds: i64) -> VolumeSnapshotStatus {
    let time = Timestamp::from_second(seconds).unwrap();
    VolumeSnapshotStatus { creation_time: Some(Time(time)), ..cut(false) }
}

pub(super) fn snapshot_error() -> VolumeSnapshotStatus {
    let error = Some(VolumeSnapshotError { message: Some("no space".into()) });
    VolumeSnapshotStatus { error, ..VolumeSnapshotStatus::default() }
}

/// The snapshot controller has taken notice.
pub(super) fn noticed() -> VolumeSnapshotStatus {
    VolumeSnapshotStatus { ready_to_use: Some(false), ..VolumeSnapshotStatus::default() }
}
