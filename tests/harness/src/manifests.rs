//! The objects of the test application, built as a user would write them.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::group::Member;
use crate::images::image;

/// The label that all claims of a test application carry.
pub const APP_LABEL: (&str, &str) = ("app", "ordered");
/// The container of a storage pod that writes.
pub const STORE_CONTAINER: &str = "store";
/// File below a volume's root that a lock holder locks.
pub const LOCKED_FILE: &str = "held";

/// The port of a member's store.
pub const STORE_PORT: u16 = 7000;
/// The writer's port for its statistics.
pub const WRITER_PORT: u16 = 7001;
/// The first lock holder's port; the next ones follow.
const FIRST_LOCK_PORT: u16 = 7002;
/// Large enough for the smallest xfs; the image files behind it are sparse.
const VOLUME_SIZE: &str = "320Mi";
const WORKLOAD: &str = "stillpoint-workload";
const STILLPOINT: &str = "stillpoint";
const PROGRAM: &str = "/stillpoint-workload";
/// The volume of the agent's example with the guardian's socket.
const GUARDIAN_VOLUME: &str = "stillpoint-guardian";
const DATA: &str = "/data";
/// What users are told to merge into their pods is what is tested here.
const AGENT_EXAMPLE: &str = include_str!("../../../deploy/examples/agent-sidecar.yaml");

fn object<K: Resource + DeserializeOwned>(value: Value) -> Result<K> {
    serde_json::from_value(value).context("a manifest of the harness does not fit its kind")
}

/// A member's claim.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn claim(member: &Member) -> Result<PersistentVolumeClaim> {
    let (key, value) = APP_LABEL;
    object(json!({
        "metadata": {"name": member.name, "labels": {key: value}},
        "spec": claim_spec(&member.storage_class),
    }))
}

/// A new claim with what a snapshot shows.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn restored_claim(name: &str, snapshot: &str, storage_class: &str) -> Result<PersistentVolumeClaim> {
    let mut spec = claim_spec(storage_class);
    spec["dataSource"] = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot});
    object(json!({"metadata": {"name": name}, "spec": spec}))
}

fn claim_spec(storage_class: &str) -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": VOLUME_SIZE}},
    })
}

/// The Service by which the writer finds a member's store.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn service(member: &Member) -> Result<Service> {
    object(json!({
        "metadata": {"name": member.pod()},
        "spec": {"selector": {"store": member.name}, "ports": [{"port": STORE_PORT}]},
    }))
}

/// A member's storage pod: the store, lock holders, and the agent as a native sidecar.
///
/// # Errors
/// The documented example of the agent is not what it should be.
pub fn storage_pod(member: &Member) -> Result<Pod> {
    let data = json!({"name": "data", "mountPath": DATA, "subPath": member.sub_path});
    let mut containers = vec![json!({
        "name": STORE_CONTAINER,
        "image": image(WORKLOAD),
        "command": [PROGRAM, "store", "--dir", DATA, "--listen", format!("0.0.0.0:{STORE_PORT}")],
        "ports": [{"containerPort": STORE_PORT}],
        "readinessProbe": {"tcpSocket": {"port": STORE_PORT}, "periodSeconds": 1},
        "volumeMounts": [data],
    })];
    for (position, holder) in member.lock_holders.iter().enumerate() {
        let port = lock_port(position);
        let mut command = vec![PROGRAM.to_owned(), "lock".into(), "--on-request".into()];
        command.extend([
            "--file".into(),
            format!("{DATA}/{LOCKED_FILE}"),
            "--listen".into(),
            format!("0.0.0.0:{port}"),
        ]);
        command.extend(holder.arguments.iter().map(|argument| (*argument).to_owned()));
        containers.push(json!({
            "name": holder.container,
            "image": image(WORKLOAD),
            "command": command,
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            "volumeMounts": [data],
        }));
    }
    let mut spec = json!({
        "nodeSelector": {"kubernetes.io/hostname": member.node},
        "terminationGracePeriodSeconds": 5,
        "containers": containers,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": member.name}}],
    });
    if member.agent {
        add_agent(&mut spec, member.guardian)?;
    }
    object(json!({"metadata": {"name": member.pod(), "labels": {"store": member.name}}, "spec": spec}))
}

/// A second pod that mounts a member, on the same node, with its lock holders alone.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn second_pod(name: &str, member: &Member) -> Result<Pod> {
    let mut pod = storage_pod(&Member { agent: false, ..member.clone() })?;
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.labels = None;
    if let Some(spec) = &mut pod.spec {
        spec.containers.retain(|container| container.name != STORE_CONTAINER);
    }
    Ok(pod)
}

/// A member's storage pod as a StatefulSet keeps it, its agent as the member has it.
///
/// # Errors
/// The documented example of the agent is not what it should be.
pub fn storage_set(member: &Member) -> Result<StatefulSet> {
    let Pod { spec, .. } = storage_pod(member)?;
    let labels = json!({"store": member.name});
    object(json!({
        "metadata": {"name": member.pod()},
        "spec": {
            "serviceName": member.pod(),
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }))
}

/// The port of a pod's lock holder.
pub fn lock_port(position: usize) -> u16 {
    FIRST_LOCK_PORT + position as u16
}

/// Merges the documented example into a pod's spec. Its claim's volume has the same name there. Without a guardian, the agent
/// sees an empty directory where the socket should be.
fn add_agent(spec: &mut Value, guardian: bool) -> Result<()> {
    let mut example: Value = serde_saphyr::from_str(AGENT_EXAMPLE).context("the example of the agent is no YAML")?;
    let example = &mut example["spec"]["template"]["spec"];
    let agent = &mut example["initContainers"][0];
    ensure!(agent.is_object(), "the example of the agent has no container");
    agent["image"] = image(STILLPOINT).into();
    agent["env"] = json!([{"name": "STILLPOINT_LOG", "value": "info,stillpoint=debug"}]);
    for field in ["shareProcessNamespace", "initContainers"] {
        spec[field] = example[field].take();
    }
    if let (Some(volumes), Some(more)) = (spec["volumes"].as_array_mut(), example["volumes"].as_array_mut()) {
        volumes.append(more);
        for volume in volumes.iter_mut().filter(|volume| !guardian && volume["name"] == GUARDIAN_VOLUME) {
            *volume = json!({"name": GUARDIAN_VOLUME, "emptyDir": {}});
        }
    }
    Ok(())
}

/// The ordered writer over the stores of these members.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn writer_pod(name: &str, members: &[Member]) -> Result<Pod> {
    let stores: Vec<String> = members.iter().map(|member| format!("{}:{STORE_PORT}", member.pod())).collect();
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "writer",
                "image": image(WORKLOAD),
                "command": [PROGRAM, "write", "--stores", stores.join(","), "--listen", format!("0.0.0.0:{WRITER_PORT}")],
                "readinessProbe": {"httpGet": {"path": "/stats", "port": WRITER_PORT}, "periodSeconds": 1},
            }],
        },
    }))
}

/// Reads restored claims on the node where their snapshots are, and reports their logs as its termination message.
///
/// # Errors
/// None in practice: the manifest is built here.
pub fn checking_pod(name: &str, node: &str, claims: &[&str]) -> Result<Pod> {
    let directory = |claim: &str| format!("/volumes/{claim}");
    let named: Vec<String> = claims.iter().map(|claim| format!("{claim}={}", directory(claim))).collect();
    let mounts = claims.iter().map(|claim| json!({"name": claim, "mountPath": directory(claim), "readOnly": true}));
    let volumes = claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "restartPolicy": "Never",
            "containers": [{
                "name": "check",
                "image": image(WORKLOAD),
                "command": [PROGRAM, "check", "--dump", "--report", "/dev/termination-log", "--volumes", named.join(",")],
                "volumeMounts": mounts.collect::<Vec<_>>(),
            }],
            "volumes": volumes.collect::<Vec<_>>(),
        },
    }))
}
