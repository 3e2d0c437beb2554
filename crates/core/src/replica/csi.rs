//! Replicas as CSI `VolumeSnapshot` objects: their names, their content, what their status means, which class is meant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use sha2::{Digest, Sha256};

use stillpoint_api::labels;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec};

/// Kubernetes' bound on the name of an object (a DNS subdomain, RFC 1123).
const MAX_NAME: usize = 253;
/// Hexadecimal digits of the hash that makes a name unique: 48 bits, and only names of one namespace can collide.
const HASH_DIGITS: usize = 12;

/// What one snapshot is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRequest<'a> {
    /// Name of the replication.
    pub replication: &'a str,
    /// UID of the replication.
    pub replication_uid: &'a str,
    /// Namespace of the replication and of the claim.
    pub namespace: &'a str,
    /// Number of the attempt.
    pub attempt: u32,
    /// Name of the claim.
    pub claim: &'a str,
    /// UID of the claim.
    pub claim_uid: &'a str,
    /// The class, already chosen: an attempt must not depend on a default that changes meanwhile.
    pub class: Option<&'a str>,
    /// The replication, if the snapshot is to go when it goes.
    pub owner: Option<OwnerReference>,
}

/// The name of a member's snapshot. It depends on nothing that is learnt later, so that a snapshot whose creation timed out
/// can be found again, and a repeated creation is the same one.
pub fn snapshot_name(replication: &str, replication_uid: &str, attempt: u32, claim: &str, claim_uid: &str) -> String {
    let mut hash = Sha256::new();
    for part in [replication_uid, &attempt.to_string(), claim_uid] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut prefix = format!("{replication}-{claim}");
    // Names are ASCII; a byte index is a character index.
    prefix.truncate(MAX_NAME - HASH_DIGITS - 1);
    // A part of a DNS subdomain must end in a letter or a digit, and the cut may fall anywhere.
    let prefix = prefix.trim_end_matches(['-', '.']);
    format!("{prefix}-{}", &hash[..HASH_DIGITS])
}

/// The object that asks for one snapshot.
pub fn snapshot(request: &SnapshotRequest<'_>) -> VolumeSnapshot {
    let SnapshotRequest { replication, replication_uid, namespace, attempt, claim, claim_uid, class, owner } = request;
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    VolumeSnapshot {
        metadata: ObjectMeta {
            name: Some(snapshot_name(replication, replication_uid, *attempt, claim, claim_uid)),
            namespace: Some((*namespace).to_owned()),
            labels: Some(
                [
                    label(labels::REPLICATION, replication),
                    label(labels::REPLICATION_UID, replication_uid),
                    label(labels::ATTEMPT, &attempt.to_string()),
                ]
                .into(),
            ),
            annotations: Some([label(labels::CLAIM, claim), label(labels::CLAIM_UID, claim_uid)].into()),
            owner_references: owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: VolumeSnapshotSpec {
            volume_snapshot_class_name: class.map(str::to_owned),
            source: VolumeSnapshotSource { persistent_volume_claim_name: Some((*claim).to_owned()) },
        },
        status: None,
    }
}

/// How far a snapshot is.
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
    /// The driver or the snapshot controller reports an error.
    Error(String),
}

/// What the status of a snapshot says.
///
/// `creationTime` is set when the driver's CreateSnapshot has returned, which CSI allows only once the cut is taken
/// (CSI specification, CreateSnapshot: the snapshot may still be "post processing", with `ready_to_use` false).
pub fn judge(snapshot: &VolumeSnapshot) -> Cut {
    let Some(status) = &snapshot.status else { return Cut::Pending };
    let ready = status.ready_to_use == Some(true);
    // A usable snapshot can carry the error of an earlier try.
    if let (Some(error), false) = (&status.error, ready) {
        return Cut::Error(error.message.clone().unwrap_or_else(|| "the driver gave no message".to_owned()));
    }
    match &status.creation_time {
        None => Cut::Pending,
        Some(time) if ready => Cut::Usable { creation_time: time.0 },
        Some(time) => Cut::Taken { creation_time: time.0 },
    }
}

/// A `VolumeSnapshotClass`, as far as the choice needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Name.
    pub name: String,
    /// The CSI driver that it is for.
    pub driver: String,
    /// Whether it is marked as the default of its driver.
    pub default: bool,
}

/// Why no class could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClassError {
    /// The class that was asked for is not there.
    #[error("VolumeSnapshotClass {name} does not exist; create it, or name another one")]
    NotFound {
        /// The class.
        name: String,
    },
    /// The class is for another driver.
    #[error(
        "VolumeSnapshotClass {name} is for the driver {class_driver}, but the volume is of the driver {driver}; leave \
         volumeSnapshotClassName out so that every member gets the default class of its own driver"
    )]
    DriverMismatch {
        /// The class.
        name: String,
        /// The driver of the class.
        class_driver: String,
        /// The driver of the volume.
        driver: String,
    },
    /// No class of the driver is marked as default, or more than one is.
    #[error(
        "the driver {driver} has {found} default VolumeSnapshotClasses instead of one; mark one with the annotation \
         snapshot.storage.kubernetes.io/is-default-class: \"true\", or set volumeSnapshotClassName"
    )]
    NoSingleDefault {
        /// The driver of the volume.
        driver: String,
        /// Classes marked as its default.
        found: usize,
    },
}

impl ClassError {
    /// The CamelCase word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "SnapshotClassNotFound",
            Self::DriverMismatch { .. } => "SnapshotClassDriverMismatch",
            Self::NoSingleDefault { .. } => "NoDefaultSnapshotClass",
        }
    }
}

/// Chooses the class for a volume of `driver`: the one asked for, or the driver's only default.
///
/// # Errors
/// When there is no such class, or not exactly one.
pub fn choose_class(asked: Option<&str>, driver: &str, classes: &[Class]) -> Result<String, ClassError> {
    if let Some(name) = asked {
        let class = classes.iter().find(|class| class.name == name);
        return match class {
            None => Err(ClassError::NotFound { name: name.to_owned() }),
            Some(class) if class.driver != driver => Err(ClassError::DriverMismatch {
                name: name.to_owned(),
                class_driver: class.driver.clone(),
                driver: driver.to_owned(),
            }),
            Some(class) => Ok(class.name.clone()),
        };
    }
    let defaults: Vec<&Class> = classes.iter().filter(|class| class.driver == driver && class.default).collect();
    match defaults.as_slice() {
        [only] => Ok(only.name.clone()),
        found => Err(ClassError::NoSingleDefault { driver: driver.to_owned(), found: found.len() }),
    }
}

#[cfg(test)]
#[path = "csi_tests.rs"]
mod tests;
