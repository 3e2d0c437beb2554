//! Whether Stillpoint and the test driver are in the cluster. `make install` puts them there.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use kube::api::ListParams;

use crate::cluster::Cluster;
use crate::limits::CONTROLLER;
use crate::waiting::until;

/// The namespace of the controller and the guardians.
pub const SYSTEM: &str = "stillpoint-system";
/// The test driver's snapshot class.
pub const SNAPSHOT_CLASS: &str = "loop";
/// The test driver's name.
pub const DRIVER: &str = "loop.csi.stillpoint.io";

/// Sees that the controller runs and that every node has the test driver.
///
/// # Errors
/// One of them is not there, and what to do.
pub async fn check(cluster: &Cluster) -> Result<()> {
    let drivers = Api::<CSINode>::all(cluster.client.clone()).list(&ListParams::default()).await?;
    let nodes = drivers.iter().filter(|node| node.spec.drivers.iter().any(|driver| driver.name == DRIVER)).count();
    let all = cluster.nodes.len();
    ensure!(nodes >= all, "the test driver {DRIVER} runs on {nodes} of {all} nodes: run `make install`");
    let api = Api::<Deployment>::namespaced(cluster.client.clone(), SYSTEM);
    let what = "the controller to run (`make install` puts it there)";
    until(&api, "stillpoint-controller", what, CONTROLLER, |controller| Ok(controller.is_some_and(runs).then_some(())))
        .await
}

fn runs(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
    })
}
