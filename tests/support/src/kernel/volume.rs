//! Real filesystems for tests: loop images, mounted in a pod of the test's own.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use stillpoint::fsfreeze;

/// Those that are tested.
pub const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// Set within a pod: the directory for whatever a test makes.
const SCRATCH: &str = "POD_SCRATCH";

/// Runs a test in what an agent finds in a pod: process and mount namespaces of its own, with another process as process 1.
/// All that the test leaves there ends with it, however it ends: processes, mounts, loop devices and files. What it leaves
/// frozen is thawed from outside.
///
/// # Panics
/// When the test fails, or without root.
pub fn in_a_pod(test: impl FnOnce()) {
    if std::env::var_os(SCRATCH).is_some() {
        run("mount", &["-t", "tmpfs", "tmpfs", text(&scratch_root())]);
        return test();
    }
    assert!(rustix::process::geteuid().is_root(), "this test mounts filesystems: run it as root");
    let thread = std::thread::current();
    let name = thread.name().expect("the test harness names its threads after the tests");
    // Short, because sockets are made in it, and their paths may have 107 bytes only.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let scratch = std::env::temp_dir().join(format!("stillpoint-{}-{number:03}", std::process::id()));
    std::fs::create_dir(&scratch).expect("the temporary directory is writable");
    let rescue = Rescue::arm(&scratch);
    let binary = std::env::current_exe().expect("the test binary has a path");
    let output = Command::new("timeout")
        .args(["--signal=KILL", "120", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .args([text(&binary), "--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(SCRATCH, &scratch)
        .output();
    rescue.end();
    let output = output.expect("util-linux is needed for this test");
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&words));
}

/// A process outside of the pod that thaws the pod's filesystems after 60 s, or as soon as the pod or the test's process is
/// gone. It finds them by their images, since a filesystem that stays frozen keeps its loop device, with or without a mount.
/// At last it removes the scratch directory.
struct Rescue(Child);

impl Rescue {
    fn arm(scratch: &Path) -> Self {
        const SCRIPT: &str = r#"
            timeout 60 cat
            for device in $(grep --files-with-matches "/$2-" /sys/block/loop*/loop/backing_file | cut -d / -f 4); do
                mount "/dev/$device" "$1" || continue
                fsfreeze --unfreeze "$1"
                umount "$1"
            done 2>&-
            rmdir "$1""#;
        let name = scratch.file_name().expect("it has a name");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(scratch).arg(name);
        // Out of reach of what ends the test's process group.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self(command.spawn().expect("util-linux is needed for this test"))
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn scratch_root() -> PathBuf {
    std::env::var_os(SCRATCH).expect("this is only called in a pod").into()
}

/// Digits that no other pod on this machine has at the same time: it is seen from outside as the number of a process and a
/// number of its own.
pub fn pod_digits() -> String {
    let name = scratch_root();
    let name = name.file_name().expect("it has a name").to_string_lossy();
    name.chars().filter(char::is_ascii_digit).collect()
}

/// Makes a directory in the pod, on no volume.
pub fn scratch_dir(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let dir = scratch_root().join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&dir).expect("the scratch directory is writable");
    dir
}

/// Runs a command to its end; returns what it wrote.
///
/// # Panics
/// When it is not installed or fails; its own words are in the message.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("{program} is needed for this test (Debian: e2fsprogs, xfsprogs, btrfs-progs): {error}")
    });
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A mounted loop image.
pub struct Volume {
    /// Its mount point.
    pub path: PathBuf,
    /// The image below it.
    pub image: PathBuf,
}

impl Volume {
    /// Makes a filesystem of this type and mounts it.
    pub fn new(filesystem: &str) -> Self {
        let path = scratch_dir(filesystem);
        // A name by which the rescue finds it: when the pod is gone, so is the directory.
        let name = |path: &Path| path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let image = path.with_file_name(format!("{}-{}.image", name(&scratch_root()), name(&path)));
        // The smallest size that mkfs.xfs accepts, and some; the file is sparse.
        std::fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("the image can be made");
        run(&format!("mkfs.{filesystem}"), &["-q", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&path)]);
        Self { path, image }
    }

    /// Its root directory, opened.
    pub fn root(&self) -> OwnedFd {
        rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("it is mounted")
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

/// Shows a directory or file at another place too.
pub fn bind(from: &Path, to: &Path) {
    run("mount", &["--bind", text(from), text(to)]);
}

/// Mounts an overlay: its lower, upper and work directories, and where.
pub fn overlay(layers: &[PathBuf; 4]) {
    let [lower, upper, work, merged] = layers.each_ref().map(|path| text(path).replace(',', "\\,"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    run("mount", &["-t", "overlay", "overlay", "-o", &options, &merged]);
}

/// A filesystem that is frozen until this is dropped, or until the pod's rescue thaws it.
pub struct Frozen(OwnedFd);

impl Frozen {
    /// Freezes.
    pub fn new(volume: &Volume) -> Self {
        let root = volume.root();
        fsfreeze::freeze(&root).expect("it can be frozen");
        Self(root)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fsfreeze::thaw(&self.0);
    }
}
