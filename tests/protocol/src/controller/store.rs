//! The API server as data: the replication's object, its snapshots, the claims and the pods of one namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use stillpoint_api::labels::REPLICATION_UID;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{DeletionPolicy, Mode, ReplicationStatus};
use stillpoint_core::run::facts::{Claim, PodFacts};

/// Name of the replication.
pub const NAME: &str = "nightly";
/// Its namespace.
pub const NAMESPACE: &str = "shop";
/// Its UID.
pub const UID: &str = "uid-nightly";

/// What the replication asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Names of the members' claims.
    pub members: Vec<String>,
    /// Whether replicas are made.
    pub mode: Mode,
    /// A member's time to become ready.
    pub prepare_timeout: Duration,
    /// The longest hold.
    pub hold_timeout: Duration,
    /// What becomes of the replicas with the object.
    pub deletion_policy: DeletionPolicy,
}

/// The replication's object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it asks for; does not change.
    pub spec: Spec,
    /// The resource version: rises with every write.
    pub version: u64,
    /// Stillpoint's finalizer is on it.
    pub finalizer: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// The status as stored.
    pub status: Option<ReplicationStatus>,
}

impl Object {
    /// An object that nobody has worked on.
    pub fn new(spec: Spec) -> Self {
        Self { spec, version: 1, finalizer: false, deleting: false, status: None }
    }
}

/// Why the API server did not take a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody wrote since the version that was read.
    Conflict,
    /// The object is gone.
    NotFound,
}

/// What is stored.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The replication; `None`: it is gone.
    pub object: Option<Object>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, VolumeSnapshot>,
    /// Claims by UID.
    pub claims: BTreeMap<String, Claim>,
    /// Unfinished pods by UID.
    pub pods: BTreeMap<String, PodFacts>,
}

impl Store {
    /// Replaces the status.
    ///
    /// # Errors
    /// When the object is gone, or was written since `version`.
    pub fn put_status(&mut self, version: u64, status: ReplicationStatus) -> Result<Object, Refused> {
        let object = self.at(version)?;
        object.status = Some(status);
        object.version += 1;
        Ok(object.clone())
    }

    /// Puts the finalizer on and gives the object as it is then; `None` when it is gone. A conflict on the way is read again,
    /// so it does not matter here.
    pub fn add_finalizer(&mut self) -> Option<Object> {
        let object = self.object.as_mut()?;
        if !object.finalizer && !object.deleting {
            object.finalizer = true;
            object.version += 1;
        }
        Some(object.clone())
    }

    /// Takes the finalizer off; an object that is being deleted goes with it.
    ///
    /// # Errors
    /// When the object is gone, or was written since `version`.
    pub fn remove_finalizer(&mut self, version: u64) -> Result<(), Refused> {
        let object = self.at(version)?;
        object.finalizer = false;
        object.version += 1;
        if object.deleting {
            self.object = None;
        }
        Ok(())
    }

    /// Somebody deletes the object. It stays, marked, while it has its finalizer.
    pub fn delete_object(&mut self) {
        match &mut self.object {
            Some(object) if object.finalizer => {
                if !object.deleting {
                    object.deleting = true;
                    object.version += 1;
                }
            }
            object => *object = None,
        }
    }

    /// Creates a snapshot.
    ///
    /// # Errors
    /// When one of its name is there.
    pub fn create_snapshot(&mut self, snapshot: VolumeSnapshot) -> Result<VolumeSnapshot, String> {
        let name = snapshot.metadata.name.clone().unwrap_or_default();
        if self.snapshots.contains_key(&name) {
            return Err(format!("volumesnapshots.snapshot.storage.k8s.io \"{name}\" already exists"));
        }
        self.snapshots.insert(name, snapshot.clone());
        Ok(snapshot)
    }

    /// The snapshots that carry the replication's label, by name.
    pub fn replicas(&self) -> BTreeMap<String, VolumeSnapshot> {
        let labelled = |snapshot: &VolumeSnapshot| {
            let labels = snapshot.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(REPLICATION_UID)).is_some_and(|uid| uid == UID)
        };
        let replicas = self.snapshots.iter().filter(|(_, snapshot)| labelled(snapshot));
        replicas.map(|(name, snapshot)| (name.clone(), snapshot.clone())).collect()
    }

    /// Deletes a snapshot; says whether it was there.
    pub fn delete_snapshot(&mut self, name: &str) -> bool {
        self.snapshots.remove(name).is_some()
    }

    /// The garbage collector: what the object owns goes when it is gone. Gives the names of what went.
    pub fn collect_garbage(&mut self) -> Vec<String> {
        if self.object.is_some() {
            return Vec::new();
        }
        let owned = |snapshot: &VolumeSnapshot| snapshot.metadata.owner_references.is_some();
        let names: Vec<String> =
            self.snapshots.iter().filter(|(_, snapshot)| owned(snapshot)).map(|(name, _)| name.clone()).collect();
        self.snapshots.retain(|_, snapshot| !owned(snapshot));
        names
    }

    fn at(&mut self, version: u64) -> Result<&mut Object, Refused> {
        let object = self.object.as_mut().ok_or(Refused::NotFound)?;
        if object.version == version { Ok(object) } else { Err(Refused::Conflict) }
    }
}

/// The replication as the owner of its snapshots.
pub(super) fn owner() -> OwnerReference {
    OwnerReference { name: NAME.to_owned(), uid: UID.to_owned(), ..OwnerReference::default() }
}
