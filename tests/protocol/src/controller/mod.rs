//! One controller process as plain data: the production planner, and around it what `runs`, `execute` and `status` of the
//! controller do with the API server and the agents, without tasks, sockets and clocks.
//!
//! The caller owns the world. It gives the controller what happens ([`Controller::hear`]), then a turn
//! ([`Controller::turn`]), and carries out the [`Output`]s when and if it likes: nothing here is delivered by itself, and an
//! outcome that never comes is a fault like any other. [`Controller::wake_at`] says when a turn is due without news.
//!
//! The order is the production's: the steps of a plan first, then its statuses; statuses are written by a [`Writer`] of their
//! own, one request at a time; a command that cannot be sent is news for the planner, which plans again at once.

mod goodbye;
mod store;
mod sweeper;
pub(crate) mod untyped;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::DynamicObject;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ClaimReference, Mode, Phase, PhaseEntry, ReplicationStatus};
use stillpoint_core::replica::csi::snapshot_name;
use stillpoint_core::run::agents::{AgentKey, AgentRef};
use stillpoint_core::run::answers;
use stillpoint_core::run::assignments::Mount;
use stillpoint_core::run::facts::{Claim, PodFacts};
use stillpoint_core::run::observed::Observed;
use stillpoint_core::run::plan::{Step, plan};
use stillpoint_core::run::resume::resume;
use stillpoint_core::run::state::{Member, Moment, Request, Run, Stage};
use stillpoint_core::wire::ControllerMessage;
use stillpoint_core::wire::agent_message::Report;

pub use goodbye::{Goodbye, Unanswered};
pub use store::{NAME, NAMESPACE, Object, Refused, Spec, Store, UID};
pub use sweeper::Sweeper;
pub use writer::{PutError, Writer};

/// What the world has to do for a controller.
#[derive(Clone, Debug)]
pub enum Output {
    /// Hand this to the session of the pod's agent. The session was open when it was sent; it may end before it arrives.
    Send {
        /// UID of the pod.
        pod: String,
        /// The command.
        message: ControllerMessage,
    },
    /// Create these, each by a request of its own; answer each with [`Event::Created`].
    CreateSnapshots(Vec<VolumeSnapshot>),
    /// Delete these and whatever else carries the replication's label, again and again until a try succeeds; then
    /// [`Event::Deleted`].
    DeleteReplicas(Vec<String>),
    /// List the pods, again and again until it succeeds; then [`Event::Rechecked`].
    RecheckPods,
    /// Replace the status; then [`Event::Put`].
    PutStatus {
        /// The resource version that was read.
        version: u64,
        /// The status.
        status: Box<ReplicationStatus>,
    },
    /// Read the object, after a conflict; then [`Event::Read`].
    GetObject,
    /// Delete this snapshot, which turned up late, again and again until a try succeeds. Only a [`Sweeper`] asks for it.
    DeleteLate(String),
    /// Take the finalizer off; then [`Goodbye::patched`]. Only a [`Goodbye`] asks for it.
    RemoveFinalizer {
        /// The resource version that was read.
        version: u64,
    },
}

/// What a controller hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// A session of this pod's agent can be used.
    Connected(String),
    /// The session of this pod's agent ended.
    Lost(String),
    /// The agent of this pod reports.
    Report(String, Report),
    /// Events of agents were missed: the queue of the run was full.
    Missed,
    /// A watch: a claim, by UID; `None`: it is gone.
    Claim(String, Option<Claim>),
    /// A watch: a pod, by UID; `None`: it is gone, or finished.
    Pod(String, Option<PodFacts>),
    /// A watch: a snapshot, by name; `None`: it is gone.
    Replica(String, Option<Box<VolumeSnapshot>>),
    /// A watch: the object is being deleted, or gone.
    Deletion,
    /// How a creation ended.
    Created {
        /// Name of the snapshot.
        name: String,
        /// The snapshot, or why there is none, or none is known of.
        result: Result<Box<VolumeSnapshot>, String>,
    },
    /// A deletion of all replicas is complete; so many were there.
    Deleted(usize),
    /// The pods as they are now.
    Rechecked(BTreeMap<String, PodFacts>),
    /// How [`Output::PutStatus`] ended.
    Put(Result<Box<Object>, PutError>),
    /// How [`Output::GetObject`] ended: the object, `None` when it is gone; an error when there was no answer.
    Read(Result<Option<Box<Object>>, ()>),
    /// The process is told to stop.
    Stop,
}

/// Somebody else has written the status of the object that was to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

/// One run of one controller process.
#[derive(Clone, Debug)]
pub struct Controller {
    /// What was asked for, with this leader's epoch.
    pub request: Request,
    /// The run, as the planner keeps it.
    pub run: Run,
    /// What is known.
    pub observed: Observed,
    /// Pods whose agent's session is open and greeted: the registry of sessions, which knows before the run hears.
    pub sessions: BTreeSet<String>,
    /// Pods that were commanded. Reports of others are dropped before the run hears them.
    pub(crate) asked: BTreeSet<String>,
    /// No event of an agent was missed.
    attached: bool,
    /// The writer of the status.
    pub writer: Writer,
    stopping: bool,
    turning: bool,
    plan_wake: Option<Duration>,
}

impl Controller {
    /// Begins a run, or takes up what the stored status declares, as `replicate` does: `object` is what was read first, the
    /// claims, pods and snapshots of `store` are what the watches then list, and the finalizer is put on. `sessions` are the
    /// pods whose agents are connected.
    ///
    /// `None`: there is nothing to run (the object is gone, or being deleted and never began).
    ///
    /// # Errors
    /// When somebody else has written the status since the object was read; to be tried again.
    pub fn take_over(
        epoch: u64,
        object: &Object,
        store: &mut Store,
        sessions: BTreeSet<String>,
        now: Moment,
    ) -> Result<Option<Self>, Changed> {
        let request = request(epoch, object);
        let mut observed = Observed {
            watching: true,
            claims: store.claims.clone(),
            pods: store.pods.clone(),
            replicas: seen(store.replicas()),
            ..Observed::default()
        };
        if object.spec.mode == Mode::Check {
            observed.replicas.clear();
        }
        let declared = object.status.as_ref().filter(|status| status.attempt > 0);
        let run = match declared {
            Some(status) => resume(&request, status, &observed.pods, now),
            None if object.deleting => return Ok(None),
            None => Run::new(members(&object.spec, store), object.status.clone().unwrap_or_default(), now),
        };
        let before = &object.status;
        let guarded = if object.deleting { Some(object.clone()) } else { store.add_finalizer() };
        let Some(object) = guarded else { return Ok(None) };
        if object.status != *before {
            return Err(Changed);
        }
        observed.connected = run.agents().filter(|agent| sessions.contains(agent.as_str())).collect();
        observed.deleted = object.deleting;
        Ok(Some(Self {
            request,
            run,
            observed,
            sessions,
            asked: BTreeSet::new(),
            attached: true,
            writer: Writer::new(object),
            stopping: false,
            turning: true,
            plan_wake: None,
        }))
    }

    /// Takes an event into what is known. Give it a [`Controller::turn`] next.
    pub fn hear(&mut self, event: Event, now: Moment) {
        match event {
            Event::Connected(pod) if self.attached && self.is_member_pod(&pod) => {
                self.observed.connected.insert(AgentKey::of_pod(pod));
            }
            Event::Lost(pod) if self.attached && self.is_member_pod(&pod) => {
                let agent = AgentKey::of_pod(pod);
                self.observed.lost(&agent, self.run.assigned_to(&agent));
            }
            Event::Report(pod, report) if self.attached && self.asked.contains(&pod) => {
                let agent = AgentKey::of_pod(pod);
                let answer = answers::accept(&self.request, &self.run, &self.observed.pods, &agent, report, now);
                if let Ok((member, answer)) = answer {
                    self.observed.answers.insert(member, answer);
                }
            }
            Event::Connected(_) | Event::Lost(_) | Event::Report(..) => {}
            Event::Missed => {
                self.attached = false;
                self.observed.cut_off = Some("the controller could not keep up with its agents' answers".to_owned());
            }
            Event::Claim(uid, claim) => put(&mut self.observed.claims, uid, claim),
            Event::Pod(uid, pod) => put(&mut self.observed.pods, uid, pod),
            Event::Replica(name, snapshot) if self.request.mode == Mode::Replicate => {
                let snapshot = snapshot.map(|snapshot| untyped::object(&snapshot));
                put(&mut self.observed.replicas, untyped::name(&name), snapshot);
            }
            Event::Replica(..) => {}
            Event::Deletion => self.observed.deleted = true,
            Event::Created { name, result } => {
                self.observed.open_creations = self.observed.open_creations.saturating_sub(1);
                match result {
                    Ok(snapshot) => {
                        self.observed.replicas.entry(untyped::name(&name)).or_insert(untyped::object(&snapshot));
                    }
                    Err(message) => {
                        self.observed.refused_replicas.insert(untyped::name(&name), message);
                    }
                }
            }
            Event::Deleted(found) => self.observed.deleted_replicas = Some(found),
            Event::Rechecked(pods) => {
                self.observed.pods = pods;
                self.observed.rechecked = true;
            }
            Event::Put(result) => self.writer.put(result.map(|object| *object), now.monotonic),
            Event::Read(result) => self.writer.read(result.map(|object| object.map(|object| *object)), now.monotonic),
            Event::Stop => {
                self.stopping = true;
                self.observed.cut_off = Some("the controller was stopped during the attempt".to_owned());
            }
        }
    }

    /// Plans, and gives what is to be done now, in order.
    pub fn turn(&mut self, now: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.turning {
            self.observed.recorded |= self.writer.has_written();
            self.plan(now, &mut outputs);
            if self.run.stage == Stage::Ended || (self.stopping && self.may_pause()) {
                self.turning = false;
                self.writer.close();
            }
        }
        outputs.extend(self.writer.step(now.monotonic));
        outputs
    }

    /// When, on this process' monotonic clock, a turn is due even if nothing is heard.
    pub fn wake_at(&self) -> Option<Duration> {
        let plan = if self.turning { self.plan_wake } else { None };
        [plan, self.writer.wake_at()].into_iter().flatten().min()
    }

    /// Whether the run is over and everything about it is written, or will never be.
    pub fn is_over(&self) -> bool {
        !self.turning && self.writer.is_over()
    }

    /// Plans until no command of a plan fails.
    fn plan(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        loop {
            self.observed.take_losses();
            let plan = plan(&self.request, &self.run, &self.observed, now);
            self.run = plan.run;
            for step in plan.steps {
                self.execute(step, outputs);
            }
            for status in plan.statuses {
                self.writer.push(status);
            }
            if !self.observed.take_losses() {
                self.plan_wake = plan.wake_at;
                return;
            }
        }
    }

    fn execute(&mut self, step: Step, outputs: &mut Vec<Output>) {
        match step {
            Step::Send { to, message, .. } => {
                self.observed.asking(&to);
                let pod = to.agent.as_str().to_owned();
                self.asked.insert(pod.clone());
                if self.sessions.contains(&pod) {
                    outputs.push(Output::Send { pod, message });
                } else {
                    self.observed.lost(&to.agent.clone(), [to]);
                }
            }
            Step::Ask(asks) => {
                self.observed.open_creations += asks.len();
                outputs.push(Output::CreateSnapshots(untyped::snapshots(asks)));
            }
            Step::Remove(removes) => outputs.push(Output::DeleteReplicas(untyped::names(removes))),
            Step::RecheckPods => outputs.push(Output::RecheckPods),
        }
    }

    fn may_pause(&self) -> bool {
        !self.run.stage.needs_agents() || (self.run.stage == Stage::Declaring && !self.observed.recorded)
    }

    fn is_member_pod(&self, pod: &str) -> bool {
        self.run.members.iter().any(|member| is_pod_of(member, pod))
    }
}

/// Whether a member is mounted by the pod of this UID.
pub fn is_pod_of(member: &Member, pod: &str) -> bool {
    member.mounts.iter().any(|own| own.uid == pod)
}

fn seen(snapshots: BTreeMap<String, VolumeSnapshot>) -> BTreeMap<ObjectName, DynamicObject> {
    snapshots.iter().map(|(name, snapshot)| (untyped::name(name), untyped::object(snapshot))).collect()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// What an object asks for, as a leader of this epoch understands it.
pub fn request(epoch: u64, object: &Object) -> Request {
    Request {
        name: NAME.to_owned(),
        namespace: NAMESPACE.to_owned(),
        uid: UID.to_owned(),
        generation: Some(1),
        mode: object.spec.mode,
        kind: Some(KINDS[0]),
        prepare_timeout: object.spec.prepare_timeout,
        hold_timeout: object.spec.hold_timeout,
        deletion_policy: object.spec.deletion_policy,
        owner: Some(store::owner()),
        retry: None,
        epoch,
    }
}

/// The members as membership resolves them, where it refuses none.
fn members(spec: &Spec, store: &Store) -> Vec<Member> {
    let claims = store.claims.values().filter(|claim| spec.members.contains(&claim.name));
    let member = |claim: &Claim| {
        let reference = ClaimReference { name: claim.name.clone(), uid: claim.uid.clone() };
        let pod = store.pods.values().find(|pod| pod.claims.contains(&claim.name));
        let mounts = pod.iter().map(|pod| Mount::from(*pod)).collect();
        let agents = pod.iter().map(|pod| AgentRef::sidecar(pod, &claim.name)).collect();
        Member::new(reference, name, mounts, agents)
    };
    claims.map(member).collect()
}

/// Whether membership would refuse the group as it is now: a claim is missing, on its way out, mounted twice, or mounted without
/// an agent.
pub fn is_refused(object: &Object, store: &Store) -> bool {
    object.spec.members.iter().any(|name| {
        let claim = store.claims.values().find(|claim| claim.name == *name);
        let pods: Vec<&PodFacts> = store.pods.values().filter(|pod| pod.claims.contains(name)).collect();
        let served = pods.iter().all(|pod| pod.agent_mounts.contains_key(name));
        claim.is_none_or(|claim| claim.deleting) || pods.len() > 1 || !served
    })
}

/// The status of a run that was refused before anything was asked.
pub fn refusal(object: &Object, now: Moment) -> ReplicationStatus {
    let mut phases = object.status.clone().unwrap_or_default().phases;
    phases.push(PhaseEntry { phase: Phase::Aborted, started_at: now.micro_time() });
    ReplicationStatus { phase: Some(Phase::Aborted), phases, ..ReplicationStatus::default() }
}
