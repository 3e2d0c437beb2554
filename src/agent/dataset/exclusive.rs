//! May this filesystem be frozen, and does it hold the dataset and nothing else? Freezing anything more (a node's root,
//! the kubelet's directory, the layer below a container) can stop the machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stillpoint_api::Reason;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Dataset, device};
use crate::agent::procfs::mountinfo::{self, Mount};
use crate::agent::procfs::view::View;
use crate::agent::procfs::{self, Device};
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::MAX_LOOP_DEVICES;
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

    let view = View::gather();
    let mut tables = view.mount_tables();
    match procfs::read(Path::new("/proc/thread-self/mountinfo")).ok().and_then(|table| mountinfo::parse(&table)) {
        Some(own) => tables.push(own.into()),
        None => blockers.push(blocker(Reason::Blind, "the agent cannot read the mounts of its own container")),
    }
    blockers.extend(view.blind);
    let node = node_mount(dataset.device, &tables);
    blockers.extend(node.map(|mount| node_owns(dataset, &mount)));

    let overlays = overlay_layers(&tables).map(|path| (path, "a directory that an overlay filesystem writes to"));
    let images = loop_images().unwrap_or_else(|error| {
        blockers
            .push(blocker(Reason::Blind, &format!("the agent cannot list the loop devices in /sys/block: {error}")));
        Vec::new()
    });
    let images = images.into_iter().map(|path| (path, "the image file of a loop device"));
    for (path, what) in overlays.chain(images) {
        let on_dataset = places(dataset.device, &tables, &path).into_iter().find(|below| exists(dataset, below));
        blockers.extend(on_dataset.map(|_| depends(dataset, &path, what)));
    }
    if blockers.is_empty() { Ok(()) } else { Err(blockers) }
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

/// A mount that shows that the node itself lives on this device.
fn node_mount(device: Device, tables: &[Arc<[Mount]>]) -> Option<Mount> {
    let of_node = |mount: &&Mount| {
        let at = &mount.mount_point;
        mount.device == device
            && (at == Path::new("/")
                || NODE_FILES.iter().any(|file| at == Path::new(file))
                || mount.root.to_string_lossy().contains(KUBELET_VOLUME))
    };
    tables.iter().flat_map(|table| table.iter()).find(of_node).cloned()
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

/// The directories that visible overlay mounts write to. A relative path (some runtimes shorten their options so) starts
/// at a directory that nobody knows any more; those are the layers of containers, which lie on the node.
fn overlay_layers(tables: &[Arc<[Mount]>]) -> impl Iterator<Item = PathBuf> {
    let overlays = tables.iter().flat_map(|table| table.iter()).filter(|mount| mount.filesystem == "overlay");
    let layers = overlays.flat_map(|mount| ["upperdir", "workdir"].map(|option| mount.super_option(option)));
    let mut layers: Vec<PathBuf> = layers.flatten().filter(|path| path.is_absolute()).collect();
    layers.sort();
    layers.dedup();
    layers.into_iter()
}

/// The image files behind the node's loop devices; none where the container has no sysfs.
fn loop_images() -> io::Result<Vec<PathBuf>> {
    let block_devices = match std::fs::read_dir("/sys/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        block_devices => block_devices?,
    };
    let mut images = Vec::new();
    for entry in block_devices {
        let image = match procfs::read(&entry?.path().join("loop/backing_file")) {
            // No loop device, or one that is free or was detached meanwhile.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NODEV)) => continue,
            image => image?,
        };
        if images.len() == MAX_LOOP_DEVICES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        images.push(PathBuf::from(String::from_utf8_lossy(&image).trim_end_matches('\n')));
    }
    Ok(images)
}

/// Where on the device a path lies, below the filesystem's root: one answer for each namespace in which it does. In which
/// of them the path was meant is unknown.
fn places(device: Device, tables: &[Arc<[Mount]>], path: &Path) -> Vec<PathBuf> {
    let covering = tables.iter().filter_map(|table| mountinfo::covering(table, path));
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
