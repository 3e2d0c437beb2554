//! What is seen of replicas, and what it means.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::{ApiResource, DynamicObject};

use super::ask::NotMade;
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
    /// What was asked for in vain, and why.
    pub unmade: &'a BTreeMap<ObjectName, NotMade>,
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
    /// There will be none that shows this cut: the request for it was refused, or its name is another object's.
    pub refused: Option<Verdict>,
    /// What was last said to be wrong, by whoever makes it or was asked for it. It may mend itself.
    pub trouble: Option<Verdict>,
    /// How far it is; `None`: nothing is seen of it.
    pub cut: Option<Cut>,
    /// Whoever makes it has taken notice of it.
    pub noticed: bool,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Cut {
    /// When it was taken, by the storage system's clock.
    pub fn taken_at(&self) -> Option<Timestamp> {
        match self {
            Self::Pending => None,
            Self::Taken { creation_time } | Self::Usable { creation_time } => Some(*creation_time),
        }
    }
}
