//! Filesystems to be frozen: loop images that the benchmark itself makes, in its own mount namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use stillpoint::fsfreeze;

/// Size of an image; the file is sparse.
const BYTES: u64 = 64 << 20;
/// How long an unmount may be refused because processes that were killed are not gone yet.
const BUSY: Duration = Duration::from_secs(10);

/// A mounted ext4 of its own. Dropped, it is thawed, unmounted and removed; its loop device detaches itself with the last
/// mount, also when the benchmark is killed and only its mount namespace ends.
pub struct Volume {
    /// Where it is mounted.
    pub mount: PathBuf,
    image: PathBuf,
}

impl Volume {
    /// Makes and mounts one in an existing directory.
    ///
    /// # Errors
    /// Without root, loop devices or e2fsprogs.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let volume = Self { mount: directory.join(name), image: directory.join(format!("{name}.image")) };
        fs::create_dir(&volume.mount)?;
        File::create(&volume.image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&volume.image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&volume.image, &volume.mount]))?;
        Ok(volume)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Ok(root) = File::open(&self.mount)
            && fsfreeze::thaw(root) == Ok(())
        {
            eprintln!("{} was still frozen, and is thawed", self.mount.display());
        }
        let began = Instant::now();
        while rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::empty()) == Err(Errno::BUSY)
            && began.elapsed() < BUSY
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Fails if it is still mounted, and then the image is needed.
        if fs::remove_dir(&self.mount).is_ok() {
            let _ = fs::remove_file(&self.image);
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
