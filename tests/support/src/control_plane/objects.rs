//! Claims, volumes, pods and classes as the rest of a cluster would have made them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::labels;
use stillpoint_api::snapshot::VolumeSnapshotClass;

use super::fixture::Fixture;

/// The driver of every volume that is not said to be of another.
pub const DRIVER: &str = "csi.test.stillpoint.io";
/// Where the agent's container mounts its claim.
pub const MOUNT_PATH: &str = "/stillpoint/data";

/// A claim, bound to a volume of [`DRIVER`], with the label `group: NAMESPACE`.
pub async fn bound_claim(fixture: &Fixture, name: &str) -> PersistentVolumeClaim {
    bound_claim_of(fixture, name, DRIVER).await
}

/// The same of another driver.
pub async fn bound_claim_of(fixture: &Fixture, name: &str, driver: &str) -> PersistentVolumeClaim {
    let volume_name = format!("{}-{name}", fixture.namespace);
    let claim = unbound_claim(fixture, name, json!({"volumeName": volume_name})).await;
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": volume_name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": driver, "volumeHandle": volume_name},
            "claimRef": {"namespace": fixture.namespace, "name": name, "uid": claim.uid()},
        },
    }))
    .expect("a volume");
    let volumes: Api<PersistentVolume> = Api::all(fixture.client.clone());
    volumes.create(&PostParams::default(), &volume).await.expect("the API server accepts the volume");
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    fixture.api().patch_status(name, &PatchParams::default(), &bound).await.expect("the claim is bound")
}

/// A claim without a volume, unless `extra` names one.
pub async fn unbound_claim(fixture: &Fixture, name: &str, extra: Value) -> PersistentVolumeClaim {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "",
    });
    merge(&mut spec, extra);
    fixture.create(json!({"metadata": {"name": name, "labels": {"group": fixture.namespace}}, "spec": spec})).await
}

/// A running pod with an application and an agent, both of which mount the claim of the same name.
pub async fn pod_with_agent(fixture: &Fixture, name: &str) -> Pod {
    let agent = json!({
        "name": labels::AGENT_CONTAINER,
        "image": "stillpoint",
        "restartPolicy": "Always",
        "volumeMounts": [{"name": "data", "mountPath": MOUNT_PATH}],
    });
    running_pod(fixture, name, name, json!([agent])).await
}

/// A running pod whose application mounts a claim, with the given `initContainers`.
pub async fn running_pod(fixture: &Fixture, name: &str, claim: &str, init_containers: Value) -> Pod {
    running_pod_on(fixture, "node-1", name, claim, init_containers).await
}

/// The same on this node.
pub async fn running_pod_on(fixture: &Fixture, node: &str, name: &str, claim: &str, init_containers: Value) -> Pod {
    let sidecars: Vec<Value> = init_containers
        .as_array()
        .expect("a list")
        .iter()
        .map(|container| container_status(container["name"].as_str().expect("a name")))
        .collect();
    fixture
        .create::<Pod>(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "shareProcessNamespace": true,
                "initContainers": init_containers,
                "containers": [{
                    "name": "database",
                    "image": "database",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            },
        }))
        .await;
    let status = json!({
        "phase": "Running",
        "containerStatuses": [container_status("database")],
        "initContainerStatuses": sidecars,
    });
    let patch = Patch::Merge(json!({"status": status}));
    fixture.api().patch_status(name, &PatchParams::default(), &patch).await.expect("the pod runs")
}

/// A pod that says that it is the agent of a node, in the namespace of the fixture.
pub async fn node_agent_pod(fixture: &Fixture, node: &str) -> Pod {
    fixture
        .create::<Pod>(json!({
            "metadata": {"name": format!("agent-{node}"), "labels": {labels::COMPONENT: labels::NODE_AGENT}},
            "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "stillpoint"}]},
        }))
        .await
}

/// The application's container of a running pod is another one now, after so many restarts.
pub async fn restart_container(fixture: &Fixture, pod: &str, restarts: u32) {
    let patch = Patch::Merge(json!({"status": {"containerStatuses": [restarted("database", restarts)]}}));
    fixture.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await.expect("the container restarts");
}

fn container_status(name: &str) -> Value {
    restarted(name, 0)
}

fn restarted(name: &str, restarts: u32) -> Value {
    let id = format!("containerd://{}", format!("{:02x}", 0xab + restarts).repeat(32));
    json!({
        "name": name, "image": name, "imageID": "", "containerID": id, "ready": true, "restartCount": restarts, "started": true,
        "state": {"running": {}},
    })
}

/// A token of the namespace's default service account, bound to a pod, for the controller's audience.
pub async fn agent_token(fixture: &Fixture, pod: &Pod) -> String {
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    token(fixture, &[labels::TOKEN_AUDIENCE], Some(bound)).await
}

/// A token of the namespace's default service account; without audiences, one for the API server itself.
pub async fn token(fixture: &Fixture, audiences: &[&str], bound: Option<Value>) -> String {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": audiences, "expirationSeconds": 600, "boundObjectRef": bound},
    });
    let accounts: Api<ServiceAccount> = fixture.api();
    let answer: Value =
        accounts.create_subresource("token", "default", &PostParams::default(), &request).await.expect("a token");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

/// A class of the test's own, and not the default of its driver.
pub async fn snapshot_class(fixture: &Fixture, driver: &str) -> String {
    let name = format!("{}-class", fixture.namespace);
    let class: VolumeSnapshotClass =
        serde_json::from_value(json!({"metadata": {"name": name}, "driver": driver, "deletionPolicy": "Delete"}))
            .expect("a class");
    let classes: Api<VolumeSnapshotClass> = Api::all(fixture.client.clone());
    classes.create(&PostParams::default(), &class).await.expect("the API server accepts the class");
    name
}

fn merge(base: &mut Value, extra: Value) {
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        base[key] = value;
    }
}
