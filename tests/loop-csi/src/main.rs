//! Command line of the driver.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use loop_csi::{limits, server, suspend};

/// A CSI driver for tests and demonstrations. NOT FOR PRODUCTION: one disk, no redundancy, nothing flushed on purpose.
///
/// Each volume is a sparse image file on the node's disk, with a filesystem of its own, mounted through a loop device.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the driver of one node
    Serve(ServeArgs),
    /// Suspend a filesystem until told otherwise; started by the driver itself
    #[command(name = suspend::HOLD_COMMAND, hide = true)]
    HoldSuspended {
        /// Longest hold, in milliseconds
        limit_ms: u64,
    },
}

#[derive(Args)]
struct ServeArgs {
    /// Name of the node, as Kubernetes knows it
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Directory of the images, on the node's own disk
    #[arg(long, default_value = "/var/lib/stillpoint-loop")]
    data_dir: PathBuf,
    /// Socket of the driver, under the path where the kubelet sees it
    #[arg(long, default_value = "/var/lib/kubelet/plugins/loop.csi.stillpoint.io/csi.sock")]
    csi_socket: PathBuf,
    /// The kubelet's directory of registration sockets
    #[arg(long, default_value = "/var/lib/kubelet/plugins_registry")]
    registration_dir: PathBuf,
    /// Root directory of the system whose mkfs.ext4, mkfs.xfs, mkfs.btrfs and btrfstune are used
    #[arg(long, default_value = "/")]
    host_root: PathBuf,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match CommandLine::parse().command {
        Command::HoldSuspended { limit_ms } => suspend::hold(Duration::from_millis(limit_ms)),
        Command::Serve(args) => serve(args),
    }
}

fn serve(args: ServeArgs) -> Result<()> {
    let config = server::Config {
        node: args.node,
        data_dir: args.data_dir,
        csi_socket: args.csi_socket,
        registration_dir: args.registration_dir,
        host_root: args.host_root,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let end = runtime.block_on(server::serve(config));
    // Calls that are copying get this long; a hold that is left over ends with the process.
    runtime.shutdown_timeout(limits::SHUTDOWN_GRACE);
    end
}
