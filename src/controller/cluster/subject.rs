//! What is watched, and what is kept of it. The objects themselves are never kept.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, WatchParams};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use stillpoint_api::labels;
use stillpoint_core::limits::{LIST_PAGE, WATCH_TIMEOUT};
use stillpoint_core::run::agents::PodRef;
use stillpoint_core::run::facts::{Claim, PodFacts};
use stillpoint_core::run::stub::Stub;

/// One kind of objects.
pub trait Subject: Send + Sync + 'static {
    /// As the API server has it.
    type Object: ResourceExt + Clone + Debug + DeserializeOwned + Send + 'static;
    /// What is kept of it.
    type Fact: Clone + PartialEq + Send + Sync + 'static;

    /// What it is called in a sentence.
    const WHAT: &'static str;
    /// Which of them are of interest, by their labels.
    const LABELS: Option<&'static str> = None;
    /// Which of them are of interest, by their fields.
    const FIELDS: Option<&'static str> = None;

    /// What tells this one from all others, for all time or at least from those that are there with it.
    fn key(object: &Self::Object) -> String;
    /// What is to be kept; `None`: nothing.
    fn fact(object: Self::Object) -> Option<Self::Fact>;

    /// Asks for the first page of a list that shows what is stored at that moment (without a resource version, it is a
    /// consistent read).
    fn list() -> ListParams {
        let mut params = ListParams::default().limit(LIST_PAGE);
        params.label_selector = Self::LABELS.map(str::to_owned);
        params.field_selector = Self::FIELDS.map(str::to_owned);
        params
    }

    /// Asks for the changes, and from time to time for the version up to which there were none.
    fn watch() -> WatchParams {
        let timeout = u32::try_from(WATCH_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
        let mut params = WatchParams::default().timeout(timeout);
        params.label_selector = Self::LABELS.map(str::to_owned);
        params.field_selector = Self::FIELDS.map(str::to_owned);
        params
    }
}

/// The claims of a namespace, by UID.
pub enum Claims {}

impl Subject for Claims {
    type Object = PersistentVolumeClaim;
    type Fact = Claim;
    const WHAT: &'static str = "claims";

    fn key(claim: &PersistentVolumeClaim) -> String {
        claim.uid().unwrap_or_default()
    }

    fn fact(claim: PersistentVolumeClaim) -> Option<Claim> {
        Some(claim.into())
    }
}

/// The pods of a namespace that mount claims and can write, by UID.
pub enum Pods {}

impl Subject for Pods {
    type Object = Pod;
    type Fact = PodFacts;
    const WHAT: &'static str = "pods";
    // Finished pods can write no more; of jobs there may be many. A pod that finishes is told of as one that is gone. One
    // without a node cannot write yet; that it got one is told as that it was made.
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!=");

    fn key(pod: &Pod) -> String {
        pod.uid().unwrap_or_default()
    }

    fn fact(pod: Pod) -> Option<PodFacts> {
        PodFacts::of(pod).filter(|pod| !pod.claims.is_empty())
    }
}

/// The pods of node agents, in the controller's own namespace, by UID. Whoever may make pods there may make agents.
pub enum NodeAgents {}

/// A pod of a node agent.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAgent {
    /// The pod.
    pub pod: PodRef,
    /// Its node.
    pub node: String,
    /// It is about to end, and another one takes its place.
    pub deleting: bool,
}

impl Subject for NodeAgents {
    type Object = Pod;
    type Fact = NodeAgent;
    const WHAT: &'static str = "node agents";
    // NODE_AGENT as the value of COMPONENT; a test sees that they agree.
    const LABELS: Option<&'static str> = Some("app.kubernetes.io/component=node-agent");
    const FIELDS: Option<&'static str> = Pods::FIELDS;

    fn key(pod: &Pod) -> String {
        pod.uid().unwrap_or_default()
    }

    fn fact(pod: Pod) -> Option<NodeAgent> {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let facts = PodFacts::of(pod)?;
        Some(NodeAgent { pod: PodRef::from(&facts), node: facts.node?, deleting })
    }
}

/// The objects of one resource in the cluster that replications made, by [`replica_key`].
pub enum Replicas {}

impl Subject for Replicas {
    type Object = DynamicObject;
    type Fact = DynamicObject;
    const WHAT: &'static str = "replicas";
    const LABELS: Option<&'static str> = Some(labels::REPLICATION_UID);

    fn key(replica: &DynamicObject) -> String {
        replica_key(&replica.namespace().unwrap_or_default(), &replica.name_any())
    }

    fn fact(mut replica: DynamicObject) -> Option<DynamicObject> {
        replica.metadata.managed_fields = None;
        Some(replica)
    }
}

/// The replications of the cluster, by UID.
pub enum Runs {}

impl Subject for Runs {
    // Not the type that it is: an object that cannot be understood as that must not keep all others from being heard of.
    type Object = DynamicObject;
    type Fact = Arc<Stub>;
    const WHAT: &'static str = "replications";

    fn key(run: &DynamicObject) -> String {
        run.uid().unwrap_or_default()
    }

    fn fact(run: DynamicObject) -> Option<Arc<Stub>> {
        Some(Arc::new(Stub::read(&run)))
    }
}

/// The key of a replica. No name has a slash, so all of a namespace follow each other.
pub fn replica_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_agents_are_found_by_the_label_that_the_chart_gives_them() {
        assert_eq!(NodeAgents::LABELS, Some(&*format!("{}={}", labels::COMPONENT, labels::NODE_AGENT)));
    }
}
