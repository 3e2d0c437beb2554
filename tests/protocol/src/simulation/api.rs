//! The API server and what stands behind it: requests and their fates, watches, the snapshot controller with its driver, the
//! garbage collector.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rand::Rng;
use stillpoint_api::labels;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotError, VolumeSnapshotStatus};
use stillpoint_api::{ClaimReference, Mode, ReplicationStatus};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, API_TIMEOUT};
use stillpoint_core::replica::KINDS;
use stillpoint_core::replica::ask::{Recipe, RunId};

use super::breaks::Break;
use super::faults::Fault;
use super::world::{Event, ToProcess, World, claim_uid, member_of};
use crate::controller::{Event as Heard, NAME, NAMESPACE, PutError, UID, untyped};

/// A request of a controller process.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Read the object, before a run.
    Begin,
    /// Replace the status.
    Put { run: u64, version: u64, status: Box<ReplicationStatus> },
    /// Read the object, after a conflict.
    Get { run: u64 },
    /// Create a snapshot.
    Create { run: u64, snapshot: Box<VolumeSnapshot> },
    /// List the pods.
    Pods { run: u64 },
    /// List the replication's snapshots.
    List(u64),
    /// Delete a snapshot.
    Delete(u64, String),
    /// Read the object, before a goodbye.
    GoodbyeBegins,
    /// Read the object, during a goodbye.
    GoodbyeRead,
    /// Take the finalizer off.
    Unfinalize { version: u64 },
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is answered.
    Answered,
    /// It is refused without effect.
    Refused,
    /// It takes effect, and nobody hears of it.
    Silent,
}

/// Whom a deletion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The run of this number.
    Run(u64),
    /// A goodbye.
    Goodbye,
    /// Nobody waits.
    Sweep,
}

/// A deletion of replicas under way: a list, then one request for each.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    purpose: Purpose,
    names: Vec<String>,
    /// One snapshot alone: nothing is listed.
    alone: bool,
    todo: VecDeque<String>,
    found: BTreeSet<String>,
    pause: Duration,
}

/// The watches of a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Object,
    Claims,
    Pods,
    Replicas,
    Sweeper,
}

impl World {
    /// Sends a request on its way.
    pub(super) fn ask(&mut self, process: usize, request: Request) {
        let incarnation = self.processes[process].incarnation;
        if self.strikes(Fault::ApiLostRequest) {
            return self.time_out(process, &request);
        }
        let fate = if self.strikes(Fault::ApiRefuses) {
            Fate::Refused
        } else if self.strikes(Fault::ApiLostAnswer) {
            Fate::Silent
        } else {
            Fate::Answered
        };
        let mut arrives = self.latency(200, 8_000);
        if self.strikes(Fault::ApiSlow) {
            arrives += self.time(Duration::from_millis(500), API_TIMEOUT * 2);
        }
        let fate = if arrives >= API_TIMEOUT { Fate::Silent } else { fate };
        if fate == Fate::Silent {
            self.time_out(process, &request);
        }
        self.queue.put(self.now + arrives, Event::Request { process, incarnation, request, fate });
    }

    fn time_out(&mut self, process: usize, request: &Request) {
        self.send_to_process(process, API_TIMEOUT, failure(request, "the API server did not answer in time"));
    }

    /// A request arrives. It takes effect whether its process still lives or not.
    pub(super) fn serve(&mut self, process: usize, incarnation: u32, request: Request, fate: Fate) {
        let alive = self.processes[process].incarnation == incarnation;
        let answer = if self.now < self.outage_until || fate == Fate::Refused {
            failure(&request, "the API server is not available")
        } else {
            self.carry_out_request(process, request)
        };
        if fate != Fate::Silent && alive {
            let mut delay = self.latency(200, 8_000);
            if matches!(answer, ToProcess::Begun(_)) {
                // Claims, pods and snapshots are listed before the run begins.
                delay += self.time(Duration::from_millis(1), Duration::from_secs(1));
            }
            self.send_to_process(process, delay, answer);
        }
    }

    fn carry_out_request(&mut self, process: usize, request: Request) -> ToProcess {
        let object = || self.store.object.clone().map(Box::new);
        match request {
            Request::Begin => ToProcess::Begun(Ok(object())),
            Request::GoodbyeBegins => ToProcess::GoodbyeBegins(Ok(object())),
            Request::GoodbyeRead => ToProcess::GoodbyeRead(Ok(object())),
            Request::Get { run } => ToProcess::Run(run, Box::new(Heard::Read(Ok(object())))),
            Request::Pods { run } => {
                let pods = self.store.pods.clone();
                ToProcess::Run(run, Box::new(Heard::Rechecked(pods)))
            }
            Request::Put { run, version, status } => {
                let before = self.store.object.as_ref().and_then(|object| object.status.clone());
                let result = self.store.put_status(version, (*status).clone());
                if result.is_ok() {
                    self.judge_status(process, before.as_ref(), &status);
                    self.object_changed();
                }
                let result = result.map(Box::new).map_err(PutError::Refused);
                ToProcess::Run(run, Box::new(Heard::Put(result)))
            }
            Request::Create { run, snapshot } => {
                let name = snapshot.metadata.name.clone().unwrap_or_default();
                let result = self.store.create_snapshot(*snapshot);
                if let Ok(snapshot) = &result {
                    self.snapshot_created(&snapshot.clone());
                }
                ToProcess::Run(run, Box::new(Heard::Created { name, result: result.map(Box::new) }))
            }
            Request::List(deletion) => ToProcess::Listed(deletion, Ok(self.store.replicas().into_keys().collect())),
            Request::Delete(deletion, name) => {
                let found = self.store.delete_snapshot(&name);
                if found {
                    self.snapshot_changed(&name);
                }
                ToProcess::Deleted(deletion, name, Ok(found))
            }
            Request::Unfinalize { version } => {
                let result = self.store.remove_finalizer(version);
                if result.is_ok() {
                    self.object_changed();
                }
                ToProcess::Unfinalized(result.map_err(PutError::Refused))
            }
        }
    }

    /// Begins to delete replicas.
    pub(super) fn delete_replicas(&mut self, process: usize, purpose: Purpose, names: Vec<String>, alone: bool) {
        self.last_deletion += 1;
        let number = self.last_deletion;
        let deletion =
            Deletion { purpose, todo: VecDeque::new(), found: BTreeSet::new(), pause: API_RETRY_MIN, names, alone };
        self.processes[process].deletions.insert(number, deletion);
        if self.broken == Some(Break::Cleanup) {
            return self.deletion_ends(process, number);
        }
        self.delete_again(process, number);
    }

    /// From the beginning.
    pub(super) fn delete_again(&mut self, process: usize, number: u64) {
        let Some(deletion) = self.processes[process].deletions.get_mut(&number) else { return };
        if deletion.alone {
            deletion.todo = deletion.names.iter().cloned().collect();
            self.delete_next(process, number);
        } else {
            self.ask(process, Request::List(number));
        }
    }

    pub(super) fn listed(&mut self, process: usize, number: u64, listed: Result<Vec<String>, ()>) {
        let Some(deletion) = self.processes[process].deletions.get_mut(&number) else { return };
        let Ok(listed) = listed else { return self.deletion_fails(process, number) };
        let all: BTreeSet<String> = deletion.names.iter().cloned().chain(listed).collect();
        deletion.todo = all.into_iter().collect();
        self.delete_next(process, number);
    }

    pub(super) fn one_deleted(&mut self, process: usize, number: u64, name: String, result: Result<bool, ()>) {
        let Some(deletion) = self.processes[process].deletions.get_mut(&number) else { return };
        match result {
            Ok(found) => {
                if found {
                    deletion.found.insert(name);
                }
                self.delete_next(process, number);
            }
            Err(()) => self.deletion_fails(process, number),
        }
    }

    fn delete_next(&mut self, process: usize, number: u64) {
        let Some(deletion) = self.processes[process].deletions.get_mut(&number) else { return };
        match deletion.todo.pop_front() {
            Some(name) => self.ask(process, Request::Delete(number, name)),
            None => self.deletion_ends(process, number),
        }
    }

    fn deletion_fails(&mut self, process: usize, number: u64) {
        let Some(deletion) = self.processes[process].deletions.get_mut(&number) else { return };
        let pause = deletion.pause;
        deletion.pause = (pause * 2).min(API_RETRY_MAX);
        self.send_to_process(process, pause, ToProcess::DeleteAgain(number));
    }

    fn deletion_ends(&mut self, process: usize, number: u64) {
        let Some(deletion) = self.processes[process].deletions.remove(&number) else { return };
        match deletion.purpose {
            Purpose::Run(run) => {
                let event = Box::new(Heard::Deleted(deletion.found.len()));
                self.send_to_process(process, Duration::ZERO, ToProcess::Run(run, event));
            }
            Purpose::Goodbye => self.goodbye_deleted(process),
            Purpose::Sweep => {}
        }
    }

    /// Watches tell of the object.
    pub(super) fn object_changed(&mut self) {
        for process in 0..self.processes.len() {
            if self.processes[process].leading.is_some() {
                let object = self.store.object.clone().map(Box::new);
                self.watch(process, Stream::Object, ToProcess::Object(object));
            }
        }
        if self.store.object.is_none() {
            let at = self.now + self.time(Duration::from_millis(10), Duration::from_secs(3));
            self.queue.put(at, Event::Garbage);
        }
    }

    /// Watches tell of a claim.
    pub(super) fn claim_changed(&mut self, uid: &str) {
        let claim = self.store.claims.get(uid).cloned();
        self.tell_runs(Stream::Claims, &Heard::Claim(uid.to_owned(), claim));
    }

    /// Watches tell of a pod.
    pub(super) fn pod_changed(&mut self, uid: &str) {
        let pod = self.store.pods.get(uid).cloned();
        self.tell_runs(Stream::Pods, &Heard::Pod(uid.to_owned(), pod));
    }

    /// Watches tell of a snapshot, if it carries the label that they select by.
    fn snapshot_changed(&mut self, name: &str) {
        let snapshot = self.store.snapshots.get(name).cloned();
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.metadata.labels.is_none()) {
            return;
        }
        let exists = snapshot.is_some();
        self.tell_runs(Stream::Replicas, &Heard::Replica(name.to_owned(), snapshot.map(Box::new)));
        for process in 0..self.processes.len() {
            if exists && self.processes[process].leading.is_some() {
                self.watch(process, Stream::Sweeper, ToProcess::Snapshot(name.to_owned()));
            }
        }
    }

    fn tell_runs(&mut self, stream: Stream, event: &Heard) {
        for process in 0..self.processes.len() {
            if self.processes[process].run.is_some() {
                let run = self.processes[process].run_number;
                self.watch(process, stream, ToProcess::Run(run, Box::new(event.clone())));
            }
        }
    }

    fn watch(&mut self, process: usize, stream: Stream, what: ToProcess) {
        let latency = self.latency(200, 10_000);
        let arrives = (self.now + latency).max(self.lag_until[stream as usize]);
        let until = &mut self.processes[process].watched_until[stream as usize];
        let arrives = arrives.max(*until);
        *until = arrives;
        self.send_to_process(process, arrives - self.now, what);
    }

    /// The storage system hears of a new snapshot.
    fn snapshot_created(&mut self, snapshot: &VolumeSnapshot) {
        let name = snapshot.metadata.name.clone().unwrap_or_default();
        let creation = self.creations.entry(name.clone()).or_default();
        *creation += 1;
        let creation = *creation;
        self.snapshot_changed(&name);
        let annotations = snapshot.metadata.annotations.as_ref();
        let uid = annotations.and_then(|all| all.get(labels::CLAIM_UID)).cloned().unwrap_or_default();
        let Some(member) = member_of(&uid) else { return };
        if self.strikes(Fault::SnapshotNever) {
            return;
        }
        let mut taken = self.now + self.latency(3_000, 100_000);
        if self.strikes(Fault::SnapshotSlow) {
            taken += self.time(Duration::from_millis(500), Duration::from_secs(40));
        }
        if self.strikes(Fault::SnapshotFails) {
            self.queue.put(taken, Event::CutFails { name: name.clone(), creation });
            if self.rng.random_bool(0.5) {
                return;
            }
            taken += self.time(Duration::from_millis(10), Duration::from_secs(5));
        }
        self.queue.put(taken, Event::Cut { name, creation, member });
    }

    /// The cut is taken, now.
    pub(super) fn cut(&mut self, name: &str, creation: u64, member: usize) {
        if !self.is_current(name, creation) {
            return;
        }
        self.judge_cut(name, member);
        let told = self.now + self.latency(1_000, 50_000);
        self.queue.put(told, Event::CutTold { name: name.to_owned(), creation });
    }

    /// Its time appears in the status of the snapshot.
    pub(super) fn tell_cut(&mut self, name: &str, creation: u64) {
        if !self.is_current(name, creation) {
            return;
        }
        let wall = self.moment(0).wall;
        let ready = self.rng.random_bool(0.2);
        self.set_status(
            name,
            VolumeSnapshotStatus {
                creation_time: Some(Time(wall)),
                ready_to_use: Some(ready),
                ..VolumeSnapshotStatus::default()
            },
        );
        if !ready {
            let usable = self.now + self.time(Duration::from_millis(5), Duration::from_secs(60));
            self.queue.put(usable, Event::Usable { name: name.to_owned(), creation });
        }
    }

    /// The snapshot can be used.
    pub(super) fn become_usable(&mut self, name: &str, creation: u64) {
        if !self.is_current(name, creation) {
            return;
        }
        let status = self.store.snapshots.get(name).and_then(|snapshot| snapshot.status.clone());
        let status = VolumeSnapshotStatus { ready_to_use: Some(true), ..status.unwrap_or_default() };
        self.set_status(name, status);
    }

    /// The driver reports an error.
    pub(super) fn cut_fails(&mut self, name: &str, creation: u64) {
        if self.is_current(name, creation) {
            let error = VolumeSnapshotError { message: Some("no space".to_owned()) };
            self.set_status(name, VolumeSnapshotStatus { error: Some(error), ..VolumeSnapshotStatus::default() });
        }
    }

    fn set_status(&mut self, name: &str, status: VolumeSnapshotStatus) {
        if let Some(snapshot) = self.store.snapshots.get_mut(name) {
            snapshot.status = Some(status);
            self.snapshot_changed(name);
        }
    }

    fn is_current(&self, name: &str, creation: u64) -> bool {
        self.store.snapshots.contains_key(name) && self.creations.get(name) == Some(&creation)
    }

    pub(super) fn collect_garbage(&mut self) {
        for name in self.store.collect_garbage() {
            self.snapshot_changed(&name);
        }
    }

    /// Somebody deletes a replica.
    pub(super) fn delete_any_snapshot(&mut self) -> bool {
        let names: Vec<String> = self.store.snapshots.keys().cloned().collect();
        if names.is_empty() {
            return false;
        }
        let name = &names[self.rng.random_range(0..names.len())];
        self.store.delete_snapshot(name);
        self.judge.meddled = true;
        self.snapshot_changed(name);
        true
    }

    /// Somebody creates a snapshot of the name that a replica will have, with the replication's label or without.
    pub(super) fn create_early_snapshot(&mut self) -> bool {
        let member = self.rng.random_range(0..self.members.len());
        let claim = ClaimReference { name: format!("data-{member}"), uid: claim_uid(member) };
        let run = RunId { replication: NAME, uid: UID, namespace: NAMESPACE, attempt: 1, owner: None };
        let name = run.replica_name(&claim);
        let idle = self.setting.spec.mode == Mode::Check;
        if idle
            || self.store.snapshots.contains_key(&name)
            || self.processes.iter().all(|process| process.run.is_none())
        {
            return false;
        }
        let asks = KINDS[0].ask(&run, &[(&claim, &Recipe::default())]);
        let Some(mut early) = untyped::snapshots(asks).pop() else { return false };
        if self.rng.random_bool(0.5) {
            early.metadata.labels = None;
        }
        self.store.snapshots.insert(name, early.clone());
        self.snapshot_created(&early);
        true
    }

    /// Somebody else writes to the object.
    pub(super) fn touch_object(&mut self) -> bool {
        let Some(object) = &mut self.store.object else { return false };
        object.version += 1;
        self.object_changed();
        true
    }

    /// Somebody deletes the object.
    pub(super) fn delete_object(&mut self) -> bool {
        if self.store.object.as_ref().is_none_or(|object| object.deleting) {
            return false;
        }
        self.store.delete_object();
        self.object_changed();
        true
    }
}

/// How a process hears that a request failed.
fn failure(request: &Request, why: &str) -> ToProcess {
    match request {
        Request::Begin => ToProcess::Begun(Err(())),
        Request::GoodbyeBegins => ToProcess::GoodbyeBegins(Err(())),
        Request::GoodbyeRead => ToProcess::GoodbyeRead(Err(())),
        Request::Get { run } => ToProcess::Run(*run, Box::new(Heard::Read(Err(())))),
        Request::Put { run, .. } => ToProcess::Run(*run, Box::new(Heard::Put(Err(PutError::Unknown)))),
        Request::Pods { run } => ToProcess::PodsAgain(*run),
        Request::Create { run, snapshot } => {
            let name = snapshot.metadata.name.clone().unwrap_or_default();
            ToProcess::Run(*run, Box::new(Heard::Created { name, result: Err(why.to_owned()) }))
        }
        Request::List(deletion) => ToProcess::Listed(*deletion, Err(())),
        Request::Delete(deletion, name) => ToProcess::Deleted(*deletion, name.clone(), Err(())),
        Request::Unfinalize { .. } => ToProcess::Unfinalized(Err(PutError::Unknown)),
    }
}
