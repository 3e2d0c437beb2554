//! The planner against a world that is moved by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod invariants;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::facts::{Claim, PodFacts, RunningContainer};
use super::super::fixtures;
use super::super::observed::{Answer, AnswerContent, Observed};
use super::super::state::{Command, Member, MemberPod, Moment, Request, Run, Stage};
use super::{Step, plan};
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
    pub cuts: usize,
    pub deletions: usize,
    pub statuses: Vec<ReplicationStatus>,
    pub wake_at: Option<Duration>,
    /// Members whose agents take no commands.
    pub unreachable: BTreeSet<usize>,
    /// Members whose agent says that it holds for the round that it was last told to suspend in.
    pub holding: BTreeSet<usize>,
}

pub(super) fn claim_uid(member: usize) -> String {
    format!("claim-{member}")
}

pub(super) fn pod_uid(member: usize) -> String {
    format!("pod-{member}")
}

fn pod(member: usize) -> PodFacts {
    PodFacts {
        name: format!("db-{member}"),
        uid: pod_uid(member),
        claims: [format!("data-{member}")].into(),
        has_agent: true,
        running: true,
        containers: vec![RunningContainer { name: "db".into(), id: format!("id-{member}") }],
        ..PodFacts::default()
    }
}

impl World {
    /// `mounted` members with a pod each, then `unmounted` ones.
    pub fn new(mode: Mode, mounted: usize, unmounted: usize) -> Self {
        let now = Moment { monotonic: Duration::from_secs(100), wall: Timestamp::UNIX_EPOCH };
        let mut observed = Observed { watching: true, ..Observed::default() };
        let members = (0..mounted + unmounted).map(|member| {
            let reference = ClaimReference { name: format!("data-{member}"), uid: claim_uid(member) };
            observed.claims.insert(
                reference.uid.clone(),
                Claim { name: reference.name.clone(), uid: reference.uid.clone(), ..Claim::default() },
            );
            let member_pod = (member < mounted).then(|| {
                observed.pods.insert(pod_uid(member), pod(member));
                observed.connected.insert(pod_uid(member));
                MemberPod { name: format!("db-{member}"), uid: pod_uid(member), node: None, mount_path: "/data".into() }
            });
            Member::new(reference, member_pod)
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
            cuts: 0,
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
        self.run = plan.run;
        self.wake_at = plan.wake_at;
        self.statuses.extend(plan.statuses);
        for step in &plan.steps {
            match step {
                Step::Send { member, pod_uid: to, command, .. } => {
                    let index = member.trim_start_matches("claim-").parse().unwrap();
                    self.observed.asking(member);
                    self.sent.push((index, *command));
                    self.holding.remove(&index);
                    if self.unreachable.contains(&index) || !self.observed.connected.contains(to) {
                        self.observed.lost(to, [member.clone()]);
                    }
                }
                Step::Ask(asks) => {
                    self.cuts += 1;
                    self.observed.open_creations += asks.len();
                }
                Step::Remove(_) => self.deletions += 1,
                Step::RecheckPods => self.observed.rechecked = true,
            }
        }
        plan.steps
    }

    pub fn answer(&mut self, member: usize, content: AnswerContent) {
        let suspends = self.last_command(member) == Some(Command::Suspend);
        match content {
            AnswerContent::Ready { round, .. } if suspends && round == self.run.round => {
                self.holding.insert(member);
            }
            AnswerContent::NotReady { round, .. } if round != self.run.round => {}
            AnswerContent::NotReady { .. } | AnswerContent::Released { .. } => {
                self.holding.remove(&member);
            }
            AnswerContent::Ready { .. } | AnswerContent::Waiting { .. } | AnswerContent::Prepared { .. } => {}
        }
        self.observed.answers.insert(claim_uid(member), Answer { at: self.now, content });
    }

    pub fn lose(&mut self, member: usize) {
        self.observed.lost(&pod_uid(member), [claim_uid(member)]);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
    }

    pub fn created(&mut self, member: usize) {
        self.observed.open_creations = self.observed.open_creations.saturating_sub(1);
        self.snapshot(member, VolumeSnapshotStatus::default());
    }

    pub fn snapshot(&mut self, member: usize, status: VolumeSnapshotStatus) {
        let snapshot = fixtures::snapshot(Some(&status));
        self.observed.replicas.insert(fixtures::replica(&self.run.members[member]), snapshot);
    }

    pub fn mounted(&self) -> Vec<usize> {
        (0..self.run.members.len()).filter(|member| self.run.members[*member].pod.is_some()).collect()
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
        for member in self.mounted() {
            if self.last_command(member) == Some(Command::Release) {
                self.answer(member, released(false));
            }
        }
        self.observed.open_creations = 0;
        self.turn();
        if self.deletions > 0 {
            self.observed.deleted_replicas = Some(self.run.members.len());
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
    AnswerContent::NotReady { round, retryable, blockers: vec![blocker(reason)], more: 0 }
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

pub(super) fn snapshot_error() -> VolumeSnapshotStatus {
    let error = Some(VolumeSnapshotError { message: Some("no space".into()) });
    VolumeSnapshotStatus { error, ..VolumeSnapshotStatus::default() }
}
