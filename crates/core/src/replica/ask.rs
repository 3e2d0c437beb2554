//! What is asked for and removed, and to which run it belongs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use sha2::{Digest, Sha256};

use super::seen::ObjectName;
use super::wishes::Wishes;
use stillpoint_api::{ClaimReference, labels};

/// Kubernetes' bound on the name of an object (a DNS subdomain, RFC 1123).
const MAX_NAME: usize = 253;
/// Hexadecimal digits of the hash that makes a name unique: 48 bits, and only names of one namespace can collide.
const HASH_DIGITS: usize = 12;

/// How a member's replica will be made: chosen before any agent is asked. Only the kind that chose it reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The class: an attempt must not depend on a default that changes meanwhile.
    pub class: Option<String>,
}

/// Something that makes replicas, of one member or of several.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Create this object.
    Create {
        /// Its resource.
        resource: ApiResource,
        /// The object.
        object: Box<DynamicObject>,
    },
}

impl Ask {
    /// By what its outcome is known.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Create { resource, object } => ObjectName::of(resource, object.as_ref()),
        }
    }
}

/// Why a request for a replica has made none, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMade {
    /// The API server will not make it, however often it is asked. Its sentence.
    Refused(String),
    /// It may be there, or be made by another try: nobody has heard, or the answer says nothing about the object. A sentence.
    Unknown(String),
}

impl NotMade {
    /// What an answer of the API server means that is an error. Of `409` only a conflict is meant: whoever hears that the object
    /// exists already reads it.
    pub fn answered(code: u16, sentence: impl Into<String>) -> Self {
        match code {
            // Authentication that lapsed, time, conflicts with others (a quota that changes), too many requests: those pass.
            401 | 408 | 409 | 425 | 429 => Self::Unknown(sentence.into()),
            400..500 => Self::Refused(sentence.into()),
            _ => Self::Unknown(sentence.into()),
        }
    }
}

/// What is to be written onto a replica after it was made.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Its resource.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// Its UID, as far as it is known: what has taken its place is not marked.
    pub uid: Option<String>,
    /// Annotations to add.
    pub annotations: Vec<(String, String)>,
}

/// What is removed from one resource: these objects, whether they exist or not, and those that carry the labels.
#[derive(Clone, Debug)]
pub struct Remove {
    /// The resource.
    pub resource: ApiResource,
    /// Objects whose names are known in advance.
    pub names: Vec<String>,
    /// A label selector of everything that the replication has made. Which attempt made it, the label
    /// [`labels::ATTEMPT`] says.
    pub selector: String,
}

/// One attempt of a replication: what its replicas are named and marked by.
#[derive(Clone, Copy, Debug)]
pub struct RunId<'a> {
    /// Name of the replication.
    pub replication: &'a str,
    /// UID of the replication.
    pub uid: &'a str,
    /// Namespace of the replication and of its members.
    pub namespace: &'a str,
    /// Number of the attempt.
    pub attempt: u32,
    /// The replication, if replicas are to go when it goes.
    pub owner: Option<&'a OwnerReference>,
    /// When its replicas were asked for, by the controller's clock; `None` where that is not of interest.
    pub asked_at: Option<Timestamp>,
    /// What is asked for of every replica; `None` where none is made.
    pub wishes: Option<&'a Wishes>,
}

impl RunId<'_> {
    /// The name of what is made for one member alone.
    pub fn replica_name(&self, claim: &ClaimReference) -> String {
        replica_name(self.replication, self.uid, self.attempt, &claim.name, &claim.uid)
    }

    /// The metadata of an object of this run: who owns it, and the labels that lead back to the attempt.
    pub fn metadata(&self, name: String) -> ObjectMeta {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let own = [
            label(labels::REPLICATION, self.replication),
            label(labels::REPLICATION_UID, self.uid),
            label(labels::ATTEMPT, &self.attempt.to_string()),
        ];
        let wished = self.wishes.cloned().unwrap_or_default();
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            // Those of Stillpoint come last, and so are not the spec's to change.
            labels: Some(wished.labels.into_iter().chain(own).collect()),
            annotations: Some(wished.annotations).filter(|all| !all.is_empty()),
            owner_references: self.owner.cloned().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// The same of an object that is one member's alone: annotations name the claim.
    pub fn metadata_of_member(&self, claim: &ClaimReference) -> ObjectMeta {
        let annotations = [(labels::CLAIM, &claim.name), (labels::CLAIM_UID, &claim.uid)];
        let asked_at = self.asked_at().map(|at| (labels::ASKED_AT, at));
        let annotations = annotations.map(|(key, value)| (key, value.clone())).into_iter().chain(asked_at);
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value));
        let metadata = self.metadata(self.replica_name(claim));
        let wished = metadata.annotations.unwrap_or_default();
        ObjectMeta { annotations: Some(wished.into_iter().chain(annotations).collect()), ..metadata }
    }

    /// Whether an object was made by this very request for replicas: nobody else could have said when that would be. Where the
    /// time is not of interest every object is.
    pub fn has_made(&self, object: &impl ResourceExt) -> bool {
        let Some(asked_at) = self.asked_at() else { return true };
        object.labels().get(labels::REPLICATION_UID).is_some_and(|uid| uid == self.uid)
            && object.annotations().get(labels::ASKED_AT) == Some(&asked_at)
    }

    fn asked_at(&self) -> Option<String> {
        self.asked_at.map(|at| format!("{at:.6}"))
    }

    /// What removes everything that this attempt, and those before it, have made in a resource.
    pub fn remove(&self, resource: ApiResource, names: Vec<String>) -> Remove {
        Remove { resource, names, selector: format!("{}={}", labels::REPLICATION_UID, self.uid) }
    }
}

/// The name of what is made for one member. It depends on nothing that is learnt later, so that what was created without an
/// answer can be found again, and a repeated creation is the same one.
pub fn replica_name(replication: &str, replication_uid: &str, attempt: u32, claim: &str, claim_uid: &str) -> String {
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

/// Whether this may be the name of a replica of the claim of this name, by any replication. Names that are cut off are not known.
pub fn may_be_replica_of(replica: &str, claim: &str) -> bool {
    let is_hash = |hash: &str| hash.len() == HASH_DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some((stem, hash)) = replica.rsplit_once('-') else { return false };
    is_hash(hash) && stem.strip_suffix(claim).is_some_and(|replication| replication.ends_with('-'))
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
