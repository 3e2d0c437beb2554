//! What a freeze would wait for: nobody's writes are suspended behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::{Blocker, NotReady};
use support::kernel::slow::Slow;

use crate::scene::{HOLD, Scene, until};
use crate::volume::{Writer, run};

/// What comes on top of a hold's limit: the guardian's and the controller's.
const MORE: Duration = Duration::from_millis(2_200);

/// A scrub of the member that lasts until it is cancelled, and is cancelled in any case.
struct Scrub {
    mount: PathBuf,
    process: Child,
}

impl Scrub {
    fn begin(scene: &Scene) -> Self {
        let mount = scene.volume.mount.clone();
        let uuid = run(Command::new("findmnt").args(["--noheadings", "--output", "UUID"]).arg(&mount));
        fs::write(format!("/sys/fs/btrfs/{uuid}/devinfo/1/scrub_speed_max"), "2M").unwrap();
        let mut command = Command::new("btrfs");
        let process = command.args(["scrub", "start", "-B"]).arg(&mount).stdout(Stdio::null()).spawn().unwrap();
        let scrub = Self { mount, process };
        until("the scrub is under way", || scrub.is_under_way());
        scrub
    }

    /// It may be unable to say while the scrub writes down how far it is.
    fn is_under_way(&self) -> bool {
        let status = Command::new("btrfs").args(["scrub", "status"]).arg(&self.mount).stderr(Stdio::null()).output();
        status.is_ok_and(|status| String::from_utf8_lossy(&status.stdout).contains("running"))
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        let _ = Command::new("btrfs").args(["scrub", "cancel"]).arg(&self.mount).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_scrub_is_waited_for_with_writes_going_on() {
    let mut scene = Scene::new("btrfs").await;
    fs::write(scene.volume.mount.join("data"), vec![b'x'; 100 << 20]).unwrap();
    run(&mut Command::new("sync"));
    let under_way = Scrub::begin(&scene);
    scene.writer.longest_pause();
    let Report::Waiting(waiting) = scene.prepare(HOLD).await else { panic!("it does not wait") };
    let scrubbed = |found: &Blocker| found.reason == "FilesystemBusy" && found.message.contains("a scrub of device 1");
    assert!(waiting.blockers.iter().any(scrubbed), "{waiting:?}");
    drop(under_way);
    assert!(matches!(scene.session.hear().await, Report::Prepared(_)));
    // And one that begins between Prepare and Suspend.
    let under_way = Scrub::begin(&scene);
    let Report::NotReady(NotReady { blockers, retryable, suspended_us, .. }) = scene.suspend(1).await else {
        panic!("it holds")
    };
    // A flush of btrfs may wait for it too, and comes first.
    assert!(["FilesystemBusy", "TooSlow"].contains(&blockers[0].reason.as_str()), "{blockers:?}");
    assert_eq!((retryable, suspended_us), (true, 0));
    let paused = scene.writer.longest_pause();
    assert!(paused < MORE, "{paused:?}");
    drop(under_way);
    let ready = scene.suspend(2).await;
    assert!(matches!(ready, Report::Ready(_)), "{ready:?}");
    assert!(scene.release().await.unbroken);
}

/// One attempt after the other beside a load on a slow disk, once it is there; returns what stood in the way of those that failed.
async fn beside(load: &str, is_there: impl Fn(&Path) -> bool) -> Vec<String> {
    const LIMIT: Duration = Duration::from_secs(2);
    // On ext4 an append waits for the journal behind such a load, whoever suspends writes or not.
    let mut scene = Scene::new("xfs").await;
    scene.writer = Writer::pausing(&scene.volume.mount, Duration::from_millis(10));
    let slow = Slow::new(&scene.volume.mount, 8 << 20);
    let load = format!("cd {} && {load}", scene.volume.mount.display());
    let mut process = scene.pod.runs(&["sh", "-c", &load]);
    until("the load is there", || is_there(&scene.volume.mount));
    let mut in_the_way = Vec::new();
    for _ in 0..3 {
        let mut report = scene.prepare(LIMIT).await;
        while let Report::Waiting(waiting) = report {
            in_the_way.extend(waiting.blockers.into_iter().map(|it| format!("{}: {}", it.reason, it.message)));
            report = scene.session.hear().await;
        }
        if matches!(report, Report::Prepared(_)) {
            report = scene.suspend(1).await;
        }
        match report {
            Report::Ready(_) => {}
            Report::NotReady(refused) => {
                in_the_way.extend(refused.blockers.into_iter().map(|it| format!("{}: {}", it.reason, it.message)));
            }
            late => panic!("{late:?}"),
        }
        scene.release().await;
    }
    let paused = scene.writer.longest_pause();
    println!("longest pause {paused:?} beside {load}\n{in_the_way:#?}");
    assert!(paused < LIMIT + MORE, "{paused:?}");
    drop(slow);
    let _ = process.kill();
    let _ = process.wait();
    in_the_way
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and cgroup v1"]
async fn nobody_is_suspended_behind_a_flood_of_dirty_pages() {
    let load = "while :; do dd if=/dev/zero of=load bs=1M count=40 conv=notrunc status=none; sleep 4; done";
    let in_the_way = beside(load, |mount| mount.join("load").exists()).await;
    let with_numbers = |words: &String| words.starts_with("TooSlow") && words.contains("at most 200.0ms are allowed");
    assert!(in_the_way.iter().any(with_numbers), "{in_the_way:?}");
}

/// Whether a process with this working directory is inside write(2), which is 1 (proc_pid_syscall(5)) on x86-64 and 64 on arm64.
fn is_written_to(mount: &Path) -> bool {
    const WRITE: &str = if cfg!(target_arch = "x86_64") { "1" } else { "64" };
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == mount)).any(|process| {
        let call = fs::read_to_string(process.join("syscall")).unwrap_or_default();
        call.split_whitespace().next() == Some(WRITE)
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, loop devices and cgroup v1"]
async fn nobody_is_suspended_behind_one_huge_write() {
    let load = "dd if=/dev/zero of=load bs=64M count=1 oflag=direct status=none";
    let in_the_way = beside(load, is_written_to).await;
    let named = |words: &String| words.starts_with("CallUnderWay") && words.contains("(dd) in no container");
    assert!(in_the_way.iter().any(named), "{in_the_way:?}");
}
