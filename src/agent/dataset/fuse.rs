//! Processes that serve a FUSE filesystem from the dataset, or may: whoever uses that would wait for the thaw too.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};

use crate::agent::locks::{info_of, infos_of};
use crate::agent::procfs::fdinfo::FdInfo;
use crate::agent::procfs::view::Process;
use crate::agent::procfs::{Device, each_number};

/// The processes that serve a FUSE filesystem and see the device. What of it they serve from is theirs to know.
pub fn servers(processes: &[Process], device: Device) -> Vec<&Process> {
    let is_fuse =
        |process: &Process| process.mounts.iter().any(|mount| ["fuse", "fuseblk"].contains(&mount.filesystem.as_str()));
    if !processes.iter().any(is_fuse) {
        return Vec::new();
    }
    let sees = |process: &&Process| process.mounts_device(device);
    processes.iter().filter(sees).filter(|process| serves(process)).collect()
}

/// Whether a process has a connection to FUSE open. A process that cannot be looked into is one that the look for locks is blind
/// to.
fn serves(process: &Process) -> bool {
    let Ok(infos) = infos_of(process) else { return false };
    let device = device_of(&process.dir);
    let (mut found, mut buffer) = (false, Vec::new());
    let _ = each_number(&process.dir.join("fdinfo"), |number| {
        found |= info_of(&infos, number, &mut buffer).is_ok_and(|info| is_connection(&info, device));
        Ok(())
    });
    found
}

/// The mount and inode of /dev/fuse as a process sees it.
fn device_of(process: &Path) -> Option<(u64, u64)> {
    let device: OwnedFd = open(process.join("root/dev/fuse"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = statx(&device, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | StatxFlags::INO).ok()?;
    Some((stat.stx_mnt_id, stat.stx_ino))
}

/// Newer kernels tell of a connection; with others it is known by the device file.
fn is_connection(info: &FdInfo, device: Option<(u64, u64)>) -> bool {
    info.serves_fuse || (device.is_some() && info.mount_id.zip(info.inode) == device)
}
