//! What the kernel tells about processes, mounts and locks under `/proc` (proc(5)): one pure parser per format, and
//! [`view`], which reads what the agent can see of its pod.

pub mod cgroup;
pub mod fdinfo;
pub mod locks;
pub mod maps;
pub mod mountinfo;
pub mod stat;
pub mod view;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::io::Errno;

use stillpoint_core::limits::MAX_PROC_FILE;

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
    fn parse(text: &str, radix: u32) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: u32::from_str_radix(major, radix).ok()?, minor: u32::from_str_radix(minor, radix).ok()? })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Reads a whole file of `/proc` or `/sys`.
///
/// # Errors
/// The kernel's, and `FileTooLarge` above [`MAX_PROC_FILE`]: a part of a table must not pass for the whole.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_file(File::open(path)?)
}

/// Reads what is left of an open file, like [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_file(file: File) -> io::Result<Vec<u8>> {
    // Most of these files are small: one read for the contents, one for the end.
    let mut bytes = Vec::with_capacity(1024);
    file.take(MAX_PROC_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROC_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// The entries of a directory whose names are numbers: processes, tasks or descriptors.
///
/// # Errors
/// The kernel's, and `FileTooLarge` above `limit` entries.
pub fn numbers(dir: &Path, limit: usize) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if found.len() == limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        found.push(number);
    }
    Ok(found)
}

/// Whether a read failed because the process has ended: `ENOENT` and `ESRCH` by proc(5), `EINVAL` from the mountinfo of
/// a process that has already left its mount namespace.
pub fn vanished(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH | Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P7: what is cut off could hold the lock.
    #[test]
    fn more_than_the_limit_is_an_error_and_not_a_part() {
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);

        let descriptors = Path::new("/proc/self/fd");
        let _open: Vec<File> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(numbers(descriptors, 65_536).unwrap().len() >= 8);
        assert_eq!(numbers(descriptors, 8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
