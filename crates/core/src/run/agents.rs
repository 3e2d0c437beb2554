//! Who is asked: agents, and what tells them and their answers apart. Plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::slice;

use super::facts::{PodFacts, RunningContainer};
use stillpoint_api::AgentPlace;

/// The identity of an agent, by which its session is known: the UID of the pod that it runs in, as the API server gave it at
/// authentication. It says nothing of which pods mount a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey(String);

impl AgentKey {
    /// The key of the agent that runs in the pod of this UID.
    pub fn of_pod(uid: impl Into<String>) -> Self {
        Self(uid.into())
    }

    /// The UID of the agent's own pod.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod, pinned to its UID: a new pod of the same name is another pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// An agent, and how it reaches the member that it is asked about. Shown as the subject of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentRef {
    /// A container beside the application, in the pod that mounts the member.
    Sidecar {
        /// The pod of both.
        pod: PodRef,
        /// Where the agent's container mounts the claim.
        mount_path: String,
    },
    /// The agent of a node, for all pods there that mount the member.
    Node {
        /// The agent's own pod.
        pod: PodRef,
        /// The node.
        node: String,
        /// The pods that mount the member.
        watched: Vec<PodRef>,
    },
}

impl From<&PodFacts> for PodRef {
    fn from(pod: &PodFacts) -> Self {
        Self { name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

impl AgentRef {
    /// The sidecar of a pod that mounts the claim of this name.
    pub fn sidecar(pod: &PodFacts, claim: &str) -> Self {
        let mount_path = pod.agent_mounts.get(claim).map(|mount| mount.path.clone()).unwrap_or_default();
        Self::Sidecar { pod: PodRef::from(pod), mount_path }
    }

    /// The agent of a node, whose own pod this is, for these pods.
    pub fn node(node: &str, own: &PodRef, watched: &[&PodFacts]) -> Self {
        let watched = watched.iter().map(|pod| PodRef::from(*pod)).collect();
        Self::Node { pod: own.clone(), node: node.to_owned(), watched }
    }

    /// Where it runs.
    pub fn place(&self) -> AgentPlace {
        match self {
            Self::Sidecar { .. } => AgentPlace::Sidecar,
            Self::Node { .. } => AgentPlace::Node,
        }
    }

    /// The key of its session.
    pub fn key(&self) -> AgentKey {
        AgentKey::of_pod(&self.own_pod().uid)
    }

    /// Whether this is the key of its session.
    pub fn has_key(&self, key: &AgentKey) -> bool {
        self.own_pod().uid == key.as_str()
    }

    /// The pod that it runs in.
    pub fn own_pod(&self) -> &PodRef {
        match self {
            Self::Sidecar { pod, .. } | Self::Node { pod, .. } => pod,
        }
    }

    /// The pods whose processes it looks at.
    pub fn watched(&self) -> &[PodRef] {
        match self {
            Self::Sidecar { pod, .. } => slice::from_ref(pod),
            Self::Node { watched, .. } => watched,
        }
    }

    /// The same as they are now, without those that are gone or finished.
    pub fn watched_pods<'a>(&'a self, pods: &'a BTreeMap<String, PodFacts>) -> impl Iterator<Item = &'a PodFacts> {
        self.watched().iter().filter_map(|pod| pods.get(&pod.uid))
    }

    /// Whether all pods whose processes it looks at run, and so all their containers were created.
    pub fn sees_running_pods(&self, pods: &BTreeMap<String, PodFacts>) -> bool {
        self.watched().iter().all(|pod| pods.get(&pod.uid).is_some_and(|pod| pod.running))
    }

    /// The running containers whose processes it looks at, but for its own.
    pub fn watched_containers(&self, pods: &BTreeMap<String, PodFacts>) -> Vec<RunningContainer> {
        self.watched_pods(pods).flat_map(|pod| pod.containers.iter().cloned()).collect()
    }

    /// Whether it sees the writes of the pod of this UID.
    pub fn covers(&self, pod_uid: &str) -> bool {
        self.watched().iter().any(|pod| pod.uid == pod_uid)
    }

    /// Where its own container mounts the member; empty: it does not.
    pub fn mount_path(&self) -> &str {
        match self {
            Self::Sidecar { mount_path, .. } => mount_path,
            Self::Node { .. } => "",
        }
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar { pod, .. } => write!(f, "the agent of pod {}", pod.name),
            Self::Node { node, .. } => write!(f, "the agent of node {node}"),
        }
    }
}

/// One agent's part in one member: what commands and answers are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignmentKey {
    /// UID of the member's claim.
    pub claim: String,
    /// The agent.
    pub agent: AgentKey,
}

impl AssignmentKey {
    /// The part of this agent in the member of this claim.
    pub fn new(claim_uid: impl Into<String>, agent: AgentKey) -> Self {
        Self { claim: claim_uid.into(), agent }
    }
}
