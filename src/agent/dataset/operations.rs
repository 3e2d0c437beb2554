//! Operations on the whole filesystem: a freeze waits for their end, and nobody takes it back. Only btrfs shows them.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::Dataset;
use crate::agent::procfs::{each_number, read};
use stillpoint_api::Reason;
use stillpoint_core::blocker::blocker;
use stillpoint_core::wire::Blocker;

/// Both `btrfs_ioctl_fs_info_args` and `btrfs_ioctl_scrub_args` of `linux/btrfs.h` are padded to a kibibyte.
type Arguments = [u64; 128];

const FS_INFO: Opcode = opcode::read::<Arguments>(0x94, 31);
const SCRUB_PROGRESS: Opcode = opcode::read_write::<Arguments>(0x94, 29);
/// Where `fsid` begins in `btrfs_ioctl_fs_info_args`, in words.
const FSID: usize = 2;

/// The operations that are under way, each named; or that it cannot be told. Does not wait for the filesystem.
pub fn operations(dataset: &Dataset) -> Vec<Blocker> {
    if dataset.filesystem != "btrfs" {
        return Vec::new();
    }
    let found = exclusive(&dataset.root).and_then(|exclusive| Ok((exclusive, scrubs(&dataset.root)?)));
    match found {
        Ok((exclusive, scrubs)) => {
            let scrubs = scrubs.into_iter().map(|device| format!("scrub of device {device}"));
            exclusive.into_iter().chain(scrubs).map(|what| under_way(dataset, &what)).collect()
        }
        Err(error) => vec![blocker(
            Reason::Blind,
            &format!(
                "the agent cannot tell whether a scrub, a balance or a resize of {:?} is under way, which suspending writes \
                 would wait for: {error}. btrfs shows them since Linux 5.10, in /sys/fs/btrfs",
                dataset.mount_path
            ),
        )],
    }
}

/// The operation that excludes others of its kind: a balance, a resize, a device that is added, removed or replaced. One that is
/// paused does nothing.
fn exclusive(root: &OwnedFd) -> io::Result<Option<String>> {
    let operation = read(&sysfs(root)?.join("exclusive_operation"))?;
    let operation = String::from_utf8_lossy(&operation).trim().to_owned();
    let idle = operation == "none" || operation.ends_with(" paused");
    Ok((!idle).then_some(operation))
}

/// The devices that are scrubbed, which no file in `/sys` tells.
fn scrubs(root: &OwnedFd) -> io::Result<Vec<i32>> {
    let mut scrubbed = Vec::new();
    each_number(&sysfs(root)?.join("devinfo"), |device| {
        let mut arguments: Arguments = [0; 128];
        arguments[0] = device.unsigned_abs().into();
        // SAFETY: the structure has this size, and the kernel reads and writes no other memory.
        match unsafe { ioctl(root, Updater::<SCRUB_PROGRESS, Arguments>::new(&mut arguments)) } {
            Ok(()) => scrubbed.push(device),
            // None is under way, or the device was removed meanwhile.
            Err(Errno::NOTCONN | Errno::NODEV) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    })?;
    Ok(scrubbed)
}

/// The directory of a btrfs filesystem in `/sys`.
///
/// # Errors
/// The kernel's.
pub(super) fn sysfs(root: &OwnedFd) -> io::Result<PathBuf> {
    let mut arguments: Arguments = [0; 128];
    // SAFETY: as above.
    unsafe { ioctl(root, Updater::<FS_INFO, Arguments>::new(&mut arguments)) }?;
    let bytes: Vec<u8> = arguments[FSID..FSID + 2].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let uuid: String = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if matches!(at, 4 | 6 | 8 | 10) { format!("-{byte:02x}") } else { format!("{byte:02x}") })
        .collect();
    Ok(Path::new("/sys/fs/btrfs").join(uuid))
}

fn under_way(dataset: &Dataset, what: &str) -> Blocker {
    let message = format!(
        "a {what} is under way on the btrfs filesystem of {:?}, and suspending writes would wait for its end while everybody \
         waits; let it end, or cancel or pause it (see `btrfs {} --help` on the node)",
        dataset.mount_path,
        what.split(' ').next().unwrap_or_default()
    );
    blocker(Reason::FilesystemBusy, &message)
}
