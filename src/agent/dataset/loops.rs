//! Loop devices whose image file lies on the dataset.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, major, minor, open, statx};
use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl};

use super::Dataset;
use super::exclusive::{Found, lies_on};
use crate::agent::procfs::view::Process;
use crate::agent::procfs::{Device, read};
use stillpoint_core::limits::MAX_LOOP_DEVICES;

/// A loop device in use.
pub struct Loop {
    /// Its name, like `loop0`.
    name: String,
    /// Of its image, in the mount namespace that the image was opened in.
    pub image: PathBuf,
}

/// The node's loop devices that are in use; none where the container has no sysfs.
///
/// # Errors
/// They cannot be listed, or are too many.
pub fn in_use() -> io::Result<Vec<Loop>> {
    let block_devices = match std::fs::read_dir("/sys/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        block_devices => block_devices?,
    };
    let mut loops = Vec::new();
    for entry in block_devices {
        let entry = entry?;
        let image = match read(&entry.path().join("loop/backing_file")) {
            // No loop device, or one that is free or was detached meanwhile.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NODEV)) => continue,
            image => image?,
        };
        if loops.len() == MAX_LOOP_DEVICES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let image = PathBuf::from(String::from_utf8_lossy(&image).trim_end_matches('\n'));
        loops.push(Loop { name: entry.file_name().to_string_lossy().into_owned(), image });
    }
    Ok(loops)
}

impl Loop {
    /// Whether its image lies on the dataset.
    pub fn lies_on(&self, dataset: &Dataset, processes: &[Process]) -> Found {
        if let Some(known) = self.backing().and_then(|backing| by_device(dataset, backing)) {
            return known;
        }
        if !self.image.to_string_lossy().ends_with(" (deleted)") {
            return lies_on(dataset, processes, &self.image);
        }
        // Its name cannot be looked up. Who made an image in the pod has the device mounted there; the path of another one only
        // looks like one of the pod's.
        let device = Path::new("/dev").join(&self.name);
        let number = self.number();
        let mounted = |process: &Process| {
            process.mounts.iter().any(|mount| Some(mount.device) == number || mount.source == device)
        };
        if processes.iter().any(mounted) { lies_on(dataset, processes, &self.image) } else { Found::Elsewhere }
    }

    fn number(&self) -> Option<Device> {
        let text = read(&Path::new("/sys/block").join(&self.name).join("dev")).ok()?;
        Device::parse(std::str::from_utf8(&text).ok()?.trim_end(), 10)
    }

    /// The device that the image lies on, by stat(2). `None` where the container has no such device file, or may not open it.
    fn backing(&self) -> Option<Device> {
        let device: OwnedFd = open(
            Path::new("/dev").join(&self.name),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let stat = fstat(&device).ok()?;
        let number = Device { major: major(stat.st_rdev), minor: minor(stat.st_rdev) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice || Some(number) != self.number() {
            return None;
        }
        // SAFETY: LOOP_GET_STATUS64 writes a `struct loop_info64`, which has this size.
        let info = unsafe { ioctl(&device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }.ok()?;
        Some(Device { major: major(info.device), minor: minor(info.device) })
    }
}

/// `None` where stat(2) does not tell: each subvolume of a btrfs has a number of its own.
fn by_device(dataset: &Dataset, backing: Device) -> Option<Found> {
    let root = statx(&dataset.root, "", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
    let root = Device { major: root.stx_dev_major, minor: root.stx_dev_minor };
    match (root == backing, dataset.filesystem.as_str()) {
        (true, _) => Some(Found::Here),
        (false, "btrfs" | "bcachefs") => None,
        (false, _) => Some(Found::Elsewhere),
    }
}

/// `LOOP_GET_STATUS64` of `linux/loop.h`.
const LOOP_GET_STATUS64: u32 = 0x4C05;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    others: [u64; 28],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);
