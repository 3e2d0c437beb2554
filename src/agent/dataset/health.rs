//! Whether a filesystem failed while it was suspended: it is then as dead in the cut as on the node.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use super::device::of_device;
use super::mount_of;
use crate::agent::procfs::{mountinfo::Mount, read};

/// How a filesystem says that it is, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// It takes no writes: it is mounted so, or made itself so after an error.
    read_only: bool,
    /// It was shut down, or does not let its root be opened.
    shut_down: bool,
    /// How many errors it has counted, where it counts them.
    errors: u64,
}

impl Health {
    /// Reads what it says of itself; waits for no write.
    ///
    /// # Errors
    /// The kernel's, of reading `/proc`.
    pub fn of(root: BorrowedFd<'_>) -> io::Result<Self> {
        let mount = mount_of(root)?;
        let opened = openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let says = |option| mount.has_super_option(option);
        Ok(Self {
            read_only: says("ro") || says("emergency_ro"),
            shut_down: says("shutdown") || opened.is_err(),
            errors: counted(&mount).unwrap_or_default(),
        })
    }

    /// Whether it failed since then.
    pub fn failed_since(self, then: Self) -> bool {
        let read_only = self.read_only && !then.read_only;
        let shut_down = self.shut_down && !then.shut_down;
        read_only || shut_down || self.errors > then.errors
    }
}

/// Only ext4 counts.
fn counted(mount: &Mount) -> Option<u64> {
    let device = std::fs::read_link(of_device(mount.device)).ok()?;
    let errors = read(&Path::new("/sys/fs/ext4").join(device.file_name()?).join("errors_count")).ok()?;
    std::str::from_utf8(&errors).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_what_was_not_there_before() {
        let well = Health { read_only: false, shut_down: false, errors: 2 };
        assert!(!well.failed_since(well));
        for failed in
            [Health { read_only: true, ..well }, Health { shut_down: true, ..well }, Health { errors: 3, ..well }]
        {
            assert!(failed.failed_since(well), "{failed:?}");
            assert!(!failed.failed_since(failed) && !well.failed_since(failed), "{failed:?}");
        }
    }
}
