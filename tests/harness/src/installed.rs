//! Whether Stillpoint and the test driver are in the cluster. `make install` puts them there.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;

use crate::cluster::Cluster;
use crate::limits::CONTROLLER;
use crate::waiting::until;

/// The namespace of the controller and the guardians.
pub const SYSTEM: &str = "stillpoint-system";
/// The test driver's snapshot class.
pub const SNAPSHOT_CLASS: &str = "loop";
/// The Lease that the leading controller holds, in [`SYSTEM`].
pub const LEASE: &str = "stillpoint-controller";
/// The namespace of the test driver.
pub const DRIVER_NAMESPACE: &str = "loop-csi";
/// The test driver's name.
pub const DRIVER: &str = "loop.csi.stillpoint.io";

/// Sees that the controller runs and that every node has the test driver.
///
/// # Errors
/// One of them is not there, and what to do.
pub async fn check(cluster: &Cluster) -> Result<()> {
    // A driver's pod runs a moment before the kubelet has registered it.
    let nodes = Api::<CSINode>::all(cluster.client.clone());
    for node in &cluster.nodes {
        let what = format!("the test driver {DRIVER} to be registered (`make install` puts it there)");
        until(&nodes, node, &what, CONTROLLER, |node| Ok(node.is_some_and(has_driver).then_some(()))).await?;
    }
    let api = Api::<Deployment>::namespaced(cluster.client.clone(), SYSTEM);
    let what = "the controller to run (`make install` puts it there)";
    until(&api, "stillpoint-controller", what, CONTROLLER, |controller| Ok(controller.is_some_and(runs).then_some(())))
        .await
}

fn has_driver(node: &CSINode) -> bool {
    node.spec.drivers.iter().any(|driver| driver.name == DRIVER)
}

fn runs(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
    })
}
