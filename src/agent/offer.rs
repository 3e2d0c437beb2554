//! What a starting agent does for the guardian: it shows it every filesystem that may have been left frozen.
//!
//! A guardian that was killed together with a whole pod knows by its [ledger](crate::guardian::ledger) that it owes a thaw, and
//! has no descriptor to do it with. The next pod that mounts the volume on this node has one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::dataset;
use super::procfs::{self, mountinfo};
use crate::guardian::client;
use stillpoint_core::limits::{MAX_GUARDED, OFFER_RETRY, OFFER_TIMEOUT};

/// Stack of the thread: it opens and sends, and logs.
const STACK: usize = 256 * 1024;

/// Shows the guardian every filesystem of its own that the agent mounts, on a thread that may hang with the storage.
pub fn begin(guardian: PathBuf) {
    let started =
        std::thread::Builder::new().name("offer".to_owned()).stack_size(STACK).spawn(move || offer(&guardian));
    if let Err(error) = started {
        tracing::error!(%error, "cannot start the thread that shows the guardian what it may owe");
    }
}

fn offer(guardian: &Path) {
    let begun = Instant::now();
    for (mount, root) in mounted() {
        loop {
            let label = format!("{} of an agent that starts", mount.display());
            let Ok(own) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
            match client::show(guardian, &label, &root, &own) {
                Ok(()) => break,
                // The guardian may be starting too.
                Err(_) if begun.elapsed() < OFFER_TIMEOUT => std::thread::sleep(OFFER_RETRY),
                Err(why) => {
                    return tracing::warn!(why, "no guardian has seen what it may owe for the volumes of this pod");
                }
            }
        }
    }
}

/// The whole filesystems that can be frozen, each once.
fn mounted() -> Vec<(PathBuf, OwnedFd)> {
    let table = procfs::read(Path::new("/proc/thread-self/mountinfo")).ok();
    let Some(mut mounts) = table.and_then(|table| mountinfo::parse(&table)) else { return Vec::new() };
    mounts.retain(|mount| mount.root == Path::new("/") && dataset::can_be_frozen(&mount.filesystem));
    mounts.sort_by_key(|mount| mount.device);
    mounts.dedup_by_key(|mount| mount.device);
    let open =
        |mount: mountinfo::Mount| Some((mount.mount_point.clone(), dataset::open(&mount.mount_point).ok()?.root));
    mounts.into_iter().take(MAX_GUARDED).filter_map(open).collect()
}
