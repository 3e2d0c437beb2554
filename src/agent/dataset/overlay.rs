//! Overlay filesystems that write to the dataset. Their options name directories by paths, which may be of another mount
//! namespace, or relative to a directory that nobody knows any more; so what the kernel says of the filesystem below comes first.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatVfs, StatxFlags, fstatvfs, statx};

use super::Dataset;
use super::exclusive::{Found, lies_on};
use crate::agent::procfs::mountinfo::Mount;
use crate::agent::procfs::view::Process;

/// Whether the layer that an overlay writes to lies on the dataset; with the path that its options say. `None`: it writes nothing.
pub fn layer(dataset: &Dataset, processes: &[Process], overlay: &Mount) -> Option<(PathBuf, Found)> {
    let upper = overlay.super_option("upperdir")?;
    // On the same filesystem. How a comma in a name is written differs from kernel to kernel, so the other name may help.
    let paths = [Some(upper.clone()), overlay.super_option("workdir")];
    let seen = processes.iter().filter(|process| process.mounts.iter().any(|mount| mount.id == overlay.id));
    let below = seen.filter_map(|process| size_of(&process.dir.join("root"), overlay)).next();
    let own = fstatvfs(&dataset.root).ok();
    let of_dataset = |mount: &Mount| mount.device == dataset.device && mount.has_project_quotas();
    let has_quotas = || processes.iter().flat_map(|process| process.mounts.iter()).any(of_dataset);
    let found = match (below, own) {
        // An overlay tells the size of the filesystem that it writes to as its own (ovl_statfs in fs/overlayfs/super.c); a quota
        // of the directory would be told in its place.
        (Some(below), Some(own)) if !same_size(&below, &own) && !has_quotas() => Found::Elsewhere,
        // And the id of that filesystem, unless it has made one for itself.
        (Some(below), Some(own)) if same_size(&below, &own) && below.f_fsid == own.f_fsid => Found::Here,
        // Another filesystem may have the same size.
        _ if upper.is_absolute() => {
            let here = |path: &PathBuf| lies_on(dataset, processes, path) == Found::Here;
            if paths.iter().flatten().any(here) { Found::Here } else { Found::Elsewhere }
        }
        _ => Found::Unknown,
    };
    Some((upper, found))
}

fn same_size(one: &StatVfs, other: &StatVfs) -> bool {
    (one.f_bsize, one.f_blocks) == (other.f_bsize, other.f_blocks)
}

/// What statfs(2) says of a mount below a root directory; `None` when it cannot be reached there, or another is mounted over it.
fn size_of(root: &Path, mount: &Mount) -> Option<StatVfs> {
    let point = mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let at: OwnedFd = rustix::fs::open(root.join(point), flags, Mode::empty()).ok()?;
    let reached = statx(&at, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (reached.stx_mnt_id == mount.id).then(|| fstatvfs(&at).ok()).flatten()
}
