//! A real filesystem on a loop image that the test made, and a writer on it.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use stillpoint::fsfreeze;

/// A mounted loop image. An independent process thaws it after a while, whatever becomes of the test.
pub struct Volume {
    pub directory: PathBuf,
    pub mount: PathBuf,
    /// Where the agent keeps its records.
    pub records: PathBuf,
    pub device: String,
    thaw_later: Child,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Volume {
    pub fn new(filesystem: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stillpoint-hold-{}-{number}", std::process::id()));
        let (mount, image) = (directory.join("mount"), directory.join("image"));
        fs::create_dir_all(&mount).unwrap();
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        run(Command::new(format!("mkfs.{filesystem}")).arg("-q").arg(&image));
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image));
        run(Command::new("mount").arg(&device).arg(&mount));
        let script = format!("sleep 60; exec fsfreeze --unfreeze {}", mount.display());
        let thaw_later = Command::new("sh").arg("-c").arg(script).spawn().unwrap();
        let records = directory.join("records");
        Self { directory, mount, records, device, thaw_later }
    }

    pub fn root(&self) -> OwnedFd {
        File::open(&self.mount).unwrap().into()
    }

    /// The kernel has no such question; but it refuses to freeze twice.
    pub fn is_frozen(&self) -> bool {
        match fsfreeze::freeze(self.root()) {
            Ok(()) => {
                fsfreeze::thaw(self.root()).unwrap();
                false
            }
            Err(Errno::BUSY) => true,
            Err(errno) => panic!("{errno}"),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        // Again and again: a freeze that was pending may complete only now.
        while {
            let _ = fsfreeze::thaw(self.root());
            !Command::new("umount").arg(&self.mount).status().unwrap().success()
        } {
            if Instant::now() > deadline {
                // The independent thaw is still to come.
                eprintln!("{} is still in use; it is left mounted", self.mount.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        run(Command::new("losetup").arg("--detach").arg(&self.device));
        let _ = self.thaw_later.kill();
        let _ = self.thaw_later.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Writes, and remembers the longest pause between two writes.
pub struct Writer {
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// As fast as it can.
    pub fn new(directory: &Path) -> Self {
        Self::pausing(directory, Duration::ZERO)
    }

    /// With a pause after every write.
    pub fn pausing(directory: &Path, pause: Duration) -> Self {
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let mut file = File::create(directory.join("written")).unwrap();
        let thread = std::thread::spawn({
            let (written, stop, longest) = (Arc::clone(&written), Arc::clone(&stop), Arc::clone(&longest));
            move || {
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    file.write_all(&[b'x'; 256]).unwrap();
                    let count = written.fetch_add(1, Ordering::Relaxed);
                    if count % 65_536 == 65_535 {
                        file.set_len(0).unwrap();
                    }
                    std::thread::sleep(pause);
                    let now = Instant::now();
                    let mut longest = longest.lock().unwrap();
                    *longest = longest.max(now - last);
                    last = now;
                }
            }
        });
        let writer = Self { written, stop, longest, thread: Some(thread) };
        writer.goes_on();
        writer
    }

    /// Waits until more is written; returns how long that took.
    pub fn goes_on(&self) -> Duration {
        let begun = Instant::now();
        let before = self.written.load(Ordering::Relaxed);
        // Two: one may have been under way.
        while self.written.load(Ordering::Relaxed) < before + 2 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the writer is still blocked");
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    /// The longest pause since this was last asked.
    pub fn longest_pause(&self) -> Duration {
        std::mem::take(&mut self.longest.lock().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
