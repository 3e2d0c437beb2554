//! The connection to a cluster.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::process::Command;

const HOW_TO: &str = "bring a test cluster up with `make install`, then run `eval \"$(tests/cluster/cluster env)\"`";

/// A cluster and its worker nodes.
#[derive(Clone)]
pub struct Cluster {
    /// The connection.
    pub client: Client,
    /// Names of the nodes that take pods, sorted.
    pub nodes: Vec<String>,
}

impl Cluster {
    /// Connects to the cluster that KUBECONFIG names.
    ///
    /// # Errors
    /// There is none, or it does not answer, or it has no node that takes pods.
    pub async fn connect() -> Result<Self> {
        ensure!(env::var_os("KUBECONFIG").is_some(), "KUBECONFIG is not set: {HOW_TO}");
        let client = Client::try_default().await.context("KUBECONFIG names no usable cluster")?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.with_context(|| format!("the cluster of KUBECONFIG does not answer: {HOW_TO}"))?;
        let mut nodes: Vec<String> = nodes.iter().filter(|node| takes_pods(node)).map(ResourceExt::name_any).collect();
        nodes.sort();
        ensure!(!nodes.is_empty(), "the cluster has no node that is ready and takes pods");
        Ok(Self { client, nodes })
    }

    /// Two nodes, for what must be shown across nodes.
    ///
    /// # Errors
    /// The cluster has only one.
    pub fn two_nodes(&self) -> Result<[&str; 2]> {
        match &self.nodes[..] {
            [first, second, ..] => Ok([first, second]),
            _ => bail!("this needs two nodes, and the cluster has {}", self.nodes.len()),
        }
    }
}

fn takes_pods(node: &Node) -> bool {
    let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = tainted.is_some_and(|taints| taints.iter().any(|taint| taint.effect != "PreferNoSchedule"));
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|each| each.type_ == "Ready" && each.status == "True"));
    ready && !tainted
}

/// The root of this checkout.
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a client program such as kubectl or helm in the root of the checkout and returns what it printed.
///
/// # Errors
/// The program is not on PATH, or it failed; its own words are in the error.
pub async fn client_program(program: &str, args: &[&str]) -> Result<String> {
    let command =
        Command::new(program).args(args).current_dir(checkout()).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = command.await.with_context(|| format!("cannot run {program}: {HOW_TO}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{program} {} failed: {} {}", args.join(" "), text(&output.stderr), text(&output.stdout));
    }
    Ok(text(&output.stdout))
}
