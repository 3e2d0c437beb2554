//! The leaders, as the model checker steps them: the production planner behind [`Controller`], and of its status writer what a
//! next leader reads.
//!
//! What no decision reads is blanked before states are compared: wall times, texts, conditions, the history of phases, and how
//! long things took. The planner compares none of it; it only copies it into the status. Everything else of a run and of what
//! it observed tells states apart, by way of its `Debug`, so that a new field does until it is blanked here.
//!
//! Three kinds of status are written: a leader's first (the intent, and that the run is this leader's), the one that declares
//! the cut proven, and the last. Those in between would tell an older leader again that its place is taken, and the next one
//! whether to call the end of a void run `Aborted` or `Failed`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec, VolumeSnapshotStatus};
use stillpoint_api::{DeletionPolicy, Mode, Phase, ReplicationStatus};
use stillpoint_core::hold::Command as AgentCommand;
use stillpoint_core::run::agents::{AgentKey, AssignmentKey};
use stillpoint_core::run::facts::{AgentMount, Claim, PodFacts};
use stillpoint_core::run::observed::{AnswerContent, Observed};
use stillpoint_core::run::state::{Member, Moment, Stage, Verdict};
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command as WireCommand;
use stillpoint_core::wire::{self, ControllerMessage};

use super::pool::{Id, Memo, Pool};
use super::state::Order;
use super::{Bounds, Without};
use crate::controller::{Controller, Event, Object, Output, Spec, Store, Writer, untyped};

/// The name that every member has on its node.
const MEMBER: &str = "member";

/// A replica as the API server shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// There is none.
    Nothing,
    /// Asked for.
    Made,
    /// Cut.
    Cut,
    /// Cut, and ready to use.
    Usable,
}

/// What a leader hears, about a member by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The agent reports.
    Report(usize, Id),
    /// The agent's session ended.
    Lost(usize),
    /// The agent's session can be used.
    Connected(usize),
    /// A creation succeeded, or not.
    Created(usize, bool),
    /// A watch shows a replica.
    Replica(usize, Shown),
    /// All replicas are deleted; so many were there.
    Deleted(usize),
    /// The pods, listed anew, are what they were.
    Rechecked,
    /// The oldest status that waits is stored.
    Written,
    /// It is time.
    Wake,
}

/// What a leader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Commands a member's agent.
    Send(usize, Id),
    /// Asks for all replicas: of this attempt, in this round.
    Create { attempt: u32, round: u32 },
    /// Has all replicas deleted.
    Delete,
    /// Lists the pods anew.
    Recheck,
}

/// What came of an input.
pub struct Effect {
    /// The leader after it.
    pub leader: Id,
    /// What it does, in order.
    pub deeds: Vec<Deed>,
}

/// A leader's process.
#[derive(Clone)]
struct Leader {
    controller: Controller,
    /// Statuses that are not stored yet.
    writes: Vec<Arc<ReplicationStatus>>,
    /// Its first status was queued.
    declared: bool,
    /// What was queued last.
    newest: Option<Arc<ReplicationStatus>>,
}

/// A leader, and what is asked of it again and again.
pub struct View {
    leader: Leader,
    /// Something is to be done at a certain time.
    pub wakes: bool,
    /// The run has ended.
    pub ended: bool,
    /// The stage, for people.
    pub stage: String,
    /// It waits for a status to be stored.
    pub writes: Option<Id>,
    /// It gives everything back.
    pub abandons: bool,
    /// The members that have said that they let go.
    pub released: Vec<bool>,
}

/// A status, and what is asked of it again and again.
pub struct Stored {
    status: Arc<ReplicationStatus>,
    /// Its phase.
    pub phase: Option<Phase>,
    /// The leader that wrote it.
    pub epoch: u64,
}

/// What a leader begins with: its epoch, the stored status, the replicas that are there, whose agents are connected.
type Beginning = (u64, Option<Id>, Vec<Shown>, Vec<bool>);

/// All leaders and statuses that were met.
pub struct Leaders {
    now: Moment,
    without: Option<Without>,
    members: Vec<Named>,
    spec: Spec,
    leaders: Pool<String, View>,
    statuses: Pool<String, Stored>,
    effects: Memo<(Id, Input), Effect>,
    begun: Memo<Beginning, Effect>,
    permuted: Memo<(Id, Order), Id>,
    permuted_statuses: Memo<(Id, Order), Id>,
    reports: Arc<super::members::Members>,
}

/// What the members are called here.
struct Named {
    claim: String,
    pod: String,
    replica: String,
}

impl Leaders {
    /// None yet.
    pub fn new(bounds: &Bounds, reports: Arc<super::members::Members>) -> Self {
        let now = Moment { monotonic: Duration::from_secs(1_000_000), wall: Timestamp::UNIX_EPOCH };
        let spec = Spec {
            members: (0..bounds.members).map(claim_name).collect(),
            mode: Mode::Replicate,
            prepare_timeout: bounds.prepare_timeout,
            hold_timeout: bounds.hold_timeout,
            deletion_policy: DeletionPolicy::Delete,
        };
        let mut leaders = Self {
            now,
            without: bounds.without,
            members: Vec::new(),
            spec,
            leaders: Pool::new(),
            statuses: Pool::new(),
            effects: Memo::new(),
            begun: Memo::new(),
            permuted: Memo::new(),
            permuted_statuses: Memo::new(),
            reports,
        };
        let mut store = leaders.store(None, &[]);
        let object = Object::new(leaders.spec.clone());
        if let Ok(Some(first)) = Controller::take_over(1, &object, &mut store, BTreeSet::new(), now) {
            leaders.members = first
                .run
                .members
                .iter()
                .map(|member| Named {
                    claim: member.claim.uid.clone(),
                    pod: member.mounts.first().map(|pod| pod.uid.clone()).unwrap_or_default(),
                    replica: member.replica_name.clone(),
                })
                .collect();
        }
        leaders
    }

    /// A leader.
    pub fn view(&self, id: Id) -> Arc<View> {
        self.leaders.get(id)
    }

    /// A status.
    pub fn status(&self, id: Id) -> Arc<Stored> {
        self.statuses.get(id)
    }

    /// How many different leaders were met.
    pub fn len(&self) -> usize {
        self.leaders.len()
    }

    /// What is stored once a leader has claimed what it read, before it does anything.
    pub fn claimed(&self, id: Id, epoch: u64) -> Id {
        let mut status = ReplicationStatus::clone(&self.statuses.get(id).status);
        status.leader_epoch = epoch;
        self.intern_status(&Arc::new(status))
    }

    /// A leader begins with what is stored, and plans once.
    pub fn begin(&self, epoch: u64, status: Option<Id>, replicas: &[Shown], connected: &[bool]) -> Arc<Effect> {
        self.begun.get(&(epoch, status, replicas.to_vec(), connected.to_vec()), || {
            let mut store = self.store(status, replicas);
            let object = store.object.clone().unwrap_or_else(|| Object::new(self.spec.clone()));
            let sessions = connected.iter().zip(&self.members).filter(|(connected, _)| **connected);
            let sessions = sessions.map(|(_, member)| member.pod.clone()).collect();
            // Nobody writes between the reading and the beginning here, which is one step.
            let controller = Controller::take_over(epoch, &object, &mut store, sessions, self.now).ok().flatten();
            let leader =
                controller.map(|controller| Leader { controller, writes: Vec::new(), declared: false, newest: None });
            match leader {
                Some(leader) => self.turn(leader, self.now),
                None => Effect { leader: Id::MAX, deeds: Vec::new() },
            }
        })
    }

    /// Lets a leader hear something, and plan.
    pub fn step(&self, leader: Id, input: Input) -> Arc<Effect> {
        self.effects.get(&(leader, input), || {
            let mut leader = self.leaders.get(leader).leader.clone();
            let mut now = self.now;
            let member = |index: usize| &self.members[index];
            let event = match input {
                Input::Report(index, report) => {
                    let mut report = (*self.reports.report(report)).clone();
                    if let Some(attempt) = super::members::attempt_of(&mut report) {
                        attempt.member.clone_from(&member(index).claim);
                        if self.without == Some(Without::EpochCheck) {
                            attempt.epoch = leader.controller.request.epoch;
                        }
                    }
                    if let (Report::Released(released), Some(Without::ReleaseVote)) = (&mut report, self.without) {
                        released.unbroken = true;
                    }
                    Some(Event::Report(member(index).pod.clone(), report))
                }
                Input::Lost(index) => {
                    leader.controller.sessions.remove(&member(index).pod);
                    Some(Event::Lost(member(index).pod.clone()))
                }
                Input::Connected(index) => {
                    leader.controller.sessions.insert(member(index).pod.clone());
                    Some(Event::Connected(member(index).pod.clone()))
                }
                Input::Created(index, true) => Some(Event::Created {
                    name: member(index).replica.clone(),
                    result: Ok(Box::new(self.snapshot(index, Shown::Made))),
                }),
                Input::Created(index, false) => {
                    Some(Event::Created { name: member(index).replica.clone(), result: Err("refused".to_owned()) })
                }
                Input::Replica(index, shown) => {
                    let snapshot = (shown != Shown::Nothing).then(|| Box::new(self.snapshot(index, shown)));
                    Some(Event::Replica(member(index).replica.clone(), snapshot))
                }
                Input::Deleted(found) => Some(Event::Deleted(found)),
                Input::Rechecked => Some(Event::Rechecked(leader.controller.observed.pods.clone())),
                Input::Written => {
                    leader.writes.remove(0);
                    leader.controller.observed.recorded = true;
                    None
                }
                Input::Wake => {
                    now.monotonic = leader.controller.wake_at().unwrap_or(now.monotonic).max(now.monotonic);
                    None
                }
            };
            if let Some(event) = event {
                leader.controller.hear(event, now);
            }
            self.turn(leader, now)
        })
    }

    fn turn(&self, mut leader: Leader, now: Moment) -> Effect {
        let answers = leader.controller.observed.answers.keys();
        let answered: BTreeSet<String> = answers.map(|assignment| assignment.claim.clone()).collect();
        let outputs =
            if leader.controller.run.stage == Stage::Ended { Vec::new() } else { leader.controller.turn(now) };
        let mut deeds = Vec::new();
        let mut outputs = std::collections::VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Send { pod, message } => {
                    let Some(index) = self.members.iter().position(|member| member.pod == pod) else { continue };
                    let Some(command) = plain(message) else { continue };
                    let unanswered = !answered.contains(&self.members[index].claim);
                    if self.without == Some(Without::AskBeforeRelease)
                        && matches!(command, AgentCommand::Release(_))
                        && unanswered
                    {
                        continue;
                    }
                    deeds.push(Deed::Send(index, self.reports.intern_command(command)));
                }
                Output::CreateSnapshots(_) => {
                    let run = &leader.controller.run;
                    deeds.push(Deed::Create { attempt: run.attempt, round: run.round });
                }
                Output::DeleteReplicas(_) => deeds.push(Deed::Delete),
                Output::RecheckPods => deeds.push(Deed::Recheck),
                Output::PutStatus { status, .. } => {
                    self.queue(&mut leader, &status);
                    // Stored as far as this writer knows, so that it gives the next one; when it really is, is a step of its own.
                    let object = Object { status: Some(*status), ..Object::new(self.spec.clone()) };
                    leader.controller.writer.put(Ok(object), now.monotonic);
                    outputs.extend(leader.controller.writer.step(now.monotonic));
                }
                // Nobody writes but this queue, and the object stays.
                Output::GetObject | Output::DeleteLate(_) | Output::RemoveFinalizer { .. } => {}
            }
        }
        leader.controller.writer = Writer::new(Object::new(self.spec.clone()));
        normalise(&mut leader.controller);
        Effect { leader: self.intern(leader), deeds }
    }

    /// Queues a status, if a next leader would act on it.
    fn queue(&self, leader: &mut Leader, status: &ReplicationStatus) {
        let ends = status.phase.is_some_and(Phase::is_final);
        let matters = !leader.declared || status.consistency.is_some() || ends;
        if !matters {
            return;
        }
        let status = Arc::new(normal(status));
        if leader.newest.as_ref() == Some(&status) {
            return;
        }
        leader.declared = true;
        leader.newest = Some(Arc::clone(&status));
        if leader.writes.last().is_some_and(|last| last.phase == status.phase) {
            leader.writes.pop();
        }
        leader.writes.push(status);
    }

    fn intern(&self, leader: Leader) -> Id {
        let Leader { controller, writes, declared, newest } = &leader;
        let ended = controller.run.stage == Stage::Ended;
        let wakes = controller.wake_at();
        let key = if ended {
            let released: Vec<_> = controller.run.members.iter().map(has_released).collect();
            format!("{} {:?} {released:?} {writes:?}", controller.request.epoch, controller.run.phase())
        } else {
            let Controller { request, run, observed, sessions, asked, .. } = controller;
            let known = format!("{run:?} {observed:?} {sessions:?} {asked:?}");
            format!("{} {known} {wakes:?} {writes:?} {declared} {newest:?}", request.epoch)
        };
        let next = writes.first().map(|status| self.intern_status(status));
        self.leaders.intern(key, || View {
            wakes: !ended && wakes.is_some(),
            ended,
            stage: format!("{:?}", controller.run.stage).chars().take_while(char::is_ascii_alphabetic).collect(),
            writes: next,
            abandons: matches!(controller.run.stage, Stage::Abandoning { .. })
                || (ended && controller.run.phase() != Phase::Done),
            released: controller.run.members.iter().map(has_released).collect(),
            leader: leader.clone(),
        })
    }

    fn intern_status(&self, status: &Arc<ReplicationStatus>) -> Id {
        let make = || Stored { status: Arc::clone(status), phase: status.phase, epoch: status.leader_epoch };
        self.statuses.intern(format!("{status:?}"), make)
    }

    /// The same leader, had its members been named in another order.
    pub fn permuted(&self, leader: Id, order: Order) -> Id {
        *self.permuted.get(&(leader, order), || self.intern(self.permute(&self.leaders.get(leader).leader, order)))
    }

    /// The same status, had its members been named in another order.
    pub fn permuted_status(&self, status: Id, order: Order) -> Id {
        *self.permuted_statuses.get(&(status, order), || {
            self.intern_status(&Arc::new(permute_status(&self.statuses.get(status).status, order)))
        })
    }

    fn permute(&self, leader: &Leader, order: Order) -> Leader {
        let mut new = leader.clone();
        let Controller { run, observed, sessions, asked, .. } = &mut new.controller;
        let old = &leader.controller;
        let all = || self.members.iter().zip(order.of(self.members.len()).map(|from| &self.members[from]));
        for (place, from) in order.of(self.members.len()).enumerate() {
            let own = &old.run.members[place];
            let mut member = old.run.members[from].clone();
            member.claim.clone_from(&own.claim);
            member.volume.clone_from(&own.volume);
            member.mounts.clone_from(&own.mounts);
            for (one, own) in member.assignments.iter_mut().zip(&own.assignments) {
                one.agent.clone_from(&own.agent);
            }
            member.replica_name.clone_from(&own.replica_name);
            if let Some(replica) = &mut member.replica {
                replica.name.clone_from(&self.members[place].replica);
            }
            run.members[place] = member;
        }
        let set = |old: &BTreeSet<String>, name: fn(&Named) -> &String| -> BTreeSet<String> {
            all().filter(|(_, from)| old.contains(name(from))).map(|(to, _)| name(to).clone()).collect()
        };
        *sessions = set(&old.sessions, |named| &named.pod);
        *asked = set(&old.asked, |named| &named.pod);
        let agent = |named: &Named| AgentKey::of_pod(&named.pod);
        let key = |named: &Named| AssignmentKey::new(&named.claim, agent(named));
        let Observed { connected, lost, answers, .. } = &old.observed;
        observed.connected =
            all().filter(|(_, from)| connected.contains(&agent(from))).map(|(to, _)| agent(to)).collect();
        observed.lost = all().filter(|(_, from)| lost.contains(&key(from))).map(|(to, _)| key(to)).collect();
        observed.answers = all().filter_map(|(to, from)| Some((key(to), answers.get(&key(from))?.clone()))).collect();
        let refused = &old.observed.refused_replicas;
        observed.refused_replicas =
            all().filter_map(|(to, from)| Some((object(to), refused.get(&object(from))?.clone()))).collect();
        let replicas = &old.observed.replicas;
        let replicas = all().enumerate().filter_map(|(place, (to, from))| {
            let mut snapshot = untyped::object(&self.snapshot(place, Shown::Made));
            snapshot.data["status"] = replicas.get(&object(from))?.data["status"].clone();
            Some((object(to), snapshot))
        });
        observed.replicas = replicas.collect();
        let status = |status: &Arc<ReplicationStatus>| Arc::new(permute_status(status, order));
        new.writes = leader.writes.iter().map(status).collect();
        new.newest = leader.newest.as_ref().map(status);
        new
    }

    fn store(&self, status: Option<Id>, replicas: &[Shown]) -> Store {
        let mut object = Object::new(self.spec.clone());
        object.status = status.map(|status| (*self.statuses.get(status).status).clone());
        let mut store = Store { object: Some(object), ..Store::default() };
        for name in &self.spec.members {
            let claim = Claim {
                name: name.clone(),
                uid: format!("uid-{name}"),
                volume: Some(format!("pv-{name}")),
                ..Claim::default()
            };
            let pod = PodFacts {
                name: format!("pod-{name}"),
                uid: format!("uid-pod-{name}"),
                claims: BTreeSet::from([name.clone()]),
                has_agent: true,
                agent_mounts: BTreeMap::from([(name.clone(), AgentMount { path: "/data".into(), sub_path: false })]),
                running: true,
                ..PodFacts::default()
            };
            store.claims.insert(claim.uid.clone(), claim);
            store.pods.insert(pod.uid.clone(), pod);
        }
        for (index, shown) in replicas.iter().enumerate().filter(|(_, shown)| **shown != Shown::Nothing) {
            store.snapshots.insert(self.members[index].replica.clone(), self.snapshot(index, *shown));
        }
        store
    }

    fn snapshot(&self, index: usize, shown: Shown) -> VolumeSnapshot {
        let source = VolumeSnapshotSource { persistent_volume_claim_name: Some(claim_name(index)) };
        let spec = VolumeSnapshotSpec { volume_snapshot_class_name: None, source };
        let mut snapshot = VolumeSnapshot::new(&self.members[index].replica, spec);
        let cut = matches!(shown, Shown::Cut | Shown::Usable);
        snapshot.status = cut.then(|| VolumeSnapshotStatus {
            creation_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ready_to_use: Some(shown == Shown::Usable),
            ..VolumeSnapshotStatus::default()
        });
        snapshot
    }
}

/// Whether every agent of a member has said that it let go.
fn has_released(member: &Member) -> bool {
    member.assignments.iter().all(|one| one.released.is_some())
}

fn claim_name(index: usize) -> String {
    format!("claim-{index}")
}

/// A command as every node would be given it.
fn plain(message: ControllerMessage) -> Option<AgentCommand> {
    let named = |attempt: Option<wire::Attempt>| attempt.map(|it| wire::Attempt { member: MEMBER.to_owned(), ..it });
    Some(match message.command? {
        WireCommand::Prepare(mut prepare) => {
            prepare.attempt = named(prepare.attempt);
            prepare.claim = MEMBER.to_owned();
            AgentCommand::Prepare(prepare.attempt.clone()?, prepare)
        }
        WireCommand::Suspend(suspend) => AgentCommand::Suspend(named(suspend.attempt)?, suspend.round),
        WireCommand::Release(release) => AgentCommand::Release(named(release.attempt)?),
    })
}

/// Blanks what is only shown; see the module's documentation.
fn normalise(controller: &mut Controller) {
    let run = &mut controller.run;
    run.conditions.clear();
    last_phase(&mut run.phases);
    run.hold_ended = None;
    run.cut_confirmed = None;
    run.replica_trouble = None;
    if run.verdict.is_some() {
        run.verdict = Some(Verdict::new("", ""));
    }
    for member in &mut run.members {
        for one in &mut member.assignments {
            one.blockers.clear();
            one.more_blockers = 0;
            one.suspended_for = None;
            if let Some(released) = &mut one.released {
                released.reason.clear();
            }
        }
        member.requested = None;
        if let Some(replica) = &mut member.replica {
            replica.cut_took = None;
        }
    }
    for answer in controller.observed.answers.values_mut() {
        match &mut answer.content {
            AnswerContent::Waiting { blockers, more } | AnswerContent::NotReady { blockers, more, .. } => {
                blockers.clear();
                *more = 0;
            }
            AnswerContent::Released { reason, suspended, .. } => {
                reason.clear();
                *suspended = Duration::ZERO;
            }
            AnswerContent::Prepared { .. } | AnswerContent::Ready { .. } => {}
        }
    }
    // Nobody deletes claims or moves pods here, so these say the same in every state.
    debug_assert_eq!(controller.observed.pods.len(), controller.observed.claims.len());
}

fn permute_status(status: &ReplicationStatus, order: Order) -> ReplicationStatus {
    let mut new = status.clone();
    let members = order.of(status.members.len()).zip(&status.members).map(|(from, own)| {
        let mut member = status.members[from].clone();
        member.persistent_volume_claim.clone_from(&own.persistent_volume_claim);
        member.volume.clone_from(&own.volume);
        member.pod.clone_from(&own.pod);
        if let Some(replica) = &mut member.replica {
            let own = own.replica.as_ref().map(|own| own.name.clone());
            replica.name = own.unwrap_or_default();
        }
        member
    });
    new.members = members.collect();
    new
}

/// A status as a next leader would act on it.
fn normal(status: &ReplicationStatus) -> ReplicationStatus {
    let mut status = status.clone();
    status.conditions.clear();
    last_phase(&mut status.phases);
    status.hold = None;
    status.creation_time = None;
    for member in &mut status.members {
        member.blockers.clear();
        member.more_blockers = 0;
        member.ready_at = None;
        member.released_at = None;
        member.suspended_for = None;
        if let Some(replica) = &mut member.replica {
            replica.cut_took = None;
        }
    }
    status
}

/// Only the last phase decides anything: whether another one begins.
fn last_phase(phases: &mut Vec<stillpoint_api::PhaseEntry>) {
    let _ = phases.drain(..phases.len().saturating_sub(1));
    for entry in phases {
        entry.started_at = MicroTime(Timestamp::UNIX_EPOCH);
    }
}
