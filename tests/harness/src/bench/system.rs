//! The processes under test besides the agents: one controller and one guardian.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use rustix::process::Pid;
use serde_json::json;
use stillpoint_api::ConsistencyGroupReplication;
use tokio::time::timeout;

use crate::limits::CONTROLLER;

const NAMESPACE: &str = "stillpoint-system";
/// The certificate is for the name of the Service, so the Service is called as the machine is.
const HOST: &str = "localhost";

/// The file of this very program.
///
/// # Errors
/// /proc is not mounted.
pub fn own_program() -> Result<PathBuf> {
    env::current_exe().context("this program has no path")
}

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    /// Its id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{} cannot be run", program.display()))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Controller and guardian, and where agents find them.
pub struct System {
    /// `stillpoint controller`.
    pub controller: Process,
    /// `stillpoint guardian`.
    pub guardian: Process,
    program: PathBuf,
    directory: PathBuf,
    address: String,
}

impl System {
    /// Installs the CRD and starts both. Files that agents need go into `directory`.
    ///
    /// # Errors
    /// The API server of KUBECONFIG does not take the CRD, or `program` cannot be run.
    pub async fn start(client: &Client, program: &Path, directory: &Path) -> Result<Self> {
        install(client).await?;
        let (sessions, health) = (free_port()?, free_port()?);
        let address = format!("{HOST}:{sessions}");
        let listen = [format!("127.0.0.1:{sessions}"), format!("127.0.0.1:{health}")];
        let arguments = ["controller", "--listen", &listen[0], "--health", &listen[1], "--namespace", NAMESPACE];
        let controller =
            Process::start(program, &[&arguments[..], &["--pod-name", "hold-bench", "--service", HOST]].concat())?;
        let socket = directory.join("guardian.sock");
        let guardian = Process::start(program, &["guardian", "--socket", text(&socket)?])?;
        Ok(Self { controller, guardian, program: program.into(), directory: directory.into(), address })
    }

    /// The command of an agent that proves itself with this token.
    ///
    /// # Errors
    /// The files for it cannot be written.
    pub fn agent(&self, name: &str, ca: &str, token: &str) -> Result<Vec<String>> {
        let (ca_file, token_file) = (self.directory.join("ca.crt"), self.directory.join(format!("{name}.token")));
        fs::write(&ca_file, ca)?;
        fs::write(&token_file, token)?;
        let (guardian, records) =
            (self.directory.join("guardian.sock"), self.directory.join(format!("{name}.records")));
        let command = [
            text(&self.program)?,
            "agent",
            "--controller",
            &self.address,
            "--ca-file",
            text(&ca_file)?,
            "--token-file",
            text(&token_file)?,
            "--guardian",
            text(&guardian)?,
            "--record-dir",
            text(&records)?,
        ];
        Ok(command.map(String::from).to_vec())
    }
}

async fn install(client: &Client) -> Result<()> {
    let apply = PatchParams::apply("hold-bench").force();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = ConsistencyGroupReplication::crd();
    crds.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await.context("KUBECONFIG names no usable API server")?;
    let name = crd.name_any();
    timeout(CONTROLLER, await_condition(crds, &name, conditions::is_crd_established())).await??;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    Api::<Namespace>::all(client.clone()).patch(NAMESPACE, &apply, &Patch::Apply(&namespace)).await?;
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
