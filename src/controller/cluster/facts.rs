//! What is known of one namespace at one moment. Plain data.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::subject::replica_key;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::run::facts::{Claim, PodFacts};

/// The facts of one namespace. They do not change any more; keep them no longer than needed.
pub struct Facts {
    namespace: String,
    claims: Arc<BTreeMap<String, Claim>>,
    pods: Arc<BTreeMap<String, PodFacts>>,
    /// Of the whole cluster.
    replicas: Arc<BTreeMap<String, VolumeSnapshot>>,
    /// UIDs of pods by the name of a claim that they mount; made when first asked for.
    mounts: OnceLock<BTreeMap<String, Vec<String>>>,
}

impl Facts {
    /// Puts them together.
    pub(super) fn new(
        namespace: &str,
        claims: Arc<BTreeMap<String, Claim>>,
        pods: Arc<BTreeMap<String, PodFacts>>,
        replicas: Arc<BTreeMap<String, VolumeSnapshot>>,
    ) -> Self {
        Self { namespace: namespace.to_owned(), claims, pods, replicas, mounts: OnceLock::new() }
    }

    /// All claims, by UID.
    pub fn claims(&self) -> &BTreeMap<String, Claim> {
        &self.claims
    }

    /// All unfinished pods that mount claims, by UID.
    pub fn pods(&self) -> &BTreeMap<String, PodFacts> {
        &self.pods
    }

    /// The pods that mount the claim of this name.
    pub fn mounting(&self, claim: &str) -> impl Iterator<Item = &PodFacts> {
        let mounts = self.mounts.get_or_init(|| {
            let mut mounts: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for pod in self.pods.values() {
                for claim in &pod.claims {
                    mounts.entry(claim.clone()).or_default().push(pod.uid.clone());
                }
            }
            mounts
        });
        mounts.get(claim).into_iter().flatten().filter_map(|uid| self.pods.get(uid))
    }

    /// The snapshots of this namespace that a replication made, by name.
    pub fn replicas(&self) -> impl Iterator<Item = (&str, &VolumeSnapshot)> {
        let first = replica_key(&self.namespace, "");
        self.replicas
            .range(first.clone()..)
            .map_while(move |(key, snapshot)| Some((key.strip_prefix(first.as_str())?, snapshot)))
    }
}
