//! What the kernel tells about processes, mounts and locks under `/proc` (proc(5)): one pure parser per format, and
//! [`view`], which reads what the agent can see of its pod.

pub mod cgroup;
pub mod fdinfo;
pub mod locks;
pub mod maps;
pub mod mountinfo;
mod read;
pub mod stat;
pub mod throttling;
pub mod view;

use std::io;

use rustix::io::Errno;

pub use read::{each_line, each_number, read};

/// Major and minor number of a block device (or of an anonymous one), as the kernel's superblock has it.
///
/// `/proc/locks`, mountinfo and maps agree on this number. stat(2) does not: on btrfs every subvolume has an `st_dev`
/// of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// Parses `major:minor`: decimal in mountinfo, hexadecimal in `/proc/locks` and maps.
    pub fn parse(text: &str, radix: u32) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: u32::from_str_radix(major, radix).ok()?, minor: u32::from_str_radix(minor, radix).ok()? })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Whether a read failed because the process has ended: `ENOENT` and `ESRCH` by proc(5), `EINVAL` from the mountinfo of
/// a process that has already left its mount namespace.
pub fn vanished(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH | Errno::INVAL))
}
