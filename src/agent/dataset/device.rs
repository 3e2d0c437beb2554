//! Devices that their drivers suspend for their own snapshots. Such a suspension freezes the filesystem as well, inside ours: the
//! kernel counts both, the thaw that ends ours is answered as if nothing had been frozen, and the device may stay frozen when
//! nobody holds it any more, so that nothing can mount it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Dataset, can_be_frozen, operations};
use crate::agent::procfs::{Device, read};
use stillpoint_api::Reason;
use stillpoint_core::blocker::blocker;
use stillpoint_core::devices::{Driver, driver};
use stillpoint_core::limits::MAX_FILESYSTEM_DEVICES;
use stillpoint_core::wire::Blocker;

/// Checks that no device of the dataset is one that its driver suspends.
///
/// # Errors
/// `CannotFreeze`, with the device; `Blind`, when it cannot be told.
pub fn undisturbed(dataset: &Dataset) -> Option<Blocker> {
    if !can_be_frozen(&dataset.filesystem) {
        return None;
    }
    let found = devices(dataset).and_then(|devices| {
        let suspended = devices.iter().map(|sysfs| Ok((sysfs, driver_of(sysfs)?))).collect::<io::Result<Vec<_>>>()?;
        Ok(suspended.into_iter().find_map(|(sysfs, driver)| Some((name(sysfs), driver?))))
    });
    match found {
        Ok(None) => None,
        Ok(Some((device, driver))) => Some(suspends(dataset, &device, driver)),
        Err(error) => Some(blocker(
            Reason::Blind,
            &format!(
                "the agent cannot tell on which block device {:?} lies: {error}; it may be one that its driver suspends for \
                 itself. Mount /sys into the agent's container, as every runtime does",
                dataset.mount_path
            ),
        )),
    }
}

/// The directories in `/sys` of the block devices that the filesystem lies on.
fn devices(dataset: &Dataset) -> io::Result<Vec<PathBuf>> {
    if dataset.filesystem != "btrfs" {
        return Ok(vec![of_device(dataset.device)]);
    }
    // It may have several, and the superblock's own number is none of them.
    let entries = std::fs::read_dir(operations::sysfs(&dataset.root)?.join("devices"))?;
    let devices: Vec<_> =
        entries.take(MAX_FILESYSTEM_DEVICES + 1).map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    if devices.len() > MAX_FILESYSTEM_DEVICES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(devices) }
}

/// The directory of a block device in `/sys`.
pub(super) fn of_device(device: Device) -> PathBuf {
    Path::new("/sys/dev/block").join(device.to_string())
}

fn driver_of(sysfs: &Path) -> io::Result<Option<Driver>> {
    let text = |file: &str| Ok::<_, io::Error>(String::from_utf8_lossy(&read(&sysfs.join(file))?).trim().to_owned());
    let number = text("dev")?;
    let mapped = match text("dm/uuid") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        uuid => Some(uuid?),
    };
    Ok(driver(&number, mapped.as_deref()))
}

fn name(sysfs: &Path) -> String {
    let target = std::fs::canonicalize(sysfs).unwrap_or_else(|_| sysfs.to_owned());
    target.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn suspends(dataset: &Dataset, device: &str, driver: Driver) -> Blocker {
    let message = format!(
        "{:?} lies on {device}, {}: its driver suspends it for a snapshot, which together with our freeze of the filesystem can \
         leave the device frozen after the cut, so that nothing can mount it any more. This volume cannot be a member yet; use one \
         whose snapshots are made behind the device: of a cloud or an array, Ceph RBD, or a loop image",
        dataset.mount_path,
        match driver {
            Driver::DeviceMapper => "a device of the device mapper (like LVM)",
            Driver::Drbd => "a device of DRBD (like LINSTOR's)",
        }
    );
    blocker(Reason::CannotFreeze, &message)
}
