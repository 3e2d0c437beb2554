//! The versions that are compared. Each has an API server of its own: two controllers on one would both lead.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, CustomResourceExt, ResourceExt};
use serde_json::json;
use stillpoint_api::ConsistencyGroupReplication;
use tokio::time::timeout;

use super::objects::{DRIVER, SNAPSHOT_CLASS};
use super::system::NAMESPACE;
use crate::cluster::Cluster;
use crate::limits::CONTROLLER;

/// One version of Stillpoint and the API server that is its alone.
pub struct Version {
    /// `new` or `old`, for tables.
    pub label: &'static str,
    /// The `stillpoint` binary.
    pub program: PathBuf,
    /// How the binary finds the API server.
    pub kubeconfig: PathBuf,
    /// The connection to the same API server, with no nodes.
    pub cluster: Cluster,
}

impl Version {
    /// Connects, and installs what the controller needs: a CRD (`crd`, a manifest; the one of this checkout if not given), its
    /// namespace, and a snapshot class.
    ///
    /// # Errors
    /// `kubeconfig` names no usable API server, or it refuses the objects.
    pub async fn new(label: &'static str, program: &Path, kubeconfig: &Path, crd: Option<&Path>) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{}", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let crd = match crd {
            None => ConsistencyGroupReplication::crd(),
            Some(manifest) => read(manifest)?,
        };
        install(&client, &crd).await?;
        let cluster = Cluster { client, nodes: Vec::new() };
        Ok(Self { label, program: program.into(), kubeconfig: kubeconfig.into(), cluster })
    }
}

fn read(manifest: &Path) -> Result<CustomResourceDefinition> {
    let text = std::fs::read_to_string(manifest).with_context(|| format!("{}", manifest.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not the manifest of a CRD", manifest.display()))
}

async fn install(client: &Client, crd: &CustomResourceDefinition) -> Result<()> {
    let apply = PatchParams::apply("hold-bench").force();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = crd.name_any();
    crds.patch(&name, &apply, &Patch::Apply(crd)).await.context("the kubeconfig names no usable API server")?;
    timeout(CONTROLLER, await_condition(crds, &name, conditions::is_crd_established())).await??;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    Api::<Namespace>::all(client.clone()).patch(NAMESPACE, &apply, &Patch::Apply(&namespace)).await?;
    let class = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": {"name": SNAPSHOT_CLASS},
        "driver": DRIVER,
        "deletionPolicy": "Delete",
    });
    let classes: Api<stillpoint_api::snapshot::VolumeSnapshotClass> = Api::all(client.clone());
    classes.patch(SNAPSHOT_CLASS, &apply, &Patch::Apply(&class)).await?;
    Ok(())
}
