//! May this filesystem be frozen, and does it hold the dataset and nothing else? Freezing anything more (a node's root,
//! the kubelet's directory, the layer below a container) can stop the machine.

use std::io;
use std::path::{Path, PathBuf};
use stillpoint_api::Reason;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Dataset, device, fuse, loops, overlay};
use crate::agent::procfs::Device;
use crate::agent::procfs::mountinfo::{self, Mount};
use crate::agent::procfs::view::{Process, View, mounts};
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::MAX_WORD_CHARS;
use stillpoint_core::text::printable;
use stillpoint_core::wire::Blocker;

/// Filesystems with a `freeze_fs` operation that freeze one superblock of one machine. Others answer `EOPNOTSUPP`, or
/// (gfs2) freeze a whole cluster.
const FREEZABLE: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "bcachefs"];

/// Files that the kubelet and the container runtime mount into containers, from the filesystems they themselves live on.
const NODE_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

/// Part of the path of every volume that the kubelet keeps in its own directory, like a ConfigMap.
const KUBELET_VOLUME: &str = "kubernetes.io~";

/// Checks that the agent may freeze the dataset and that nothing else lives on its filesystem, as far as can be seen
/// from the pod. Other mounts of parts of it (a subPath of the same claim) are fine: they are the same volume.
///
/// Reads the mounts of all visible processes and `/sys/block`, and looks up names on the dataset, which does not wait
/// while it is suspended.
///
/// # Errors
/// All that was found: `MissingCapability`, `Blind`, `CannotFreeze`, `NotExclusive`.
pub fn exclusive(dataset: &Dataset) -> Result<(), Vec<Blocker>> {
    let mut blockers = capable();
    blockers.extend(freezable(dataset));
    blockers.extend(whole(dataset));
    blockers.extend(device::undisturbed(dataset));

    let view = View::gather(|_| true);
    let mut processes = view.processes;
    match own_mounts() {
        Ok(mounts) => {
            blockers.extend(node_mount(dataset.device, &processes, &mounts).map(|mount| node_owns(dataset, mount)));
            let (pid, dir) = (std::process::id().cast_signed(), "/proc/thread-self".into());
            processes.push(Process { pid, thread: pid, dir, mounts: mounts.into() });
        }
        Err(error) => {
            let message = format!("the agent cannot read the mounts of its own container: {error}");
            blockers.push(blocker(Reason::Blind, &message));
        }
    }
    blockers.extend(view.blind);
    blockers.extend(dependents(dataset, &processes));
    if blockers.is_empty() { Ok(()) } else { Err(blockers) }
}

fn own_mounts() -> io::Result<Vec<Mount>> {
    mounts(std::fs::File::open("/proc/thread-self/mountinfo")?, &mut Vec::new(), |_| true)
}

/// Whether something lies on the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It does.
    Here,
    /// It does not.
    Elsewhere,
    /// That cannot be told from here.
    Unknown,
}

/// Filesystems that write to the dataset, and so would stop with it.
fn dependents(dataset: &Dataset, processes: &[Process]) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut overlays: Vec<&Mount> = tables(processes).flatten().filter(|mount| mount.filesystem == "overlay").collect();
    overlays.sort_by_key(|mount| mount.device);
    overlays.dedup_by_key(|mount| mount.device);
    for overlay in overlays {
        match overlay::layer(dataset, processes, overlay) {
            Some((upper, Found::Here)) => {
                blockers.push(depends(dataset, &upper, "a directory that an overlay filesystem writes to"));
            }
            Some((upper, Found::Unknown)) => blockers.push(overlay_unknown(dataset, overlay, &upper)),
            Some((_, Found::Elsewhere)) | None => {}
        }
    }
    match loops::in_use() {
        Ok(loops) => {
            let found = loops.iter().find(|one| one.lies_on(dataset, processes) != Found::Elsewhere);
            blockers.extend(found.map(|one| depends(dataset, &one.image, "the image file of a loop device")));
        }
        Err(error) => {
            let message = format!("the agent cannot list the loop devices in /sys/block: {error}");
            blockers.push(blocker(Reason::Blind, &message));
        }
    }
    blockers.extend(fuse::servers(processes, dataset.device).first().map(|process| may_serve(dataset, process)));
    blockers
}

/// The tables of mounts of processes, each once.
fn tables(processes: &[Process]) -> impl Iterator<Item = &[Mount]> {
    let mut seen: Vec<*const Mount> = Vec::new();
    processes.iter().map(|process| &*process.mounts).filter(move |table| {
        let is_new = !seen.contains(&table.as_ptr());
        if is_new {
            seen.push(table.as_ptr());
        }
        is_new
    })
}

/// The capabilities that the agent needs, in the effective set of the calling thread.
fn capable() -> Vec<Blocker> {
    let effective = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(errno) => {
            return vec![blocker(Reason::Blind, &format!("the agent cannot read its own capabilities: {errno}"))];
        }
    };
    let mut missing = Vec::new();
    if !effective.contains(CapabilitySet::SYS_ADMIN) {
        let message = "the agent's container lacks the capability SYS_ADMIN, without which the kernel lets nobody freeze a \
                       filesystem: add it to securityContext.capabilities";
        missing.push(blocker(Reason::MissingCapability, message));
    } else if !in_initial_user_namespace() {
        let message = "the pod runs in a user namespace, where SYS_ADMIN does not suffice to freeze a filesystem: set \
                       hostUsers to true";
        missing.push(blocker(Reason::MissingCapability, message));
    }
    if !effective.contains(CapabilitySet::SYS_PTRACE) {
        let message = "the agent's container lacks the capability SYS_PTRACE, without which the locks of other users' \
                       processes are hidden: add it to securityContext.capabilities";
        missing.push(blocker(Reason::Blind, message));
    }
    missing
}

/// The initial user namespace maps every id to itself (user_namespaces(7)). A kernel without user namespaces has no such
/// file.
fn in_initial_user_namespace() -> bool {
    match std::fs::read_to_string("/proc/thread-self/uid_map") {
        Ok(map) => map.split_ascii_whitespace().eq(["0", "0", "4294967295"]),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the kernel can freeze filesystems of this type, one superblock of one machine at a time.
pub fn can_be_frozen(filesystem: &str) -> bool {
    FREEZABLE.contains(&filesystem)
}

fn freezable(dataset: &Dataset) -> Option<Blocker> {
    if can_be_frozen(&dataset.filesystem) {
        return None;
    }
    let message = format!(
        "{:?} is on {}, which the kernel cannot freeze: use a claim with a filesystem of its own on a block device ({})",
        dataset.mount_path,
        dataset.filesystem,
        FREEZABLE.join(", ")
    );
    Some(blocker(Reason::CannotFreeze, &message))
}

fn whole(dataset: &Dataset) -> Option<Blocker> {
    if dataset.mount_root == Path::new("/") {
        return None;
    }
    let message = format!(
        "{:?} is only the directory {:?} of its filesystem, and freezing would stop whoever uses the rest: mount the claim \
         into the agent's container without subPath, and use a storage class whose volumes are not directories of a \
         shared filesystem",
        dataset.mount_path, dataset.mount_root
    );
    Some(blocker(Reason::NotExclusive, &message))
}

/// A mount that shows that the node itself lives on this device. The files that the kubelet and the runtime make are those of the
/// agent's own container: in another one, a file of the claim may be mounted in their place.
fn node_mount<'a>(device: Device, processes: &'a [Process], own: &'a [Mount]) -> Option<&'a Mount> {
    let is_root =
        |mount: &&Mount| mount.mount_point == Path::new("/") || mount.root.to_string_lossy().contains(KUBELET_VOLUME);
    let is_file = |mount: &&Mount| NODE_FILES.iter().any(|file| mount.mount_point == Path::new(file));
    let all = tables(processes).flatten().chain(own).filter(is_root);
    all.chain(own.iter().filter(is_file)).find(|mount| mount.device == device)
}

fn node_owns(dataset: &Dataset, mount: &Mount) -> Blocker {
    let message = format!(
        "the filesystem of {:?} is also mounted at {:?} in a container of the pod, so it belongs to the node, and freezing it \
         would stop the node: use a claim with a filesystem of its own",
        dataset.mount_path, mount.mount_point
    );
    blocker(Reason::NotExclusive, &message)
}

fn depends(dataset: &Dataset, path: &Path, what: &str) -> Blocker {
    let message = format!(
        "{path:?}, {what}, lies on the filesystem of {:?}, and freezing would stop its users too: move it to another volume",
        dataset.mount_path
    );
    blocker(Reason::NotExclusive, &message)
}

fn overlay_unknown(dataset: &Dataset, overlay: &Mount, upper: &Path) -> Blocker {
    let message = format!(
        "the overlay filesystem mounted at {:?} writes to {upper:?}, a relative path, and its filesystem has the size of that of \
         {:?}: it may be the same one, and freezing would stop its users too; mount it with absolute paths, or not in this pod",
        overlay.mount_point, dataset.mount_path
    );
    blocker(Reason::NotExclusive, &message)
}

fn may_serve(dataset: &Dataset, process: &Process) -> Blocker {
    let message = format!(
        "process {} ({}) serves a FUSE filesystem and sees that of {:?}: if it keeps its files there, freezing would stop its users \
         too; do not mount the claim into its container",
        process.pid,
        printable(&process.name(), MAX_WORD_CHARS),
        dataset.mount_path
    );
    Blocker { pid: process.pid, ..blocker(Reason::NotExclusive, &message) }
}

/// Whether a path of the mount namespace of one of the processes lies on the dataset. In which of them it was meant is unknown, so
/// the name is looked up there too.
pub fn lies_on(dataset: &Dataset, processes: &[Process], path: &Path) -> Found {
    let found = places(dataset.device, processes, path).into_iter().any(|below| exists(dataset, &below));
    if found { Found::Here } else { Found::Elsewhere }
}

/// Where on the device a path lies, below the filesystem's root: one answer for each namespace in which it does. In which
/// of them the path was meant is unknown.
fn places(device: Device, processes: &[Process], path: &Path) -> Vec<PathBuf> {
    let covering = tables(processes).filter_map(|table| mountinfo::covering(table, path));
    covering.filter(|mount| mount.device == device).filter_map(|mount| mount.below_root(path)).collect()
}

/// Whether there is such a file on the dataset. A path of the node may look like one on the dataset (`/data/…`), so the
/// name is looked up; if that fails for another reason than that it is missing, it counts as found. An image file that
/// was deleted while in use cannot be looked up, so it counts too.
fn exists(dataset: &Dataset, below: &Path) -> bool {
    let below = Path::new(".").join(below);
    let deleted = below.to_string_lossy().ends_with(" (deleted)");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let missing = [Errno::NOENT, Errno::NOTDIR];
    let found = rustix::fs::openat2(&dataset.root, &below, flags, Mode::empty(), resolve);
    deleted || !found.is_err_and(|errno| missing.contains(&errno))
}
