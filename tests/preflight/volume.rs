//! Real filesystems for tests: loop images, mounted in a pod of the test's own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::roles::Role;

/// Set within a pod: the directory for whatever a test makes.
const SCRATCH: &str = "POD_SCRATCH";

/// Runs a test in what an agent finds in a pod: process and mount namespaces of its own, with another process as process 1.
/// All that the test leaves there ends with it, however it ends: processes, mounts, loop devices and files.
///
/// # Panics
/// When the test fails, or without root.
pub fn in_a_pod(test: fn()) {
    if std::env::var_os(SCRATCH).is_some() {
        run("mount", &["-t", "tmpfs", "tmpfs", text(&scratch_root())]);
        return test();
    }
    assert!(rustix::process::geteuid().is_root(), "this test mounts filesystems: run it as root");
    let thread = std::thread::current();
    let name = thread.name().expect("the test harness names its threads after the tests");
    let scratch = std::env::temp_dir().join(format!("stillpoint-{}-{}", std::process::id(), name.replace(':', "-")));
    std::fs::create_dir(&scratch).expect("the temporary directory is writable");
    let binary = std::env::current_exe().expect("the test binary has a path");
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"])
        .args([text(&binary), "--exact", name, "--nocapture", "--test-threads=1"])
        .env(SCRATCH, &scratch)
        .output();
    let _ = std::fs::remove_dir(&scratch);
    let output = output.expect("util-linux is needed for this test");
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&words));
}

fn scratch_root() -> PathBuf {
    std::env::var_os(SCRATCH).expect("this is only called in a pod").into()
}

/// Makes a directory in the pod, on no volume.
pub fn scratch_dir(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let dir = scratch_root().join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&dir).expect("the scratch directory is writable");
    dir
}

/// Runs a command to its end.
///
/// # Panics
/// When it is not installed or fails; its own words are in the message.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("{program} is needed for this test (Debian: e2fsprogs, xfsprogs, btrfs-progs): {error}")
    });
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mounted loop image.
pub struct Volume {
    /// Its mount point.
    pub path: PathBuf,
}

impl Volume {
    /// Makes a filesystem of this type and mounts it.
    pub fn new(filesystem: &str) -> Self {
        let path = scratch_dir(filesystem);
        let image = path.with_extension("image");
        // The smallest size that mkfs.xfs accepts, and some; the file is sparse.
        std::fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("the image can be made");
        run(&format!("mkfs.{filesystem}"), &["-q", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&path)]);
        Self { path }
    }

    /// The path of a file on it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The path as text; every path of these tests is.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is UTF-8")
}

/// A filesystem that is frozen until this is dropped. A process of its own thaws it after 20 s at the latest, or as soon as
/// the test's process has died.
pub struct Frozen {
    root: OwnedFd,
    _watchdog: Role,
}

impl Frozen {
    /// Arms the watchdog, then freezes.
    pub fn new(volume: &Volume) -> Self {
        let root = open_root(&volume.path);
        let frozen = Self { root, _watchdog: Role::start(&[], "watchdog", &[text(&volume.path)]) };
        // SAFETY: the request ignores its argument.
        let result = unsafe { libc::ioctl(frozen.root.as_raw_fd(), FIFREEZE, 0) };
        assert_eq!(result, 0, "FIFREEZE: {}", std::io::Error::last_os_error());
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        thaw(&self.root);
    }
}

/// Opens what [`thaw`] needs.
pub fn open_root(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("it is mounted")
}

/// Thaws; does nothing when the filesystem is not frozen.
pub fn thaw(root: &OwnedFd) {
    // SAFETY: the request ignores its argument.
    unsafe { libc::ioctl(root.as_raw_fd(), FITHAW, 0) };
}

/// `_IOWR('X', 119, int)` of the kernel's `include/uapi/linux/fs.h`.
const FIFREEZE: libc::Ioctl = 0xC004_5877_u32 as libc::Ioctl;
/// `_IOWR('X', 120, int)`.
const FITHAW: libc::Ioctl = 0xC004_5878_u32 as libc::Ioctl;
