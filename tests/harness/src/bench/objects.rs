//! Claims, volumes and pods as the rest of a cluster would have made them.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::labels;

use crate::namespace::Place;

/// The driver of every claim; nobody asks it.
pub const DRIVER: &str = "csi.bench.stillpoint.io";
/// The snapshot class of [`DRIVER`].
pub const SNAPSHOT_CLASS: &str = "bench";

/// A claim that is bound to a volume of [`DRIVER`].
///
/// # Errors
/// The API server refuses.
pub async fn bound_claim(place: &Place, name: &str) -> Result<()> {
    let volume_name = format!("{}-{name}", place.name);
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}},
            "storageClassName": "",
            "volumeName": volume_name,
        },
    }))?;
    let claim = place.create(&claim).await?;
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": volume_name},
        "spec": {
            "capacity": {"storage": "64Mi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": DRIVER, "volumeHandle": volume_name},
            "claimRef": {"namespace": place.name, "name": name, "uid": claim.uid()},
        },
    }))?;
    Api::<PersistentVolume>::all(place.client()).create(&PostParams::default(), &volume).await?;
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    place.api::<PersistentVolumeClaim>().patch_status(name, &PatchParams::default(), &bound).await?;
    Ok(())
}

/// A running pod whose application and agent mount the claim of the same name, the agent at `mount_path`. Its status names
/// no containers, because no container runtime gives the processes ids that the agent could look for.
///
/// # Errors
/// The API server refuses.
pub async fn running_pod(place: &Place, name: &str, mount_path: &str) -> Result<Pod> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": "node-1",
            "shareProcessNamespace": true,
            "initContainers": [{
                "name": labels::AGENT_CONTAINER,
                "image": "stillpoint",
                "restartPolicy": "Always",
                "volumeMounts": [{"name": "data", "mountPath": mount_path}],
            }],
            "containers": [{
                "name": "writer",
                "image": "writer",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    }))?;
    place.create(&pod).await?;
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    Ok(place.api::<Pod>().patch_status(name, &PatchParams::default(), &running).await?)
}

/// The namespace's default service account, which a cluster's controller manager would have made.
///
/// # Errors
/// The API server refuses.
pub async fn service_account(place: &Place) -> Result<()> {
    place.create(&serde_json::from_value::<ServiceAccount>(json!({"metadata": {"name": "default"}}))?).await?;
    Ok(())
}

/// A token for the controller, bound to a pod.
///
/// # Errors
/// The API server refuses.
pub async fn agent_token(place: &Place, pod: &Pod) -> Result<String> {
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [labels::TOKEN_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let accounts: Api<ServiceAccount> = place.api();
    let answer: Value = accounts.create_subresource("token", "default", &PostParams::default(), &request).await?;
    Ok(answer["status"]["token"].as_str().context("the API server's answer has no token")?.to_owned())
}

/// The CA that the controller published.
///
/// # Errors
/// There is none.
pub async fn published_ca(place: &Place) -> Result<String> {
    let map = place.api::<ConfigMap>().get(labels::CA_CONFIG_MAP).await?;
    map.data.and_then(|mut data| data.remove("ca.crt")).context("the published ConfigMap has no ca.crt")
}
