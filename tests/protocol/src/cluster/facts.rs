//! What the controller reads of Kubernetes' objects, for members that are numbers here.

use std::collections::BTreeMap;

use kube::core::{DynamicObject, ObjectMeta};
use serde_json::json;
use stillpoint_api::snapshot::DEFAULT_CLASS_ANNOTATION;
use stillpoint_api::{
    ClaimName, ConsistencyGroupReplicationSpec, Mode, Replication, Source, VolumeSnapshotReplication,
};
use stillpoint_core::replica::Kind;
use stillpoint_core::replica::seen;
use stillpoint_core::run::effect::Storage;
use stillpoint_core::run::facts::{AgentMount, Claim, PodFacts};
use stillpoint_core::run::state::Member;

use super::{NAME, NAMESPACE, Object, UID};

/// The only driver, of every volume.
const DRIVER: &str = "loop.csi";

/// A replication of so many members that nobody has worked on.
pub fn group(members: usize, spec: ConsistencyGroupReplicationSpec) -> Object {
    let names = (0..members).map(|member| ClaimName(claim_name(member))).collect();
    let spec = ConsistencyGroupReplicationSpec {
        source: Source { selector: None, persistent_volume_claim_names: Some(names) },
        replication: (spec.mode == Mode::Replicate).then(volume_snapshots),
        ..spec
    };
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        uid: Some(UID.to_owned()),
        generation: Some(1),
        resource_version: Some("1".to_owned()),
        ..ObjectMeta::default()
    };
    Object { metadata, spec, status: None }
}

fn volume_snapshots() -> Replication {
    Replication { volume_snapshot: Some(VolumeSnapshotReplication::default()) }
}

/// The name of a member's claim.
pub fn claim_name(member: usize) -> String {
    format!("data-{member}")
}

/// The UID of a member's claim.
pub fn claim_uid(member: usize) -> String {
    format!("claim-{member}")
}

/// Which member has this UID.
pub fn member_of(claim_uid: &str) -> Option<usize> {
    claim_uid.strip_prefix("claim-")?.parse().ok()
}

/// The claim of a member.
pub fn claim(member: usize) -> Claim {
    Claim { name: claim_name(member), uid: claim_uid(member), volume: Some(format!("pv-{member}")), ..Claim::default() }
}

/// A pod, with its agent, that mounts these members' claims and runs.
pub fn mounts(name: &str, uid: &str, members: impl Iterator<Item = usize>) -> PodFacts {
    let claims: Vec<String> = members.map(claim_name).collect();
    let mount = |claim: &String| (claim.clone(), AgentMount { path: format!("/{claim}"), sub_path: false });
    PodFacts {
        name: name.to_owned(),
        uid: uid.to_owned(),
        has_agent: true,
        agent_mounts: claims.iter().map(mount).collect(),
        claims: claims.into_iter().collect(),
        running: true,
        ..PodFacts::default()
    }
}

/// What is known of storage: one driver with one class, if the kind of replica asks for it.
pub fn storage(volumes: &[String], kind: Option<&dyn Kind>) -> Storage {
    let drivers: BTreeMap<String, String> = volumes.iter().map(|name| (name.clone(), DRIVER.to_owned())).collect();
    let read = kind.into_iter().flat_map(|kind| kind.reads()).map(|resource| {
        let mut class = DynamicObject::new("loop", &resource).data(json!({"driver": DRIVER}));
        class.metadata.annotations = Some([(DEFAULT_CLASS_ANNOTATION.to_owned(), "true".to_owned())].into());
        (resource.kind, vec![class])
    });
    Storage { drivers, facts: seen::Facts { read: read.collect() }, ..Storage::default() }
}

/// Whether a member is mounted by the pod of this UID.
pub fn is_pod_of(member: &Member, pod: &str) -> bool {
    member.mounts.iter().any(|own| own.uid == pod)
}
