//! What is seen of replicas, and what it means.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::{ApiResource, DynamicObject};

use crate::run::state::Verdict;

/// An object among all those of a replication, whatever their kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// Of an object that was read from a resource, or is to be put there.
    pub fn of(resource: &ApiResource, object: &impl ResourceExt) -> Self {
        Self { kind: resource.kind.clone(), name: object.name_any() }
    }
}

/// Everything that is known of a replication's replicas.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The objects that are there.
    pub objects: &'a BTreeMap<ObjectName, DynamicObject>,
    /// What was asked for in vain, or without an answer, and why.
    pub refused: &'a BTreeMap<ObjectName, String>,
}

/// What was read of the cluster before members are resolved.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// All objects of a resource, by its kind. A resource that the cluster does not have is missing.
    pub read: BTreeMap<String, Vec<DynamicObject>>,
}

/// What is known of one member's replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its name, as far as it is known; empty until then.
    pub name: String,
    /// The request for it was refused, or nobody has heard how it ended. It may be there nevertheless.
    pub refused: Option<Verdict>,
    /// How far it is; `None`: nothing is seen of it.
    pub cut: Option<Cut>,
}

/// How far a replica is.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// Asked for; nothing is known to be cut.
    Pending,
    /// The storage system has taken the cut. Writes may go on: whatever is still to be done does not change what it shows.
    Taken {
        /// By the storage system's clock.
        creation_time: Timestamp,
    },
    /// It can be restored from.
    Usable {
        /// By the storage system's clock.
        creation_time: Timestamp,
    },
    /// Whoever makes it reports an error.
    Trouble(Verdict),
}
