//! The guardian: gives writes back when an agent cannot.
//!
//! A frozen filesystem has no owner and no timeout in the kernel: if its freezer dies, it stays frozen, even across umount
//! and mount. So before an agent freezes it hands the guardian, which lives in another pod of the node, or at least in
//! another container, and outlives the agent, a descriptor of the dataset's root and a pidfd of the process that will freeze. The guardian thaws when the
//! deadline passes or the connection ends. It never freezes and never mounts anything.
//!
//! [`watch`] decides when a thaw is owed, [`ledger`] notes it for the guardian that follows this one. Every connection has a thread of its own, because a thaw can hang on a dead disk and must not hold up the others.

pub mod client;
mod guard;
pub mod ledger;
pub mod protocol;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use ledger::Ledger;
use protocol::Scope;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::thread::{CapabilitySet, capabilities};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use stillpoint_core::limits::{GUARDIAN_GRACE, MAX_GUARDED, MAX_HOLD, THAW_RETRY};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Stack of one guarding thread: it calls poll, recvmsg and ioctl, and logs.
const STACK: usize = 128 * 1024;

/// Gives writes back when an agent dies or overruns its hold. Runs once per node, in a pod of its own, or where that is not
/// possible beside every agent, in a container of its own; with the capability SYS_ADMIN.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Unix socket to listen on. Put it into a directory that only root can enter and that agents mount (a hostPath).
    #[arg(long, value_name = "PATH", default_value = "/run/stillpoint/guardian.sock")]
    pub socket: PathBuf,
    /// What this guardian outlives: `node` in a pod of its own on every node, `pod` in a container beside the agent. Agents
    /// pass it on, and the status of a replication says it of every member.
    #[arg(long, value_enum, default_value_t)]
    pub scope: Scope,
}

/// Runs until SIGTERM; then accepts nobody new, and ends when no thaw is owed.
///
/// # Errors
/// If it could not thaw for want of SYS_ADMIN, if the socket cannot be made, or if another guardian listens on it.
pub fn run(args: Args) -> anyhow::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN) {
        bail!("a guardian without the capability SYS_ADMIN cannot give writes back: add it to its securityContext");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(&args.socket, args.scope))
}

async fn serve(path: &Path, scope: Scope) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = UnixListener::from_std(listen_on(path)?.into())?;
    let notes = path.with_file_name("owed");
    let ledger = Ledger::open(&notes).with_context(|| format!("cannot keep notes in {}", notes.display()))?;
    let connections = Arc::new(AtomicUsize::new(0));
    let owed = Arc::new(AtomicUsize::new(0));
    tracing::info!(socket = %path.display(), ?scope, "guarding");
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted.and_then(|(connection, _)| connection.into_std()) {
                Ok(connection) => admit(connection.into(), scope, &connections, &owed, &ledger),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(THAW_RETRY).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // Gone first, so that agents see at once that nobody would guard a new hold here.
    let _ = fs::remove_file(path);
    drop(listener);
    let last = tokio::time::Instant::now() + MAX_HOLD + GUARDIAN_GRACE;
    while owed.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < last {
        tokio::time::sleep(THAW_RETRY).await;
    }
    Ok(())
}

fn admit(
    connection: OwnedFd,
    scope: Scope,
    connections: &Arc<AtomicUsize>,
    owed: &Arc<AtomicUsize>,
    ledger: &Arc<Ledger>,
) {
    if connections.load(Ordering::Acquire) >= MAX_GUARDED {
        guard::refuse(&connection, &format!("this guardian already guards {MAX_GUARDED} members, its limit"));
        return;
    }
    let counted = Counted::new(connections);
    let (owed, ledger) = (Arc::clone(owed), Arc::clone(ledger));
    let started = std::thread::Builder::new().name("guard".to_owned()).stack_size(STACK).spawn(move || {
        guard::guard(&connection, scope, &owed, &ledger);
        drop(counted);
    });
    if let Err(error) = started {
        tracing::warn!(%error, "cannot start a thread; the agent is not guarded and will not freeze");
    }
}

/// Listens on `path`, taking the place of a socket that nobody listens on any more.
fn listen_on(path: &Path) -> anyhow::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).with_context(|| format!("{} cannot name a socket", path.display()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!("{} is there and is not a socket; remove it, or choose another --socket", path.display());
        }
        let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        match connect(&probe, &address) {
            Err(Errno::CONNREFUSED) => fs::remove_file(path)?,
            _ => bail!("another guardian already listens on {}; one per node, or per pod, is enough", path.display()),
        }
    }
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&listener, &address).with_context(|| format!("cannot make the socket {}", path.display()))?;
    // Before listen, so that nobody can connect under another mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// One more, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
