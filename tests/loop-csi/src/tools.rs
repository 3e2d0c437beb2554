//! Runs the filesystem tools of the node, such as `mkfs.ext4`.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::filesystem::FsType;
use crate::limits;

/// Where the node's tools are found.
///
/// The driver's own image has none: the node's root is mounted into the container and the tools run inside it.
#[derive(Clone, Debug)]
pub struct Tools {
    host_root: PathBuf,
}

impl Tools {
    /// Tools of the system whose root directory is `host_root`; `/` is the driver's own.
    pub fn new(host_root: impl Into<PathBuf>) -> Self {
        Self { host_root: host_root.into() }
    }

    /// Makes a filesystem on `device`.
    pub fn make_filesystem(&self, fs: FsType, device: &Path) -> Result<()> {
        self.run(fs.make_command(), device).with_context(|| format!("making an {} filesystem", fs.name()))
    }

    /// Gives the copied filesystem on `device` an identity of its own, where its kind needs one.
    pub fn give_new_identity(&self, fs: FsType, device: &Path) -> Result<()> {
        match fs.new_identity_command() {
            Some(command) => self.run(command, device).context("giving the copied filesystem a new identity"),
            None => Ok(()),
        }
    }

    fn run(&self, command_line: &[&str], device: &Path) -> Result<()> {
        let [program, arguments @ ..] = command_line else { bail!("empty command line") };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(device)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if self.host_root != Path::new("/") {
            enter_root(&mut command, CString::new(self.host_root.as_os_str().as_bytes())?);
        }
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start {program} of {}: install the package that holds it on the node",
                self.host_root.display()
            )
        })?;
        let deadline = Instant::now() + limits::TOOL_TIMEOUT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                bail!("{program} did not finish within {} s", limits::TOOL_TIMEOUT.as_secs());
            }
            std::thread::sleep(limits::TOOL_POLL);
        };
        if status.success() {
            return Ok(());
        }
        let mut message = Vec::new();
        if let Some(stderr) = child.stderr {
            stderr.take(limits::TOOL_MESSAGE_BYTES_MAX as u64).read_to_end(&mut message)?;
        }
        bail!("{program} {}: {status}: {}", device.display(), String::from_utf8_lossy(&message).trim());
    }
}

/// Makes `command` run with `root` as its root directory.
fn enter_root(command: &mut Command, root: CString) {
    let change_root = move || -> io::Result<()> {
        rustix::process::chroot(root.as_c_str())?;
        rustix::process::chdir(c"/")?;
        Ok(())
    };
    // SAFETY: between fork and exec only chroot(2) and chdir(2) are called, with strings made before the fork, so the
    // child neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(change_root);
    }
}
