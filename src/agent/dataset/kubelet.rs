//! Volumes in the kubelet's directory, as an agent of the node finds them: `<root>/pods/<pod>/volumes/<plugin>/<volume>`, and for
//! CSI `/mount` below that (`GetPodVolumeDir` of kubernetes/pkg/kubelet/kubelet_getters.go). The kubelet mounts them itself, in a mount
//! namespace of the node, where no pod can put anything else in their place.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::{Dataset, id_of};
use crate::agent::procfs::cgroup::container_ids;
use crate::agent::procfs::mountinfo::Mount;
use crate::agent::procfs::view::mounts;
use crate::agent::procfs::{each_number, read};
use stillpoint_api::Reason;
use stillpoint_core::blocker::blocker;
use stillpoint_core::wire::{Blocker, KubeletVolume};

/// The first process of the node, which is in its mount namespace.
const INIT: i32 = 1;

/// A mount, and a process that sees it at its mount point.
#[derive(Debug)]
struct Seen {
    pid: i32,
    mount: Mount,
}

/// Opens a volume where the kubelet has mounted it for one of the pods, and finds out what is mounted there. Works on a frozen
/// filesystem too.
///
/// # Errors
/// A `NotMounted` blocker: the kubelet has not mounted it for each of the pods, or it cannot be opened; `NotExclusive`: it is not the
/// same filesystem for all of them.
#[expect(clippy::result_large_err, reason = "made once per attempt; a box would only be in the way")]
pub fn open(volume: &KubeletVolume) -> Result<Dataset, Blocker> {
    let unreadable = |error| blocker(Reason::NotMounted, &format!("the agent cannot read the node's mounts: {error}"));
    let found = find(|mount| volume.pod_uids.iter().any(|pod| is_of(&mount.mount_point, pod, &volume.name)));
    let found = found.map_err(unreadable)?;
    let mounted = |pod: &&String| found.iter().any(|seen| is_of(&seen.mount.mount_point, pod, &volume.name));
    if let Some(missing) = volume.pod_uids.iter().find(|pod| !mounted(pod)) {
        return Err(blocker(Reason::NotMounted, &not_there(&volume.name, missing)));
    }
    let Some((first, others)) = found.split_first() else {
        return Err(blocker(Reason::NotMounted, "the controller names no pod that mounts the volume"));
    };
    if let Some(other) = others.iter().find(|other| other.mount.device != first.mount.device) {
        let message = format!(
            "volume {} is another filesystem at {:?} than at {:?}, and freezing one says nothing of the other",
            volume.name, other.mount.mount_point, first.mount.mount_point
        );
        return Err(blocker(Reason::NotExclusive, &message));
    }
    pin(first).map_err(|error| cannot_open(&first.mount.mount_point, &error))
}

/// Opens what is mounted at this path of the node, if anything of the kubelet's is.
///
/// # Errors
/// When nothing is, or it cannot be opened.
pub fn open_again(mount_point: &Path) -> io::Result<Dataset> {
    let found = find(|mount| mount.mount_point == mount_point)?;
    pin(found.first().ok_or(io::ErrorKind::NotFound)?)
}

/// Every volume that the kubelet of this node has mounted and that this is `wanted` of, each filesystem once.
///
/// # Errors
/// When the mounts of the node cannot be read.
pub fn all(wanted: impl Fn(&Mount) -> bool) -> io::Result<Vec<Dataset>> {
    let mut found = find(|mount| is_volume(&mount.mount_point) && wanted(mount))?;
    found.sort_by_key(|seen| seen.mount.device);
    found.dedup_by_key(|seen| seen.mount.device);
    // One that was unmounted meanwhile is nobody's any more.
    Ok(found.iter().filter_map(|seen| pin(seen).ok()).collect())
}

/// The mounts of the node that this is `wanted` of. The kubelet may have a mount namespace of its own, so those of all processes
/// that are in no container are looked at, where the first process sees none.
fn find(wanted: impl Fn(&Mount) -> bool) -> io::Result<Vec<Seen>> {
    let found = seen_by(INIT, &wanted)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let own: HashSet<String> = containers_of(INIT).into_iter().collect();
    let mut known = HashSet::from([namespace_of(INIT)]);
    let mut found = Vec::new();
    each_number(Path::new("/proc"), |pid| {
        // One that ended meanwhile, or is a thread of the kernel, has none.
        if found.is_empty() && containers_of(pid).iter().all(|id| own.contains(id)) && known.insert(namespace_of(pid)) {
            found = seen_by(pid, &wanted).unwrap_or_default();
        }
        Ok(())
    })?;
    Ok(found)
}

fn seen_by(pid: i32, wanted: &impl Fn(&Mount) -> bool) -> io::Result<Vec<Seen>> {
    let table = File::open(format!("/proc/{pid}/mountinfo"))?;
    let mut mounts = mounts(table, &mut Vec::new(), wanted)?;
    // Of several at one place the last covers the others.
    mounts.reverse();
    let mut places = HashSet::new();
    mounts.retain(|mount| places.insert(mount.mount_point.clone()));
    Ok(mounts.into_iter().map(|mount| Seen { pid, mount }).collect())
}

fn namespace_of(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn containers_of(pid: i32) -> Vec<String> {
    let cgroup = read(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
    container_ids(&String::from_utf8_lossy(&cgroup)).into_iter().map(str::to_owned).collect()
}

/// Opens a mount through a process that sees it, and makes sure that it is that one.
fn pin(seen: &Seen) -> io::Result<Dataset> {
    let root = rustix::fs::open(
        format!("/proc/{}/root", seen.pid),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(root, &seen.mount.mount_point, flags, Mode::empty(), resolve)?;
    if id_of(&opened)? != seen.mount.id {
        return Err(io::Error::other("something else is mounted there now"));
    }
    let Mount { device, root: mount_root, filesystem, mount_point, .. } = seen.mount.clone();
    Ok(Dataset { root: opened, device, filesystem, mount_path: mount_point, mount_root })
}

/// Whether the kubelet keeps this volume there for the pod of this UID.
fn is_of(mount_point: &Path, pod: &str, volume: &str) -> bool {
    parts(mount_point).is_some_and(|found| found == (OsStr::new(pod), OsStr::new(volume)))
}

fn is_volume(mount_point: &Path) -> bool {
    parts(mount_point).is_some()
}

/// The UID of the pod and the name of the volume, in a path of the kubelet's.
fn parts(mount_point: &Path) -> Option<(&OsStr, &OsStr)> {
    let mut components: Vec<&OsStr> = mount_point.iter().collect();
    components.pop_if(|last| *last == "mount");
    match components.as_slice() {
        [.., pods, pod, volumes, _plugin, volume] if *pods == "pods" && *volumes == "volumes" => Some((pod, volume)),
        _ => None,
    }
}

fn not_there(volume: &str, pod: &str) -> String {
    format!(
        "the agent does not find where the kubelet has mounted volume {volume} for the pod with UID {pod}: a volume that is a path \
         of the node (hostPath) is mounted nowhere; for others see that the agent's pod has hostPID: true"
    )
}

fn cannot_open(mount_point: &Path, error: &io::Error) -> Blocker {
    blocker(
        Reason::NotMounted,
        &format!(
            "the agent cannot open {mount_point:?} of the node: {error}; its container needs SYS_PTRACE and DAC_READ_SEARCH"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_known_by_the_kubelets_path() {
        let csi = Path::new("/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-7/mount");
        let local = Path::new("/data/kubelet/pods/uid-1/volumes/kubernetes.io~local-volume/pvc-7");
        for path in [csi, local] {
            assert!(is_of(path, "uid-1", "pvc-7") && is_volume(path));
            assert!(!is_of(path, "uid-2", "pvc-7") && !is_of(path, "uid-1", "pvc-8"));
        }
        for path in [
            "/var/lib/kubelet/plugins/kubernetes.io/csi/driver/hash/globalmount",
            "/var/lib/kubelet/pods/uid-1/volume-subpaths/pvc-7/db/0",
            "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-7/mount/mount/below",
            "/",
            "",
        ] {
            assert!(!is_volume(Path::new(path)), "{path}");
        }
    }
}
