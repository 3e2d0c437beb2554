//! The API server as data: the replication's object, its snapshots, the claims and the pods of one namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use stillpoint_api::labels::REPLICATION_UID;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase};
use stillpoint_core::run::effect::Refused;
use stillpoint_core::run::facts::{Claim, PodFacts};

use super::UID;

/// The replication's object.
pub type Object = ConsistencyGroupReplication;

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
    /// Replaces the status by that of `asked`; gives the object as it is then.
    ///
    /// # Errors
    /// When the object is gone, or was written since the version that `asked` has.
    pub fn put_status(&mut self, asked: &Object) -> Result<Object, Refused> {
        let object = self.at(asked)?;
        object.status.clone_from(&asked.status);
        rise(object);
        Ok(object.clone())
    }

    /// Replaces the list of finalizers and the annotations by those of `asked`; gives the object as it is then. One that is being deleted goes with
    /// its last finalizer.
    ///
    /// # Errors
    /// When the object is gone, or was written since the version that `asked` has, or when it is being deleted and is to have
    /// a new one.
    pub fn set_marks(&mut self, asked: &Object) -> Result<Object, Refused> {
        let object = self.at(asked)?;
        if is_deleting(object) && asked.finalizers().iter().any(|one| !object.finalizers().contains(one)) {
            return Err(Refused::Trouble(
                "no new finalizers can be added to an object that is being deleted".to_owned(),
            ));
        }
        object.metadata.finalizers.clone_from(&asked.metadata.finalizers);
        object.metadata.annotations.clone_from(&asked.metadata.annotations);
        rise(object);
        let stored = object.clone();
        if is_deleting(&stored) && stored.finalizers().is_empty() {
            self.object = None;
        }
        Ok(stored)
    }

    /// Somebody else writes to the object, and changes nothing that anybody reads.
    pub fn touch_object(&mut self) -> bool {
        self.object.as_mut().map(rise).is_some()
    }

    /// Somebody deletes the object. It stays, marked, while it has a finalizer.
    pub fn delete_object(&mut self) {
        match &mut self.object {
            Some(object) if !object.finalizers().is_empty() => {
                if !is_deleting(object) {
                    object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                    rise(object);
                }
            }
            object => *object = None,
        }
    }

    /// Creates a snapshot unless one of its name is there; gives the one that is there then, and whether it was made now.
    pub fn create_snapshot(&mut self, snapshot: VolumeSnapshot) -> (VolumeSnapshot, bool) {
        let name = snapshot.name_any();
        if let Some(there) = self.snapshots.get(&name) {
            return (there.clone(), false);
        }
        self.snapshots.insert(name, snapshot.clone());
        (snapshot, true)
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

    fn at(&mut self, asked: &Object) -> Result<&mut Object, Refused> {
        let object = self.object.as_mut().ok_or(Refused::NotFound)?;
        if object.resource_version() == asked.resource_version() { Ok(object) } else { Err(Refused::Conflict) }
    }
}

/// Whether somebody has deleted it.
pub fn is_deleting(object: &Object) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// Its phase.
pub fn phase(object: &Object) -> Option<Phase> {
    object.status.as_ref()?.phase
}

/// The resource version rises with every write.
fn rise(object: &mut Object) {
    let version = object.resource_version().and_then(|version| version.parse::<u64>().ok());
    object.metadata.resource_version = Some((version.unwrap_or_default() + 1).to_string());
}
