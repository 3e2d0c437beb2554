//! Replicas: which kinds there are, and what every kind can say. Pure builders and judges; the controller acts.
//!
//! A kind is one file and one line in [`KINDS`]. The planner knows none of them: it passes on what a kind asks for, and counts
//! what the kind says of each member.

pub mod ask;
mod drivers;
pub mod removal;
pub mod seen;
pub mod volume_snapshot;
pub mod wishes;

use std::collections::BTreeMap;
use std::fmt;

use kube::core::{ApiResource, DynamicObject};

use crate::run::facts::Claim;
use crate::run::state::Verdict;
use ask::{Ask, Recipe, Remove, RunId};
use removal::Making;
use seen::{Facts, Judged, Seen};
use stillpoint_api::{ClaimReference, ConsistencyGroupReplicationSpec, Method, Replication};
use wishes::Wishes;

/// Every kind of replica.
pub static KINDS: &[&dyn Kind] = &[
    &volume_snapshot::VolumeSnapshots, // one CSI VolumeSnapshot for every member
];

/// One kind of replica: how it is asked for, judged and removed. Pure.
pub trait Kind: Sync {
    /// What people read of it.
    fn words(&self) -> Words;

    /// Whether a spec asks for this kind.
    fn is_asked_for(&self, replication: &Replication) -> bool;

    /// What a spec that asks for this kind asks for of every replica.
    fn wishes(&self, how: &Replication) -> Wishes;

    /// The resources that its replicas consist of, in the namespace of the replication. They are watched, and whatever carries
    /// the labels of a void attempt is removed from them.
    fn objects(&self) -> Vec<ApiResource>;

    /// The resources of the cluster that [`Kind::resolve`] needs; they are read before it, into [`Facts`].
    fn reads(&self) -> Vec<ApiResource>;

    /// Whether this cluster can have such replicas at all.
    ///
    /// # Errors
    /// What is missing.
    fn available(&self, facts: &Facts) -> Result<(), Verdict>;

    /// How the replica of a member is to be made. Before any agent is asked.
    ///
    /// # Errors
    /// Why there can be none.
    fn resolve(&self, how: &Replication, member: &MemberFacts<'_>, facts: &Facts) -> Result<Recipe, Verdict>;

    /// All that must be asked for, at once, so that every member gets its replica. Every member holds.
    fn ask(&self, run: &RunId<'_>, members: &[(&ClaimReference, &Recipe)]) -> Vec<Ask>;

    /// What is known of each member's replica, by the UID of its claim. Every member has an entry.
    fn judge(&self, run: &RunId<'_>, members: &[&ClaimReference], seen: &Seen<'_>) -> BTreeMap<String, Judged>;

    /// What is to be removed so that nothing of this attempt and of those before it stays, also what nobody has heard of. May
    /// be called without members: then only the labels tell.
    fn remove(&self, run: &RunId<'_>, members: &[&ClaimReference]) -> Vec<Remove>;

    /// How far one of its objects is made, as far as its deletion depends on that.
    fn making(&self, object: &DynamicObject) -> Making;

    /// Why a member that is suspended so cannot have such a replica, if that is so.
    fn excludes(
        &self,
        _method: Method,
        _member: &MemberFacts<'_>,
        _recipe: &Recipe,
        _facts: &Facts,
    ) -> Option<Verdict> {
        None
    }
}

impl PartialEq for dyn Kind {
    fn eq(&self, other: &Self) -> bool {
        self.words().kind == other.words().kind
    }
}

impl fmt::Debug for dyn Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().kind)
    }
}

/// The kind that a spec asks for; `None`: none that this version knows.
pub fn asked_for(spec: &ConsistencyGroupReplicationSpec) -> Option<&'static dyn Kind> {
    let replication = spec.replication.as_ref()?;
    KINDS.iter().copied().find(|kind| kind.is_asked_for(replication))
}

/// The resources that replicas of any kind consist of, each once.
pub fn all_objects() -> Vec<ApiResource> {
    let mut objects = Vec::new();
    for resource in KINDS.iter().flat_map(|kind| kind.objects()) {
        if !objects.contains(&resource) {
            objects.push(resource);
        }
    }
    objects
}

/// How far an object of a resource is made, as far as its deletion depends on that.
pub fn making(resource: &ApiResource, object: &DynamicObject) -> Making {
    let kind = KINDS.iter().find(|kind| kind.objects().contains(resource));
    kind.map_or(Making::Settled, |kind| kind.making(object))
}

/// What people read of a kind, as parts of sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// One replica, and the kind in a status: a CamelCase word, which never changes.
    pub kind: &'static str,
    /// Several replicas.
    pub many: &'static str,
    /// What is said of a replica that is not cut in time.
    pub uncut: &'static str,
    /// What is said of a replica that is not usable in time.
    pub unusable: &'static str,
    /// What to look at when nobody takes notice of replicas: a sentence.
    pub unnoticed: &'static str,
    /// What may fail and is not found before it is tried: "unless …".
    pub untried: &'static str,
}

impl Default for Words {
    /// Of a kind that is not known.
    fn default() -> Self {
        Self {
            kind: "replica",
            many: "replicas",
            uncut: "were not cut",
            unusable: "was not usable",
            unnoticed: "Whoever makes them does not run.",
            untried: "making them fails",
        }
    }
}

/// A member, as far as the choice of its recipe needs it.
#[derive(Clone, Copy, Debug)]
pub struct MemberFacts<'a> {
    /// Its claim.
    pub claim: &'a Claim,
    /// The CSI driver of its volume; empty when it has none.
    pub driver: &'a str,
}
