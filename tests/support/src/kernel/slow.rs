//! A disk that is slow: the kernel lets only so many bytes a second through to a loop device.

use std::fs;
use std::path::Path;

use rustix::fs::{major, minor};

use super::volume::{run, text};

/// Of the first hierarchy of cgroups, whose root may be throttled too: so what the kernel writes back by itself is as slow.
const THROTTLE: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";

/// The disk below a mount point, slow until this is dropped.
pub struct Slow(String);

impl Slow {
    /// From now on.
    pub fn new(mount: &Path, bytes_per_second: u64) -> Self {
        let device = run("findmnt", &["--noheadings", "--output", "SOURCE", "--target", text(mount)]);
        let number = rustix::fs::stat(device.trim()).expect("it lies on a block device").st_rdev;
        let slow = Self(format!("{}:{}", major(number), minor(number)));
        slow.limit(bytes_per_second).expect("cgroup v1 with the controller blkio is needed for this test");
        slow
    }

    fn limit(&self, bytes_per_second: u64) -> std::io::Result<()> {
        fs::write(THROTTLE, format!("{} {bytes_per_second}", self.0))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.limit(0);
    }
}
