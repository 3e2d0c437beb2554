//! The API server and what stands behind it: requests and their fates, watches, the snapshot controller with its driver, the
//! garbage collector.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ApiResource;
use rand::Rng;
use stillpoint_api::snapshot::{
    VolumeSnapshot, VolumeSnapshotError, VolumeSnapshotSource, VolumeSnapshotSpec, VolumeSnapshotStatus,
};
use stillpoint_api::{ClaimReference, ReplicationStatus, labels};
use stillpoint_core::limits::{API_TIMEOUT, ASK_TIMEOUT};
use stillpoint_core::replica::ask::{NotMade, RunId};
use stillpoint_core::replica::removal::{Deleted, Found, Trouble};
use stillpoint_core::replica::{Kind, making};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::effect::{Facts, Input, Refused};
use stillpoint_core::run::sweep::attempt_of;

use super::breaks::Break;
use super::faults::Fault;
use super::world::{Event, ToProcess, World};
use crate::cluster::{NAME, NAMESPACE, Object, UID, claim_name, claim_uid, is_deleting, member_of, storage, untyped};

/// A request of a controller process; of a driver, where it has a number.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Read the object.
    Get { driver: u64 },
    /// Replace the status.
    Put { driver: u64, object: Box<Object> },
    /// Replace the finalizers and the pin.
    Marks { driver: u64, object: Box<Object> },
    /// Read claims and pods.
    Look { driver: u64 },
    /// Read drivers and classes.
    LookUp { driver: u64, volumes: Vec<String>, kind: Option<&'static dyn Kind> },
    /// Begin to watch.
    Follow { driver: u64, replicas: bool, agents: BTreeSet<AgentKey> },
    /// Create a snapshot.
    Create { driver: u64, snapshot: Box<VolumeSnapshot> },
    /// Add annotations to snapshots, by their names.
    Mark { driver: u64, marks: Vec<(String, Vec<(String, String)>)> },
    /// List the pods.
    Pods { driver: u64 },
    /// List the replication's snapshots, for a removal.
    List(u64),
    /// Delete a snapshot, for a removal.
    Delete(u64, String),
    /// Read the object, for the sweep, because of this snapshot.
    Judge(Box<VolumeSnapshot>),
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

/// The watches of a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Object,
    Claims,
    Pods,
    Replicas,
    Sweep,
}

impl World {
    /// Sends a request on its way.
    pub(super) fn ask(&mut self, process: usize, request: Request) {
        let incarnation = self.processes[process].incarnation;
        // As long as production waits.
        let limit = if matches!(request, Request::Create { .. }) { ASK_TIMEOUT } else { API_TIMEOUT };
        if self.strikes(Fault::ApiLostRequest) {
            return self.time_out(process, &request, limit);
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
        let fate = if arrives >= limit { Fate::Silent } else { fate };
        if fate == Fate::Silent {
            self.time_out(process, &request, limit);
        }
        self.queue.put(self.now + arrives, Event::Request { process, incarnation, request, fate });
    }

    fn time_out(&mut self, process: usize, request: &Request, limit: Duration) {
        self.send_to_process(process, limit, failure(request, "the API server did not answer in time"));
    }

    /// A request arrives. It takes effect whether its process still lives or not.
    pub(super) fn serve(&mut self, process: usize, incarnation: u32, request: Request, fate: Fate) {
        let alive = self.processes[process].incarnation == incarnation;
        let answer = if self.now < self.outage_until || fate == Fate::Refused {
            failure(&request, "the API server is not available")
        } else {
            self.carry_out_request(process, alive, request)
        };
        if fate == Fate::Silent || !alive {
            return;
        }
        let mut delay = self.latency(200, 8_000);
        if matches!(answer, ToProcess::Following(..)) {
            // Claims, pods and snapshots are listed first.
            delay += self.time(Duration::from_millis(1), Duration::from_secs(1));
            for stream in [Stream::Claims, Stream::Pods, Stream::Replicas] {
                let until = &mut self.processes[process].watched_until[stream as usize];
                *until = (*until).max(self.now + delay);
            }
        }
        self.send_to_process(process, delay, answer);
    }

    fn carry_out_request(&mut self, process: usize, alive: bool, request: Request) -> ToProcess {
        let input = |driver: u64, input: Input| ToProcess::Input(driver, Box::new(input));
        let deletes = matches!(request, Request::Delete(..));
        let denied = deletes && self.denies();
        let object = || self.store.object.clone().map(Box::new);
        match request {
            Request::Get { driver } => input(driver, Input::Object(Ok(object()))),
            Request::Put { driver, object } => input(driver, Input::Stored(self.put_status(process, object))),
            Request::Marks { driver, object } => {
                let result = self.store.set_marks(&object);
                if result.is_ok() {
                    self.object_changed();
                }
                input(driver, Input::Patched(result.map(Box::new)))
            }
            Request::Look { driver } => input(driver, Input::Looked(Ok(Box::new(self.facts(false))))),
            Request::LookUp { driver, volumes, kind } => {
                input(driver, Input::LookedUp(Ok(Box::new(storage(&volumes, kind)))))
            }
            Request::Follow { driver, replicas, agents } => {
                let driven = self.processes[process].driven.as_mut();
                if let Some(driven) = driven.filter(|driven| alive && driven.number == driver) {
                    driven.watches = Some(replicas);
                }
                ToProcess::Following(driver, Box::new(self.facts(replicas)), agents)
            }
            Request::Pods { driver } => input(driver, Input::Rechecked(self.store.pods.clone())),
            Request::Mark { driver, marks } => {
                for (name, annotations) in marks {
                    if let Some(snapshot) = self.store.snapshots.get_mut(&name) {
                        snapshot.metadata.annotations.get_or_insert_default().extend(annotations);
                        self.snapshot_changed(&name);
                    }
                }
                input(driver, Input::Marked(Ok(())))
            }
            Request::Create { driver, snapshot } => {
                let name = snapshot.metadata.name.clone().unwrap_or_default();
                // What is there already is read.
                let (there, made) = self.store.create_snapshot(*snapshot);
                if made {
                    self.snapshot_created(&there);
                }
                let result = Ok(Box::new(untyped::object(&there)));
                input(driver, Input::Asked { name: untyped::object_name(&name), result })
            }
            Request::List(removal) => {
                let listed = self.store.replicas();
                let listed = listed.iter().map(|(name, replica)| found(name, replica));
                ToProcess::Listed(removal, Ok(listed.collect()))
            }
            Request::Delete(removal, _) if denied => {
                let denied = Trouble { why: "a policy denies it".to_owned(), refused: true };
                ToProcess::Deleted(removal, Err(denied))
            }
            Request::Delete(removal, name) => {
                let deleted = if self.delete(&name) { Deleted::Gone } else { Deleted::Absent };
                ToProcess::Deleted(removal, Ok(deleted))
            }
            Request::Judge(snapshot) => ToProcess::Judged(snapshot, Ok(object())),
        }
    }

    fn put_status(&mut self, process: usize, mut object: Box<Object>) -> Result<Box<Object>, Refused> {
        let before = self.store.object.as_ref().and_then(|object| object.status.clone());
        if self.broken == Some(Break::Claim) && is_claim(before.as_ref(), &object) {
            let stored = self.store.object.as_ref().ok_or(Refused::NotFound)?;
            object.metadata.clone_from(&stored.metadata);
            return Ok(object);
        }
        let stored = self.store.put_status(&object)?;
        if let Some(status) = &stored.status {
            self.judge_status(process, before.as_ref(), status);
        }
        self.object_changed();
        Ok(Box::new(stored))
    }

    fn facts(&self, replicas: bool) -> Facts {
        Facts {
            claims: self.store.claims.clone(),
            pods: self.store.pods.clone(),
            replicas: if replicas { untyped::objects(&self.store.replicas()) } else { [].into() },
            ..Facts::default()
        }
    }

    /// Whether a policy denies to delete snapshots now.
    fn denies(&mut self) -> bool {
        if self.now >= self.denied_until && self.strikes(Fault::DeletionDenied) {
            self.denied_until = self.now + self.time(Duration::from_millis(100), Duration::from_secs(60));
        }
        self.now < self.denied_until
    }

    /// A controller deletes a snapshot; says whether it was there.
    fn delete(&mut self, name: &str) -> bool {
        self.judge_deletion(name);
        let found = self.store.delete_snapshot(name);
        if found {
            self.snapshot_changed(name);
        }
        found
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
        self.tell_drivers(Stream::Claims, &Input::Claim(uid.to_owned(), claim));
    }

    /// Watches tell of a pod.
    pub(super) fn pod_changed(&mut self, uid: &str) {
        let pod = self.store.pods.get(uid).cloned();
        self.tell_drivers(Stream::Pods, &Input::Pod(uid.to_owned(), pod));
    }

    /// Watches tell of a snapshot, if it carries the label that they select by.
    fn snapshot_changed(&mut self, name: &str) {
        let snapshot = self.store.snapshots.get(name).cloned();
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.metadata.labels.is_none()) {
            return;
        }
        self.tell_drivers(
            Stream::Replicas,
            &Input::Replica(untyped::object_name(name), snapshot.as_ref().map(untyped::object).map(Box::new)),
        );
        let Some(snapshot) = snapshot else { return };
        for process in 0..self.processes.len() {
            if self.processes[process].leading.is_some() {
                self.watch(process, Stream::Sweep, ToProcess::Snapshot(Box::new(snapshot.clone())));
            }
        }
    }

    fn tell_drivers(&mut self, stream: Stream, input: &Input) {
        for process in 0..self.processes.len() {
            let Some(driven) = &self.processes[process].driven else { continue };
            let tells = driven.watches.is_some_and(|replicas| replicas || !matches!(stream, Stream::Replicas));
            if tells {
                let number = driven.number;
                self.watch(process, stream, ToProcess::Input(number, Box::new(input.clone())));
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
        let (claim, uid) = (claim_name(member), claim_uid(member));
        let attempts = self.processes.iter().filter_map(|process| process.driven.as_ref()?.driver.attempt());
        // One that is not declared yet may be forgotten with its number.
        let declared = attempts.filter(|attempt| attempt.observed.recorded && attempt.run.stage.needs_agents());
        let Some(attempt) = declared.map(|attempt| attempt.run.attempt).next() else { return false };
        let run = RunId {
            replication: NAME,
            uid: UID,
            namespace: NAMESPACE,
            attempt,
            owner: None,
            asked_at: None,
            wishes: None,
        };
        let claim = ClaimReference { name: claim, uid };
        let name = run.replica_name(&claim);
        if self.setting.spec.mode == stillpoint_api::Mode::Check || self.store.snapshots.contains_key(&name) {
            return false;
        }
        let source = VolumeSnapshotSource { persistent_volume_claim_name: Some(claim.name.clone()) };
        let mut early = VolumeSnapshot::new(&name, VolumeSnapshotSpec { volume_snapshot_class_name: None, source });
        early.metadata = run.metadata_of_member(&claim);
        if self.rng.random_bool(0.5) {
            early.metadata.labels = None;
        }
        self.store.snapshots.insert(name, early.clone());
        self.snapshot_created(&early);
        true
    }

    /// Somebody else writes to the object.
    pub(super) fn touch_object(&mut self) -> bool {
        let there = self.store.touch_object();
        if there {
            self.object_changed();
        }
        there
    }

    /// Somebody deletes the object.
    pub(super) fn delete_object(&mut self) -> bool {
        if self.store.object.as_ref().is_none_or(is_deleting) {
            return false;
        }
        self.store.delete_object();
        self.object_changed();
        true
    }
}

/// Whether a status is the stored one but for the leader who claims it.
fn is_claim(stored: Option<&ReplicationStatus>, asked: &Object) -> bool {
    let (Some(stored), Some(asked)) = (stored, &asked.status) else { return false };
    stored.leader_epoch < asked.leader_epoch
        && *asked == ReplicationStatus { leader_epoch: asked.leader_epoch, ..stored.clone() }
}

/// A snapshot as a list shows it.
fn found(name: &str, replica: &VolumeSnapshot) -> Found {
    let owners = replica.metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect();
    let making = making(&ApiResource::erase::<VolumeSnapshot>(&()), &untyped::object(replica));
    Found { name: name.to_owned(), attempt: attempt_of(replica), owners, making }
}

/// How a process hears that a request failed.
fn failure(request: &Request, why: &str) -> ToProcess {
    let trouble = || Refused::Trouble(why.to_owned());
    let no_answer = || Trouble { why: why.to_owned(), refused: false };
    let input = |driver: &u64, input: Input| ToProcess::Input(*driver, Box::new(input));
    match request {
        Request::Get { driver } => input(driver, Input::Object(Err(trouble()))),
        Request::Put { driver, .. } => input(driver, Input::Stored(Err(trouble()))),
        Request::Marks { driver, .. } => input(driver, Input::Patched(Err(trouble()))),
        Request::Look { driver } => input(driver, Input::Looked(Err(why.to_owned()))),
        Request::LookUp { driver, .. } => input(driver, Input::LookedUp(Err(why.to_owned()))),
        Request::Follow { driver, .. } => input(driver, Input::Following(Err(why.to_owned()))),
        Request::Mark { .. } => ToProcess::AskLater(Box::new(request.clone())),
        Request::Pods { driver } => ToProcess::PodsAgain(*driver),
        Request::Create { driver, snapshot } => {
            let name = snapshot.metadata.name.clone().unwrap_or_default();
            let result = Err(NotMade::Unknown(why.to_owned()));
            input(driver, Input::Asked { name: untyped::object_name(&name), result })
        }
        Request::List(removal) => ToProcess::Listed(*removal, Err(no_answer())),
        Request::Delete(removal, _) => ToProcess::Deleted(*removal, Err(no_answer())),
        Request::Judge(snapshot) => ToProcess::Judged(snapshot.clone(), Err(())),
    }
}
