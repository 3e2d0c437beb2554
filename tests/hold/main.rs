//! The agent, its freezer and the guardian as real processes, on real filesystems, commanded over TLS.
//!
//! Needs root and loop devices: `cargo test --test hold -- --ignored --test-threads=1 --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod deaths;
mod recovery;
mod scene;
mod start;
mod volume;
mod waits;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};
use rustix::process::Signal;
use scene::{HOLD, Running, SLACK, Scene, attempt, is_freezing, until};
use stillpoint::fsfreeze;
use stillpoint_core::limits::{FREEZE_TIMEOUT, GUARDIAN_GRACE, MAX_GUARDED};
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{NotReady, Suspend};
use support::kernel::controller;
use support::kernel::stuck::{self, StuckWrite};

async fn holds_and_releases(filesystem: &str) {
    let mut scene = Scene::new(filesystem).await;
    for round in 1..=3 {
        let prepared = scene.prepare(HOLD).await;
        assert!(matches!(prepared, Report::Prepared(_)), "{prepared:?}");
        scene.writer.longest_pause();
        let begun = Instant::now();
        let Report::Ready(ready) = scene.suspend(1).await else { panic!("not ready") };
        let to_ready = begun.elapsed();
        if round == 3 {
            assert!(scene.volume.is_frozen());
        }
        let released = scene.release().await;
        assert!(released.unbroken, "{released:?}");
        assert_eq!(released, scene.release().await, "a repeated Release has the same answer");
        scene.writer.goes_on();
        println!(
            "{filesystem}: Suspend to Ready {to_ready:?}, suspended at Ready {:?}, suspended in all {:?}, longest pause of the \
             writer {:?}; resident: agent {} KiB",
            Duration::from_micros(ready.suspended_us),
            Duration::from_micros(released.suspended_us),
            scene.writer.longest_pause(),
            Running::resident_kib(scene.agent.pid),
        );
    }
    scene.hold(HOLD).await;
    println!(
        "resident: agent {} KiB, freezer {} KiB, guardian {} KiB",
        Running::resident_kib(scene.agent.pid),
        Running::resident_kib(scene.agent.freezer().unwrap()),
        Running::resident_kib(scene.guardian.as_ref().unwrap().pid),
    );
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn ext4_is_held_and_released() {
    holds_and_releases("ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn xfs_is_held_and_released() {
    holds_and_releases("xfs").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn btrfs_is_held_and_released() {
    holds_and_releases("btrfs").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_foreign_freeze_is_reported_and_left_alone() {
    let mut scene = Scene::new("xfs").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    fsfreeze::freeze(scene.volume.root()).unwrap();
    let Report::NotReady(NotReady { blockers, retryable, .. }) = scene.suspend(1).await else { panic!("ready") };
    assert_eq!((blockers[0].reason.as_str(), retryable), ("AlreadyFrozen", true));
    assert!(!scene.release().await.unbroken);
    fsfreeze::thaw(scene.volume.root()).expect("somebody thawed what was not theirs");
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_foreign_thaw_breaks_the_hold() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    fsfreeze::thaw(scene.volume.root()).unwrap();
    scene.broken("somebody else thawed").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_hold_ends_at_its_limit() {
    let limit = Duration::from_secs(1);
    let mut scene = Scene::new("ext4").await;
    scene.hold(limit).await;
    let took = scene.writer.goes_on();
    println!("limit {limit:?}: writes went on after {took:?}");
    assert!(took < limit + GUARDIAN_GRACE + SLACK, "{took:?}");
    scene.broken("hold limit").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_lost_session_ends_the_hold() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    scene.session.end();
    println!("session lost: writes went on after {:?}", scene.writer.goes_on());
    scene.session = scene.controller.session().await;
    scene.broken("session").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_pending_freeze_is_thawed_when_it_completes() {
    let mut scene = Scene::new("ext4").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    let stuck = StuckWrite::new(&scene.volume.mount);
    scene.session.say(Command::Suspend(Suspend { attempt: Some(attempt()), round: 1 })).await;
    let begun = Instant::now();
    until("the freezer is stuck in the kernel", || scene.agent.freezer().is_some_and(is_freezing));
    // The agent gives up after its limit and kills the freezer, which cannot end yet.
    let pending = PathBuf::from(format!("/proc/{}/status", scene.agent.freezer().unwrap().as_raw_nonzero()));
    until("the freezer is killed", || {
        let status = fs::read_to_string(&pending).unwrap();
        let killed = |line: &str| line.strip_prefix("ShdPnd:").is_some_and(|mask| mask.trim().ends_with("100"));
        status.lines().any(killed)
    });
    println!("the freeze was given up after {:?}", begun.elapsed());
    let Report::Pending(late) = scene.session.hear().await else { panic!("nothing is late") };
    assert_eq!((late.round, late.blockers[0].reason.as_str()), (1, "SuspensionPending"));
    stuck.finish();
    println!("the stuck write ended: writes went on after {:?}", scene.writer.goes_on());
    let Report::NotReady(NotReady { blockers, suspended_us, .. }) = scene.session.hear().await else { panic!("ready") };
    assert_eq!(blockers[0].reason, "SuspensionPending");
    assert!(Duration::from_micros(suspended_us) >= FREEZE_TIMEOUT, "{suspended_us}");
    assert!(!scene.volume.is_frozen());
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

/// On a filesystem with `errors=continue`, which is what mkfs makes, all else looks well.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_filesystem_that_fails_during_the_hold_breaks_it() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    let name = scene.volume.device.rsplit('/').next().unwrap();
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
    scene.broken("the filesystem failed while writes were suspended").await;
    scene.writer.goes_on();
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken, "what was counted before counts no more");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn garbage_and_floods_at_the_guardian_harm_nobody_else() {
    let mut scene = Scene::new("xfs").await;
    scene.hold(HOLD).await;
    let address = SocketAddrUnix::new(scene.volume.directory.join("guardian.sock")).unwrap();
    let connect_with = |first: &[u8]| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let connected = connect(&client, &address).is_ok();
        let _ = send(&client, first, SendFlags::NOSIGNAL);
        (client, connected)
    };
    let mut clients = Vec::new();
    for first in [&b"garbage"[..], b"", b"Gwithout descriptors", b"A", &[b'G'; 4096]] {
        clients.push(connect_with(first));
    }
    // These say nothing, and take every place that is left until they are sent away.
    clients.extend((0..MAX_GUARDED * 2).map(|_| connect_with(b"")));
    assert!(scene.volume.is_frozen(), "the hold goes on");
    assert!(scene.release().await.unbroken);
    drop(clients);
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn sigterm_gives_writes_back() {
    let mut scene = Scene::new("btrfs").await;
    scene.hold(HOLD).await;
    let begun = Instant::now();
    scene.agent.signal(Signal::TERM);
    assert!(scene.agent.started.wait().unwrap().success());
    println!("SIGTERM: the agent ended after {:?}", begun.elapsed());
    assert!(!scene.volume.is_frozen());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn nothing_is_left_when_it_is_over() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    scene.release().await;
    until("the freezer is gone", || scene.agent.freezer().is_none());
    let pid = scene.agent.pid.as_raw_nonzero();
    let guardian = scene.guardian.as_ref().unwrap().pid.as_raw_nonzero();
    let on_volume = |pid| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .any(|link| link.starts_with(&scene.volume.mount))
    };
    until("no descriptor holds up an unmount", || !on_volume(pid) && !on_volume(guardian));
    assert_eq!(fsfreeze::thaw(scene.volume.root()), Err(Errno::INVAL));
}
