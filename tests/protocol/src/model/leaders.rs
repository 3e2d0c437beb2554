//! The leaders, as the model checker steps them: the production driver up to its attempt, the production attempt, and of its
//! status writer what a next leader reads. Of the registry of sessions: which are open, and which agents were asked.
//!
//! What no decision reads is blanked before states are compared: wall times, texts, conditions, the history of phases, and how
//! long things took. The planner compares none of it; it only copies it into the status. Everything else of a run and of what
//! it observed tells states apart, by way of its `Debug`, so that a new field does until it is blanked here.
//!
//! Three kinds of status are written: a leader's first (the intent, and that the run is this leader's), the one that declares
//! the cut proven, and the last. Those in between would tell an older leader again that its place is taken, and the next one
//! whether to call the end of a void run `Aborted` or `Failed`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec, VolumeSnapshotStatus};
use stillpoint_api::{
    ClaimReference, ConsistencyGroupReplicationSpec, DeletionPolicy, Mode, Phase, ReplicationStatus, Retry, Source,
    Suspension,
};
use stillpoint_core::hold::Command as AgentCommand;
use stillpoint_core::limits::MAX_HOLD;
use stillpoint_core::replica::ask::{NotMade, RunId};
use stillpoint_core::replica::removal::Removed;
use stillpoint_core::run::agents::{AgentKey, AssignmentKey};
use stillpoint_core::run::attempt::AttemptDriver;
use stillpoint_core::run::driver::{Driver, Settings};
use stillpoint_core::run::effect::{self, Facts};
use stillpoint_core::run::observed::{AnswerContent, Observed};
use stillpoint_core::run::rehearsal;
use stillpoint_core::run::resume::is_under_way;
use stillpoint_core::run::state::{Member, Moment, Stage, Verdict};
use stillpoint_core::run::stub::Stub;
use stillpoint_core::run::sweep::Sweep;
use stillpoint_core::run::writer::{Write, Writer};
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command as WireCommand;
use stillpoint_core::wire::{self, ControllerMessage};

use super::pool::{Id, Memo, Pool};
use super::state::Order;
use super::{Bounds, Without};
use crate::cluster::{self, NAME, NAMESPACE, Object, UID, untyped};

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
    /// A watch shows that the object is being deleted.
    Deletion,
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
    attempt: AttemptDriver,
    /// Pods whose session is open.
    sessions: BTreeSet<String>,
    /// Pods that were commanded. Reports of others are dropped.
    asked: BTreeSet<String>,
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
    /// The number of its attempt.
    pub attempt: u8,
}

/// A status, and what is asked of it again and again.
pub struct Stored {
    status: Arc<ReplicationStatus>,
    /// Its phase.
    pub phase: Option<Phase>,
    /// The leader that wrote it.
    pub epoch: u64,
    /// The number of its attempt.
    pub attempt: u8,
    /// It declares an attempt that has not ended.
    pub under_way: bool,
    /// Another attempt follows.
    pub waits: bool,
    /// The last attempt that is void.
    pub last_void: u8,
}

/// What a leader's goodbye begins with.
#[derive(Clone, Copy)]
pub struct Parted {
    /// What it has stored.
    pub status: Option<Id>,
    /// It removes replicas before anything else.
    pub removes: bool,
    /// It takes the finalizer off.
    pub unguards: bool,
}

/// What a leader begins with: its epoch, the stored status, the replicas that are there, whose agents are connected, whether the
/// object is being deleted.
type Beginning = (u64, Option<Id>, Vec<Shown>, Vec<bool>, bool);
/// Attempts at most.
const ATTEMPTS: u32 = 2;

/// All leaders and statuses that were met.
pub struct Leaders {
    now: Moment,
    without: Option<Without>,
    members: Vec<Named>,
    /// The object, without a status.
    object: Object,
    leaders: Pool<String, View>,
    statuses: Pool<String, Stored>,
    effects: Memo<(Id, Input), Effect>,
    begun: Memo<Beginning, Effect>,
    claimed: Memo<(Id, u64), Id>,
    parted: Memo<(u64, Option<Id>), Parted>,
    permuted: Memo<(Id, Order), Id>,
    permuted_statuses: Memo<(Id, Order), Id>,
    reports: Arc<super::members::Members>,
}

/// What the members are called here.
struct Named {
    claim: String,
    pod: String,
    /// Of each attempt.
    replicas: Vec<String>,
}

impl Named {
    fn replica(&self, attempt: u32) -> &str {
        self.replicas.get(attempt.saturating_sub(1) as usize).map_or("", String::as_str)
    }
}

impl Leaders {
    /// None yet.
    pub fn new(bounds: &Bounds, reports: Arc<super::members::Members>) -> Self {
        let now = Moment { monotonic: Duration::from_secs(1_000_000), wall: Timestamp::UNIX_EPOCH };
        let spec = ConsistencyGroupReplicationSpec {
            source: Source::default(),
            mode: Mode::Replicate,
            suspension: Suspension {
                prepare_timeout: bounds.prepare_timeout.into(),
                hold_timeout: bounds.hold_timeout.into(),
            },
            replication: None,
            retry: bounds.retry.then(|| Retry { limit: ATTEMPTS - 1, cool_down: Duration::from_secs(1).into() }),
            deletion_policy: DeletionPolicy::Delete,
            ttl_seconds_after_finished: None,
        };
        let mut object = cluster::group(bounds.members, spec);
        // Putting it on is a step of no interest here.
        object.metadata.finalizers = Some(vec![stillpoint_api::labels::FINALIZER.to_owned()]);
        let mut leaders = Self {
            now,
            without: bounds.without,
            members: Vec::new(),
            object,
            leaders: Pool::new(),
            statuses: Pool::new(),
            effects: Memo::new(),
            begun: Memo::new(),
            claimed: Memo::new(),
            parted: Memo::new(),
            permuted: Memo::new(),
            permuted_statuses: Memo::new(),
            reports,
        };
        if let Some(first) = leaders.drive(1, None, &[], BTreeSet::new(), false).0 {
            let members = first.run.members.iter().map(|member| Named {
                claim: member.claim.uid.clone(),
                pod: member.mounts.first().map(|pod| pod.uid.clone()).unwrap_or_default(),
                replicas: (1..=ATTEMPTS).map(|one| first.request.run_id(one).replica_name(&member.claim)).collect(),
            });
            leaders.members = members.collect();
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
        *self.claimed.get(&(id, epoch), || {
            let status = self.drive(epoch, Some(id), &[], BTreeSet::new(), false).1;
            status.map_or(id, |status| self.intern_status(&Arc::new(status)))
        })
    }

    /// A leader begins with what is stored, and plans once.
    pub fn begin(
        &self,
        epoch: u64,
        status: Option<Id>,
        replicas: &[Shown],
        connected: &[bool],
        deleting: bool,
    ) -> Arc<Effect> {
        self.begun.get(&(epoch, status, replicas.to_vec(), connected.to_vec(), deleting), || {
            let sessions = connected.iter().zip(&self.members).filter(|(connected, _)| **connected);
            let sessions: BTreeSet<String> = sessions.map(|(_, member)| member.pod.clone()).collect();
            // Nobody writes between the reading and the beginning here, which is one step.
            match self.drive(epoch, status, replicas, sessions.clone(), deleting).0 {
                Some(attempt) => {
                    let (asked, writes) = (BTreeSet::new(), Vec::new());
                    self.turn(Leader { attempt, sessions, asked, writes, declared: false, newest: None }, self.now)
                }
                None => Effect { leader: Id::MAX, deeds: Vec::new() },
            }
        })
    }

    /// Drives a leader from its first look at the object until it attempts something; gives the attempt, and the status that it
    /// has stored on the way, if it has: its claim. Everything that it asks for is answered at once.
    fn drive(
        &self,
        epoch: u64,
        status: Option<Id>,
        replicas: &[Shown],
        sessions: BTreeSet<String>,
        deleting: bool,
    ) -> (Option<AttemptDriver>, Option<ReplicationStatus>) {
        let attempt = status.map_or(1, |status| {
            let stored = self.statuses.get(status);
            u32::from(stored.attempt) + u32::from(stored.waits)
        });
        let mut object = self.object(status, deleting);
        let facts = || Box::new(self.facts(replicas, attempt));
        let mut claimed = None;
        let mut driver = Driver::new(Settings { epoch, hold_ceiling: MAX_HOLD }, UID);
        loop {
            // One that attempts something is asked for nothing more: its first turn is a step of its own.
            if driver.attempt().is_some() || driver.over().is_some() {
                return (driver.into_attempt(), claimed);
            }
            let effects = driver.turn(self.now, true);
            if effects.is_empty() {
                return (None, claimed);
            }
            for effect in effects {
                driver.hear(self.answer(effect, &mut object, &mut claimed, &facts, &sessions), self.now);
            }
        }
    }

    fn object(&self, status: Option<Id>, deleting: bool) -> Object {
        let status = status.map(|status| (*self.statuses.get(status).status).clone());
        let mut object = Object { status, ..self.object.clone() };
        object.metadata.deletion_timestamp = deleting.then_some(Time(Timestamp::UNIX_EPOCH));
        object
    }

    /// A leader takes up an object that is being deleted and has no attempt under way. What it stores is stored at once, until it
    /// removes replicas or takes the finalizer off.
    pub fn part(&self, epoch: u64, status: Option<Id>) -> Parted {
        *self.parted.get(&(epoch, status), || {
            let mut object = self.object(status, true);
            let facts = || Box::new(self.facts(&[], 1));
            let mut stored = None;
            let mut parted = Parted { status: None, removes: false, unguards: false };
            let mut driver = Driver::new(Settings { epoch, hold_ceiling: MAX_HOLD }, UID);
            while driver.over().is_none() && !parted.unguards {
                let effects = driver.turn(self.now, true);
                if effects.is_empty() {
                    break;
                }
                for effect in effects {
                    let input = match effect {
                        effect::Effect::Tell(_) => continue,
                        effect::Effect::Remove { .. } => {
                            parted.removes = true;
                            effect::Input::Removed(Removed::default())
                        }
                        effect::Effect::SetMarks(_) => {
                            parted.unguards = true;
                            continue;
                        }
                        other => self.answer(other, &mut object, &mut stored, &facts, &BTreeSet::new()),
                    };
                    driver.hear(input, self.now);
                }
            }
            parted.status = stored.map(|status| self.intern_status(&Arc::new(normal(&status))));
            parted
        })
    }

    /// What a leader hears that has not begun an attempt.
    fn answer(
        &self,
        effect: effect::Effect,
        object: &mut Object,
        claimed: &mut Option<ReplicationStatus>,
        facts: &dyn Fn() -> Box<Facts>,
        sessions: &BTreeSet<String>,
    ) -> effect::Input {
        match effect {
            effect::Effect::PutStatus(asked) => {
                object.status.clone_from(&asked.status);
                claimed.clone_from(&asked.status);
                effect::Input::Stored(Ok(asked))
            }
            effect::Effect::SetMarks(asked) => {
                object.metadata.clone_from(&asked.metadata);
                effect::Input::Patched(Ok(asked))
            }
            effect::Effect::Look => effect::Input::Looked(Ok(facts())),
            effect::Effect::LookUp { volumes, kind } => {
                effect::Input::LookedUp(Ok(Box::new(cluster::storage(&volumes, kind))))
            }
            effect::Effect::Rehearse(_) => effect::Input::Rehearsed(rehearsal::Rehearsed::Accepted),
            effect::Effect::Reserve { .. } => effect::Input::Reserved([].into()),
            effect::Effect::Follow { agents, .. } => effect::Input::Following(Ok((
                facts(),
                agents.into_iter().filter(|agent| sessions.contains(agent.as_str())).collect(),
            ))),
            _ => effect::Input::Object(Ok(Some(Box::new(object.clone())))),
        }
    }

    /// Lets a leader hear something, and plan.
    pub fn step(&self, leader: Id, input: Input) -> Arc<Effect> {
        self.effects.get(&(leader, input), || {
            let mut leader = self.leaders.get(leader).leader.clone();
            let mut now = self.now;
            let heard = match input {
                Input::Written => {
                    leader.writes.remove(0);
                    leader.attempt.declared();
                    None
                }
                Input::Wake => {
                    now.monotonic = leader.attempt.wake_at().unwrap_or(now.monotonic).max(now.monotonic);
                    None
                }
                input => self.heard(&mut leader, input),
            };
            if let Some(heard) = heard {
                drop(leader.attempt.hear(heard, now));
            }
            self.turn(leader, now)
        })
    }

    /// What the attempt hears of an input; `None`: the registry of sessions drops it.
    fn heard(&self, leader: &mut Leader, input: Input) -> Option<effect::Input> {
        let attempt = leader.attempt.run.attempt;
        let member = |index: usize| &self.members[index];
        Some(match input {
            Input::Report(index, report) => {
                let mut report = (*self.reports.report(report)).clone();
                if let Some(attempt) = super::members::attempt_of(&mut report) {
                    attempt.member.clone_from(&member(index).claim);
                    if self.without == Some(Without::EpochCheck) {
                        attempt.epoch = leader.attempt.request.epoch;
                    }
                }
                if let (Report::Released(released), Some(Without::ReleaseVote)) = (&mut report, self.without) {
                    released.unbroken = true;
                }
                let pod = &member(index).pod;
                leader.asked.contains(pod).then_some(effect::Input::Report(AgentKey::of_pod(pod), report))?
            }
            Input::Lost(index) => {
                leader.sessions.remove(&member(index).pod);
                effect::Input::Lost(AgentKey::of_pod(&member(index).pod))
            }
            Input::Connected(index) => {
                leader.sessions.insert(member(index).pod.clone());
                effect::Input::Connected(AgentKey::of_pod(&member(index).pod))
            }
            Input::Created(index, true) => effect::Input::Asked {
                name: untyped::object_name(member(index).replica(attempt)),
                result: Ok(Box::new(untyped::object(&self.snapshot(index, attempt, Shown::Made)))),
            },
            // What may be made by another try is the simulation's.
            Input::Created(index, false) => {
                let name = untyped::object_name(member(index).replica(attempt));
                effect::Input::Asked { name, result: Err(NotMade::Refused("refused".to_owned())) }
            }
            Input::Replica(index, shown) => {
                let replica =
                    (shown != Shown::Nothing).then(|| Box::new(untyped::object(&self.snapshot(index, attempt, shown))));
                effect::Input::Replica(untyped::object_name(member(index).replica(attempt)), replica)
            }
            Input::Deleted(found) => effect::Input::Removed(Removed { found, left: Vec::new() }),
            Input::Deletion => effect::Input::Deletion,
            Input::Rechecked => effect::Input::Rechecked(leader.attempt.observed.pods.clone()),
            Input::Written | Input::Wake => return None,
        })
    }

    fn turn(&self, mut leader: Leader, now: Moment) -> Effect {
        let mut deeds = Vec::new();
        while leader.attempt.run.stage != Stage::Ended {
            let answered: BTreeSet<String> =
                leader.attempt.observed.answers.keys().map(|key| key.claim.clone()).collect();
            let mut unsent = Vec::new();
            // Nobody takes the lease away within a turn: a leader that was overtaken finds that out by what is stored.
            for effect in leader.attempt.turn(now, true) {
                match effect {
                    effect::Effect::Send { to, message, .. } => {
                        leader.asked.insert(to.agent.as_str().to_owned());
                        if leader.sessions.contains(to.agent.as_str()) {
                            deeds.extend(self.sent(to.agent.as_str(), *message, &answered));
                        } else {
                            unsent.push(effect::Input::Unsent(to));
                        }
                    }
                    effect::Effect::Ask(_) => {
                        let run = &leader.attempt.run;
                        deeds.push(Deed::Create { attempt: run.attempt, round: run.round });
                    }
                    effect::Effect::Remove { .. } => deeds.push(Deed::Delete),
                    effect::Effect::Recheck => deeds.push(Deed::Recheck),
                    // Outside of any hold, and nobody decides by it: done at once.
                    effect::Effect::Mark(_) => unsent.push(effect::Input::Marked(Ok(()))),
                    effect::Effect::PutStatus(object) => self.store(&mut leader, *object, now),
                    // Nobody writes but this queue, and the object stays.
                    _ => {}
                }
            }
            leader.attempt.writer = Writer::new(self.object.clone());
            if unsent.is_empty() {
                break;
            }
            for input in unsent {
                drop(leader.attempt.hear(input, now));
            }
        }
        normalise(&mut leader.attempt);
        Effect { leader: self.intern(leader), deeds }
    }

    /// A command that goes out through an open session.
    fn sent(&self, agent: &str, message: ControllerMessage, answered: &BTreeSet<String>) -> Option<Deed> {
        let index = self.members.iter().position(|member| member.pod == agent)?;
        let command = plain(message)?;
        let unanswered = !answered.contains(&self.members[index].claim);
        let kept = self.without == Some(Without::AskBeforeRelease)
            && matches!(command, AgentCommand::Release(_))
            && unanswered;
        (!kept).then(|| Deed::Send(index, self.reports.intern_command(command)))
    }

    /// Stored as far as this writer knows, so that it gives the next one; when it really is, is a step of its own.
    fn store(&self, leader: &mut Leader, object: Object, now: Moment) {
        let mut next = Some(object);
        while let Some(object) = next {
            if let Some(status) = &object.status {
                self.queue(leader, status);
            }
            leader.attempt.observed.proof_stored |=
                object.status.as_ref().is_some_and(|status| status.consistency.is_some());
            leader.attempt.writer.stored(Ok(object), now.monotonic);
            next = match leader.attempt.writer.step(now.monotonic) {
                Some(Write::Put(object)) => Some(*object),
                Some(Write::Get) | None => None,
            };
        }
    }

    /// Queues a status, if a next leader would act on it.
    fn queue(&self, leader: &mut Leader, status: &ReplicationStatus) {
        let ends = status.phase.is_some_and(Phase::is_final);
        let waits = status.next_attempt_at.is_some();
        let matters = !leader.declared || status.consistency.is_some() || waits || ends;
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
        let Leader { attempt, sessions, asked, writes, declared, newest } = &leader;
        let ended = attempt.run.stage == Stage::Ended;
        let wakes = attempt.wake_at();
        let key = if ended {
            let released = released(attempt);
            let (epoch, number, phase) = (attempt.request.epoch, attempt.run.attempt, attempt.run.phase());
            format!("{epoch} {number} {phase:?} {released:?} {writes:?}")
        } else {
            let AttemptDriver { request, run, observed, .. } = attempt;
            let known = format!("{run:?} {observed:?} {sessions:?} {asked:?}");
            format!("{} {known} {wakes:?} {writes:?} {declared} {newest:?}", request.epoch)
        };
        let next = writes.first().map(|status| self.intern_status(status));
        self.leaders.intern(key, || View {
            wakes: !ended && wakes.is_some(),
            ended,
            stage: format!("{:?}", attempt.run.stage).chars().take_while(char::is_ascii_alphabetic).collect(),
            writes: next,
            abandons: matches!(attempt.run.stage, Stage::Abandoning { .. } | Stage::Listening)
                || (ended && attempt.run.phase() != Phase::Done),
            released: released(attempt),
            attempt: u8::try_from(attempt.run.attempt).unwrap_or(u8::MAX),
            leader: leader.clone(),
        })
    }

    fn intern_status(&self, status: &Arc<ReplicationStatus>) -> Id {
        let make = || {
            let attempt = u8::try_from(status.attempt).unwrap_or(u8::MAX);
            let object = Object { status: Some((**status).clone()), ..self.object.clone() };
            Stored {
                status: Arc::clone(status),
                phase: status.phase,
                epoch: status.leader_epoch,
                attempt,
                under_way: is_under_way(status),
                waits: status.next_attempt_at.is_some() && status.phase == Some(Phase::Pending),
                last_void: last_void(&object),
            }
        };
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
        let AttemptDriver { run, observed, .. } = &mut new.attempt;
        let old = &leader.attempt;
        let attempt = old.run.attempt;
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
            if let Some(replica) = &mut member.replica {
                replica.name = self.members[place].replica(run.attempt).to_owned();
            }
            run.members[place] = member;
        }
        let set = |old: &BTreeSet<String>, name: fn(&Named) -> &String| -> BTreeSet<String> {
            all().filter(|(_, from)| old.contains(name(from))).map(|(to, _)| name(to).clone()).collect()
        };
        new.sessions = set(&leader.sessions, |named| &named.pod);
        new.asked = set(&leader.asked, |named| &named.pod);
        let agent = |named: &Named| AgentKey::of_pod(&named.pod);
        let key = |named: &Named| AssignmentKey::new(&named.claim, agent(named));
        let object = |named: &Named| untyped::object_name(named.replica(attempt));
        let Observed { connected, lost, answers, .. } = &old.observed;
        observed.connected =
            all().filter(|(_, from)| connected.contains(&agent(from))).map(|(to, _)| agent(to)).collect();
        observed.lost = all().filter(|(_, from)| lost.contains(&key(from))).map(|(to, _)| key(to)).collect();
        observed.answers = all().filter_map(|(to, from)| Some((key(to), answers.get(&key(from))?.clone()))).collect();
        let unmade = &old.observed.unmade;
        observed.unmade =
            all().filter_map(|(to, from)| Some((object(to), unmade.get(&object(from))?.clone()))).collect();
        let open = &old.observed.open_creations;
        observed.open_creations =
            all().filter(|(_, from)| open.contains(&object(from))).map(|(to, _)| object(to)).collect();
        let vanished = &old.observed.vanished;
        observed.vanished =
            all().filter(|(_, from)| vanished.contains(&object(from))).map(|(to, _)| object(to)).collect();
        let replicas = &old.observed.replicas;
        let replicas = all().enumerate().filter_map(|(place, (to, from))| {
            let mut snapshot = untyped::object(&self.snapshot(place, attempt, Shown::Made));
            snapshot.data["status"] = replicas.get(&object(from))?.data["status"].clone();
            Some((object(to), snapshot))
        });
        observed.replicas = replicas.collect();
        let status = |status: &Arc<ReplicationStatus>| Arc::new(permute_status(status, order));
        new.writes = leader.writes.iter().map(status).collect();
        new.newest = leader.newest.as_ref().map(status);
        new
    }

    fn facts(&self, replicas: &[Shown], attempt: u32) -> Facts {
        let members = 0..self.object.spec.source.persistent_volume_claim_names.as_ref().map_or(0, Vec::len);
        let claims = members.clone().map(cluster::claim).map(|claim| (claim.uid.clone(), claim));
        let pod = |member: usize| {
            cluster::mounts(&format!("pod-{member}"), &format!("uid-pod-{member}"), [member].into_iter())
        };
        let shown = replicas.iter().enumerate().filter(|(_, shown)| **shown != Shown::Nothing);
        let shown = shown.map(|(index, shown)| {
            let name = untyped::object_name(self.members[index].replica(attempt));
            (name, untyped::object(&self.snapshot(index, attempt, *shown)))
        });
        Facts {
            claims: claims.collect(),
            pods: members.map(pod).map(|pod| (pod.uid.clone(), pod)).collect(),
            replicas: shown.collect(),
            ..Facts::default()
        }
    }

    fn snapshot(&self, index: usize, attempt: u32, shown: Shown) -> VolumeSnapshot {
        let source = VolumeSnapshotSource { persistent_volume_claim_name: Some(cluster::claim_name(index)) };
        let spec = VolumeSnapshotSpec { volume_snapshot_class_name: None, source };
        let mut snapshot = VolumeSnapshot::new(self.members[index].replica(attempt), spec);
        let asked_at = Some(self.now.wall);
        let run =
            RunId { replication: NAME, uid: UID, namespace: NAMESPACE, attempt, owner: None, asked_at, wishes: None };
        // Members take each other's places here: nothing of the claim.
        let of_any = ClaimReference { name: String::new(), uid: String::new() };
        snapshot.metadata = ObjectMeta { name: snapshot.metadata.name, ..run.metadata_of_member(&of_any) };
        let cut = matches!(shown, Shown::Cut | Shown::Usable);
        snapshot.status = cut.then(|| VolumeSnapshotStatus {
            creation_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ready_to_use: Some(shown == Shown::Usable),
            ..VolumeSnapshotStatus::default()
        });
        snapshot
    }
}

/// The last attempt that is void, as the sweep knows it.
fn last_void(object: &Object) -> u8 {
    let mut sweep = Sweep::default();
    let voided = sweep.remember(&Stub::of(object));
    voided.map_or(0, |voided| u8::try_from(voided.last_attempt).unwrap_or(u8::MAX))
}

/// A command as every node would be given it.
fn plain(message: ControllerMessage) -> Option<AgentCommand> {
    let named = |attempt: Option<wire::Attempt>| attempt.map(|it| wire::Attempt { member: MEMBER.to_owned(), ..it });
    Some(match message.command? {
        WireCommand::Prepare(mut prepare) => {
            prepare.attempt = named(prepare.attempt);
            prepare.claim = MEMBER.to_owned();
            prepare.mount_path = MEMBER.to_owned();
            AgentCommand::Prepare(prepare.attempt.clone()?, Box::new(prepare))
        }
        WireCommand::Suspend(suspend) => AgentCommand::Suspend(named(suspend.attempt)?, suspend.round),
        WireCommand::Release(release) => AgentCommand::Release(named(release.attempt)?),
    })
}

/// The members that have said that they let go, also in an answer that the planner has not looked at yet.
fn released(attempt: &AttemptDriver) -> Vec<bool> {
    let AttemptDriver { run, observed, .. } = attempt;
    let said = |key: &AssignmentKey| {
        let answer = observed.answers.get(key).map(|answer| &answer.content);
        matches!(answer, Some(AnswerContent::Released { .. }))
    };
    let let_go = |member: &Member| {
        let mut all = member.assignments.iter();
        all.all(|one| one.released.is_some() || said(&member.key_of(&one.agent)))
    };
    run.members.iter().map(let_go).collect()
}

/// Blanks what is only shown; see the module's documentation.
fn normalise(attempt: &mut AttemptDriver) {
    let run = &mut attempt.run;
    run.conditions.clear();
    last_phase(&mut run.phases);
    run.hold_ended = None;
    run.cut_confirmed = None;
    run.replica_trouble = None;
    run.not_retried = None;
    run.longest = None;
    if run.verdict.is_some() {
        run.verdict = Some(Verdict::again("", ""));
    }
    for member in &mut run.members {
        member.requested = None;
        for one in &mut member.assignments {
            one.blockers.clear();
            one.more_blockers = 0;
            one.suspended_for = None;
            one.was_slow = false;
            if let Some(released) = &mut one.released {
                released.reason.clear();
            }
        }
        if let Some(standing) = &mut member.unassigned {
            standing.blockers.clear();
            standing.more_blockers = 0;
            standing.suspended_for = None;
        }
        if let Some(replica) = &mut member.replica {
            replica.cut_took = None;
        }
    }
    run.told.forget_blockers();
    for answer in attempt.observed.answers.values_mut() {
        match &mut answer.content {
            AnswerContent::Waiting { blockers, more } | AnswerContent::NotReady { blockers, more, .. } => {
                blockers.clear();
                *more = 0;
            }
            AnswerContent::Pending { blockers, .. } => blockers.clear(),
            AnswerContent::Released { reason, suspended, .. } => {
                reason.clear();
                *suspended = Duration::ZERO;
            }
            AnswerContent::Prepared { .. } | AnswerContent::Ready { .. } => {}
        }
    }
    // Nobody deletes claims or moves pods here, so these say the same in every state.
    debug_assert_eq!(attempt.observed.pods.len(), attempt.observed.claims.len());
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
    status.longest_suspension = None;
    // A cool-down may be over at any time.
    status.next_attempt_at = status.next_attempt_at.map(|_| MicroTime(Timestamp::UNIX_EPOCH));
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

/// The last phase decides whether another one begins, and one of an attempt that there was one.
fn last_phase(phases: &mut Vec<stillpoint_api::PhaseEntry>) {
    let before = phases.drain(..phases.len().saturating_sub(1));
    let attempt = before.rev().find(|entry| entry.phase == Phase::Checking);
    phases.splice(..0, attempt);
    for entry in phases {
        entry.started_at = MicroTime(Timestamp::UNIX_EPOCH);
    }
}
