//! Brings the driver up: its two sockets, and its end.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::controller::ControllerService;
use crate::csi::controller_server::ControllerServer;
use crate::csi::identity_server::IdentityServer;
use crate::csi::node_server::NodeServer;
use crate::driver::Driver;
use crate::identity::IdentityService;
use crate::node::NodeService;
use crate::pluginregistration::registration_server::RegistrationServer;
use crate::registration::{self, RegistrationService};
use crate::snapshots;
use crate::state::Store;
use crate::tools::Tools;

/// What the driver is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Where the images are kept.
    pub data_dir: PathBuf,
    /// The driver's own socket. The kubelet must see it under the same path.
    pub csi_socket: PathBuf,
    /// The kubelet's plugins_registry directory.
    pub registration_dir: PathBuf,
    /// The root directory of the system whose mkfs tools are used.
    pub host_root: PathBuf,
}

/// Serves until SIGTERM, SIGINT or the kubelet's refusal.
pub async fn serve(config: Config) -> Result<()> {
    tracing::warn!("this driver is for tests and demonstrations only: never keep data that matters on its volumes");
    let driver = Arc::new(Driver {
        store: Store::open(&config.data_dir, &config.node)?,
        tools: Tools::new(config.host_root),
        node: config.node,
    });
    snapshots::resume_abandoned(&driver)?;

    let (refused, mut refusals) = mpsc::channel(1);
    let csi = Server::builder()
        .add_service(IdentityServer::new(IdentityService))
        .add_service(ControllerServer::new(ControllerService { driver: driver.clone() }))
        .add_service(NodeServer::new(NodeService { driver: driver.clone() }))
        .serve_with_incoming(listen(&config.csi_socket)?);
    let registration_socket = registration::socket(&config.registration_dir);
    let endpoint = config.csi_socket.clone();
    let registration = Server::builder()
        .add_service(RegistrationServer::new(RegistrationService { endpoint, refused }))
        .serve_with_incoming(listen(&registration_socket)?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(node = driver.node, socket = %config.csi_socket.display(), "serving");

    let end = tokio::select! {
        ended = csi => ended.context("serving the driver's socket"),
        ended = registration => ended.context("serving the registration socket"),
        why = refusals.recv() => Err(anyhow::anyhow!("the kubelet refused the driver: {}", why.unwrap_or_default())),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // The kubelet forgets the driver when its registration socket goes.
    remove_socket(&registration_socket)?;
    remove_socket(&config.csi_socket)?;
    end
}

fn listen(path: &Path) -> Result<UnixListenerStream> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    remove_socket(path)?;
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

/// Removes the socket that an earlier run left, and nothing else.
fn remove_socket(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
        }
        Ok(_) => bail!("{} is in the way, and is not a socket", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}
