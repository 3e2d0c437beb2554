//! The agent: it stands beside the data, suspends writes to the members of one pod, or of the pods of one node, and gives them back.
//!
//! [`session`] hears the controllers' commands, [`member`] carries them out for one claim as its [`hold`] decides, the
//! [`freezer`] does what can hang as a [`method`] says, [`dataset`] says what may be frozen and [`locks`] who stands in the way. What is about to
//! be frozen is kept as a [`record`], for the [`recovery`] of an agent that is started anew.

pub mod dataset;
pub mod freezer;
pub mod locks;
pub mod member;
pub mod method;
mod offer;
pub mod procfs;
pub mod quiesce;
pub mod record;
pub mod recovery;
pub mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use recovery::Recovery;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::note;
use stillpoint_core::kernels;
use stillpoint_core::limits::{MAX_AGENT_MEMBERS, MAX_HOLD, MAX_MEMBER_THREADS};

/// What an agent can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// The volumes that its own container mounts.
    #[default]
    Pod,
    /// The volumes that the kubelet of its node has mounted for pods.
    Node,
}

/// Suspends writes to volumes when a controller asks, and gives them back. Runs once on every node (--node), or as a native sidecar in
/// a pod whose volumes are replicated, with the capabilities SYS_ADMIN, SYS_PTRACE and DAC_READ_SEARCH.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Host and port of the controllers. Every address of the host is called; the certificate must be for this host.
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// Serve the volumes of all pods of this node instead of those that this container mounts. Needs a pod with hostPID: true.
    #[arg(long)]
    pub node: bool,
    /// PEM certificates that the controller's certificate is verified against.
    #[arg(long, value_name = "PATH")]
    pub ca_file: PathBuf,
    /// The pod's projected service-account token, with the audience stillpoint.io/controller.
    #[arg(long, value_name = "PATH")]
    pub token_file: PathBuf,
    /// Unix socket of the guardian of this node, or of this pod, which gives writes back if this agent dies. Without it
    /// nothing is frozen.
    #[arg(long, value_name = "PATH", default_value = "/run/stillpoint/guardian.sock")]
    pub guardian: PathBuf,
    /// Directory for records of what is about to be frozen, which the agent that follows this one gives back. It must
    /// outlive the container and lie on no member: mount an emptyDir with medium Memory.
    #[arg(long, value_name = "PATH", default_value = "/run/stillpoint-agent")]
    pub record_dir: PathBuf,
    /// Seconds that writes may stay suspended at most; a controller that asks for longer is refused. At most 60.
    #[arg(long, value_name = "SECONDS", default_value_t = MAX_HOLD.as_secs(), value_parser = clap::value_parser!(u64).range(1..=MAX_HOLD.as_secs()))]
    pub max_hold: u64,
}

/// Runs until SIGTERM; then resumes every member and ends.
///
/// # Errors
/// If the arguments cannot be right, or the runtime cannot be started.
pub fn run(args: Args) -> anyhow::Result<()> {
    if !args.controller.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        bail!("--controller must be HOST:PORT, not {:?}", args.controller);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_AGENT_MEMBERS * MAX_MEMBER_THREADS * 2)
        .build()?;
    let ended = runtime.block_on(serve(args));
    // A thread may wait for a dataset for ever; the end of the process does not.
    runtime.shutdown_background();
    ended
}

fn tell_kernel() {
    let kernel = rustix::system::uname();
    let release = kernel.release().to_string_lossy();
    tracing::info!(%release, "the kernel");
    for fault in kernels::known(&release) {
        tracing::warn!(%release, fault, "the kernel has a known fault");
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Err(error) = note::create_directory(&args.record_dir) {
        tracing::error!(%error, directory = %args.record_dir.display(), "cannot make --record-dir: nothing will be frozen");
    }
    tell_kernel();
    // Before any controller can ask for anything.
    let recovery = Recovery::begin(&args.record_dir);
    offer::begin(args.guardian.clone(), if args.node { Reach::Node } else { Reach::Pod });
    let settings = member::Settings {
        guardian: args.guardian,
        max_hold: Duration::from_secs(args.max_hold),
        records: args.record_dir,
        recovery,
    };
    let members = Arc::new(session::Members::new(settings));
    let controllers =
        session::Controllers { address: args.controller, ca_file: args.ca_file, token_file: args.token_file };
    let sessions = tokio::spawn(session::keep(controllers, Arc::clone(&members)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop: giving writes back");
    sessions.abort();
    members.shut_down().await;
    Ok(())
}
