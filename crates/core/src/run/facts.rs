//! What the planner needs of Kubernetes objects, as plain facts. Pure conversions.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ContainerStatus, PersistentVolumeClaim, Pod};

use stillpoint_api::labels::{AGENT_CONTAINER, MEMBER};

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The bound volume; `None` while it is not bound.
    pub volume: Option<String>,
    /// Whether it is a raw block device.
    pub block: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The VolumeSnapshot that it was made from.
    pub restored_from: Option<String>,
    /// Somebody says that it is to be a member although it was restored.
    pub is_member: bool,
}

impl From<PersistentVolumeClaim> for Claim {
    fn from(claim: PersistentVolumeClaim) -> Self {
        let spec = claim.spec.unwrap_or_default();
        let annotations = claim.metadata.annotations.unwrap_or_default();
        let source = spec.data_source.map(|source| (source.kind, source.name));
        let source = source.or(spec.data_source_ref.map(|source| (source.kind, source.name)));
        let bound = claim.status.and_then(|status| status.phase).as_deref() == Some("Bound");
        Self {
            name: claim.metadata.name.unwrap_or_default(),
            uid: claim.metadata.uid.unwrap_or_default(),
            labels: claim.metadata.labels.unwrap_or_default(),
            volume: spec.volume_name.filter(|name| bound && !name.is_empty()),
            block: spec.volume_mode.as_deref() == Some("Block"),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            restored_from: source.filter(|(kind, _)| kind == "VolumeSnapshot").map(|(_, name)| name),
            is_member: annotations.get(MEMBER).is_some_and(|value| value == "true"),
        }
    }
}

/// A container of a pod that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Name.
    pub name: String,
    /// The runtime's id without its scheme.
    pub id: String,
}

/// How the agent's container mounts a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentMount {
    /// Where.
    pub path: String,
    /// Only a part of the volume: the agent would not see the whole filesystem.
    pub sub_path: bool,
}

/// A pod that can write: it has a node and is not finished.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The node.
    pub node: Option<String>,
    /// Names of the claims that its volumes mount.
    pub claims: BTreeSet<String>,
    /// Whether it asks its node's DNS server, which knows no Service.
    pub node_dns: bool,
    /// Whether it has an agent.
    pub has_agent: bool,
    /// How the agent mounts claims, by claim name.
    pub agent_mounts: BTreeMap<String, AgentMount>,
    /// Whether its phase is `Running`: all its containers were created.
    pub running: bool,
    /// Running containers but the agent's own.
    pub containers: Vec<RunningContainer>,
    /// How often each container but the agent's own has restarted, by its name. Those that never did are left out.
    pub restarts: BTreeMap<String, u32>,
}

impl PodFacts {
    /// The facts of a pod; `None` when it is finished and can write no more, or has no node yet and cannot write before it
    /// is told of again.
    pub fn of(pod: Pod) -> Option<Self> {
        let spec = pod.spec?;
        let node = spec.node_name.filter(|name| !name.is_empty())?;
        let status = pod.status.unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let running_phase = status.phase.as_deref() == Some("Running");
        let name = pod.metadata.name.unwrap_or_default();
        let claim_of_volume: BTreeMap<String, String> = spec
            .volumes
            .unwrap_or_default()
            .into_iter()
            .filter_map(|volume| {
                let claim = match (volume.persistent_volume_claim, volume.ephemeral) {
                    (Some(source), _) => source.claim_name,
                    // A generic ephemeral volume's claim is named by the API convention POD-VOLUME.
                    (None, Some(_)) => format!("{name}-{}", volume.name),
                    (None, None) => return None,
                };
                Some((volume.name, claim))
            })
            .collect();
        let agent =
            spec.init_containers.unwrap_or_default().into_iter().find(|container| container.name == AGENT_CONTAINER);
        let agent_mounts = agent.as_ref().map(|agent| agent_mounts(agent, &claim_of_volume)).unwrap_or_default();
        let statuses = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let statuses: Vec<ContainerStatus> = statuses.into_iter().flatten().flatten().collect();
        Some(Self {
            name,
            uid: pod.metadata.uid.unwrap_or_default(),
            node: Some(node),
            node_dns: asks_the_nodes_dns(spec.host_network, spec.dns_policy.as_deref()),
            claims: claim_of_volume.into_values().collect(),
            has_agent: agent.is_some(),
            agent_mounts,
            running: running_phase,
            restarts: statuses.iter().filter_map(restarts).collect(),
            containers: statuses.into_iter().filter_map(running).collect(),
        })
    }
}

/// The kubelet takes `ClusterFirst`, which is the default, for `Default` on the host's network.
fn asks_the_nodes_dns(host_network: Option<bool>, policy: Option<&str>) -> bool {
    match policy {
        None | Some("ClusterFirst") => host_network == Some(true),
        Some(other) => other == "Default",
    }
}

fn agent_mounts(agent: &ContainerSpec, claim_of_volume: &BTreeMap<String, String>) -> BTreeMap<String, AgentMount> {
    let mut mounts = BTreeMap::new();
    for mount in agent.volume_mounts.iter().flatten() {
        let Some(claim) = claim_of_volume.get(&mount.name) else { continue };
        let sub_path = [&mount.sub_path, &mount.sub_path_expr].into_iter().flatten().any(|path| !path.is_empty());
        let mount = AgentMount { path: mount.mount_path.clone(), sub_path };
        // A mount of the whole volume wins over one of a part.
        if !sub_path || !mounts.contains_key(claim) {
            mounts.insert(claim.clone(), mount);
        }
    }
    mounts
}

fn restarts(status: &ContainerStatus) -> Option<(String, u32)> {
    let count = u32::try_from(status.restart_count).ok().filter(|count| *count > 0)?;
    (status.name != AGENT_CONTAINER).then(|| (status.name.clone(), count))
}

fn running(status: ContainerStatus) -> Option<RunningContainer> {
    status.state.and_then(|state| state.running)?;
    let id = status.container_id?;
    let id = id.split_once("://").map_or(id.as_str(), |(_, id)| id).to_owned();
    (status.name != AGENT_CONTAINER && !id.is_empty()).then_some(RunningContainer { name: status.name, id })
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
