//! A member's filesystem as the agent sees it: opened and pinned, and found fit to be frozen or not.

mod device;
mod exclusive;
mod fuse;
mod health;
mod kubelet;
mod loops;
mod operations;
mod overlay;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use stillpoint_api::Reason;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Reach;
use super::procfs::mountinfo::{self, Mount};
use super::procfs::{self, Device, fdinfo};
use stillpoint_core::blocker::blocker;
use stillpoint_core::wire::{Blocker, Prepare};

pub use exclusive::{can_be_frozen, exclusive};
pub use health::Health;
pub use operations::operations;

/// A member's filesystem, pinned: while `root` is open it cannot be unmounted, and can be frozen and thawed even after
/// the mount point is gone or hidden.
#[derive(Debug)]
pub struct Dataset {
    /// The directory at the mount point, opened read-only (which is enough for `FIFREEZE` and `FITHAW`).
    pub root: OwnedFd,
    /// The superblock's device, by mountinfo.
    pub device: Device,
    /// Type of the filesystem, like `xfs`.
    pub filesystem: String,
    /// Where the agent's container mounts the claim; of an agent of the node, where the kubelet does.
    pub mount_path: PathBuf,
    /// What of the filesystem is mounted there; `/` is all of it.
    pub mount_root: PathBuf,
}

/// Opens the dataset that an order is about: where the kubelet has mounted it, or where the agent's own container does.
///
/// # Errors
/// Why it cannot be opened.
#[expect(clippy::result_large_err, reason = "made once per attempt; a box would only be in the way")]
pub fn find(order: &Prepare) -> Result<Dataset, Blocker> {
    match &order.kubelet_volume {
        Some(volume) => kubelet::open(volume),
        None => open(Path::new(&order.mount_path)),
    }
}

/// Opens again what an agent of this reach had opened at this path.
///
/// # Errors
/// A sentence.
pub fn find_again(reach: Reach, mount_path: &Path) -> Result<Dataset, String> {
    match reach {
        Reach::Pod => open(mount_path).map_err(|why| why.message),
        Reach::Node => kubelet::open_again(mount_path).map_err(|error| error.to_string()),
    }
}

/// The datasets of whole filesystems that can be frozen and that an agent of this reach may meet, each once.
pub fn candidates(reach: Reach) -> Vec<Dataset> {
    let is_one = |mount: &Mount| mount.root == Path::new("/") && can_be_frozen(&mount.filesystem);
    match reach {
        Reach::Pod => mounted(is_one),
        Reach::Node => kubelet::all(is_one).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the mounts of the node");
            Vec::new()
        }),
    }
}

/// What is mounted in the agent's own container.
fn mounted(is_wanted: impl Fn(&Mount) -> bool) -> Vec<Dataset> {
    let table = procfs::read(Path::new("/proc/thread-self/mountinfo")).ok();
    let Some(mut mounts) = table.and_then(|table| mountinfo::parse(&table)) else { return Vec::new() };
    mounts.retain(is_wanted);
    mounts.sort_by_key(|mount| mount.device);
    mounts.dedup_by_key(|mount| mount.device);
    mounts.iter().filter_map(|mount| open(&mount.mount_point).ok()).collect()
}

/// Opens the mount point of a claim and finds out what is mounted there. Works on a frozen filesystem too.
///
/// # Errors
/// A `NotMounted` blocker: nothing is mounted exactly there, it is no directory, or the agent may not open it.
#[expect(clippy::result_large_err, reason = "made once per attempt; a box would only be in the way")]
pub fn open(mount_path: &Path) -> Result<Dataset, Blocker> {
    let root = rustix::fs::open(mount_path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| cannot_open(mount_path, errno))?;
    let unreadable = |error| {
        blocker(Reason::NotMounted, &format!("the agent cannot find out what is mounted at {mount_path:?}: {error}"))
    };
    let mount = mount_of(&root).map_err(unreadable)?;
    let opened = std::fs::read_link(format!("/proc/thread-self/fd/{}", root.as_raw_fd())).map_err(unreadable)?;
    if opened != mount.mount_point {
        let message = format!(
            "{mount_path:?} is a directory of the filesystem mounted at {:?}, not a mount of its own: mount the claim into \
             the agent's container at {mount_path:?}",
            mount.mount_point
        );
        return Err(blocker(Reason::NotMounted, &message));
    }
    let Mount { device, root: mount_root, filesystem, .. } = mount;
    Ok(Dataset { root, device, filesystem, mount_path: mount_path.to_owned(), mount_root })
}

/// The mount through which a descriptor was opened. By its id, because paths can be mounted over.
pub(super) fn mount_of(descriptor: impl AsFd) -> std::io::Result<Mount> {
    let id = id_of(descriptor)?;
    let table = procfs::read(Path::new("/proc/thread-self/mountinfo"))?;
    let mounts = mountinfo::parse(&table).ok_or_else(not_understood)?;
    mounts.into_iter().find(|mount| mount.id == id).ok_or_else(|| std::io::Error::other("it is not mounted any more"))
}

/// The id of the mount through which a descriptor was opened.
fn id_of(descriptor: impl AsFd) -> std::io::Result<u64> {
    // Mounts belong to the calling thread, so /proc/thread-self is right wherever /proc/self may not be.
    let info = procfs::read(Path::new(&format!("/proc/thread-self/fdinfo/{}", descriptor.as_fd().as_raw_fd())))?;
    fdinfo::parse(&String::from_utf8_lossy(&info)).and_then(|info| info.mount_id).ok_or_else(not_understood)
}

fn not_understood() -> std::io::Error {
    std::io::Error::other("/proc is not understood")
}

fn cannot_open(path: &Path, errno: Errno) -> Blocker {
    let what_to_do = match errno {
        Errno::NOENT => "mount the claim into the agent's container at this path",
        Errno::NOTDIR => "it is no directory; mount the claim there as a filesystem, not as a block device",
        Errno::ACCESS => {
            "its mode keeps the agent out; add the capability DAC_READ_SEARCH to the agent's container, as the examples do"
        }
        _ => "see the node's kernel log",
    };
    blocker(Reason::NotMounted, &format!("the agent cannot open {path:?}: {errno}; {what_to_do}"))
}
