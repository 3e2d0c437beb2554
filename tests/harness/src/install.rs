//! Puts Stillpoint and the test driver into a cluster, or brings them up to date.

use anyhow::Result;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, ResourceExt};

use crate::cluster::{Cluster, client_program};
use crate::limits::INSTALL;
use crate::waiting::until;

/// The namespace of the controller and the guardians.
pub const SYSTEM: &str = "stillpoint-system";
/// The test driver's snapshot class.
pub const SNAPSHOT_CLASS: &str = "loop";
/// The test driver's name.
pub const DRIVER: &str = "loop.csi.stillpoint.io";

/// Installs both and waits until they run. The images must be on the nodes: `tests/cluster/cluster load`.
///
/// # Errors
/// What kubectl or helm answered, or what did not come up in time.
pub async fn install(cluster: &Cluster) -> Result<()> {
    let driver = ["apply", "--server-side", "--force-conflicts", "-f", "tests/loop-csi/deploy"];
    client_program("kubectl", &driver).await?;
    let values = "image.repository=localhost/stillpoint,image.tag=dev,controller.log=info\\,stillpoint=debug";
    let chart =
        ["upgrade", "--install", "stillpoint", "charts/stillpoint", "--namespace", SYSTEM, "--create-namespace"];
    client_program("helm", &[&chart[..], &["--set", values]].concat()).await?;
    for daemons in Api::<DaemonSet>::all(cluster.client.clone()).list(&Default::default()).await? {
        let (name, namespace) = (daemons.name_any(), daemons.namespace().unwrap_or_default());
        let api = Api::<DaemonSet>::namespaced(cluster.client.clone(), &namespace);
        until(&api, &name, &format!("DaemonSet {namespace}/{name} on every node"), INSTALL, |daemons| {
            Ok(daemons.is_some_and(runs_everywhere).then_some(()))
        })
        .await?;
    }
    let api = Api::<Deployment>::namespaced(cluster.client.clone(), SYSTEM);
    until(&api, "stillpoint-controller", "the controller", INSTALL, |controller| {
        Ok(controller.is_some_and(runs).then_some(()))
    })
    .await
}

fn runs_everywhere(daemons: &DaemonSet) -> bool {
    daemons.status.as_ref().is_some_and(|status| {
        status.observed_generation == daemons.metadata.generation
            && status.desired_number_scheduled > 0
            && status.updated_number_scheduled == Some(status.desired_number_scheduled)
            && status.number_available == Some(status.desired_number_scheduled)
    })
}

fn runs(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
            && status.replicas == wanted
    })
}
