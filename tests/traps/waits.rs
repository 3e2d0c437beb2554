//! What a freeze would have to wait for, with nobody to take it back.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use stillpoint_core::locks::Look;
use stillpoint_core::locks::Suspension::{Suspended, Writable};

use crate::looking::{look_at, only};
use crate::roles::{Role, until};
use crate::slow::Slow;
use crate::stuck::StuckWrite;
use crate::volume::{FILESYSTEMS, Frozen, Volume, in_a_pod, run, text};

#[test]
#[ignore = "needs root and loop devices"]
fn a_write_that_does_not_end_is_named() {
    in_a_pod(|| {
        for filesystem in FILESYSTEMS {
            let volume = Volume::new(filesystem);
            assert!(look_at(&volume.path, Writable).is_clean());
            let stuck = StuckWrite::new(&volume.path);
            let found = only(look_at(&volume.path, Writable));
            assert_eq!((found.reason.as_str(), found.pid), ("CallUnderWay", std::process::id().cast_signed()));
            assert!(found.message.contains("inside one write(2) of"), "{}", found.message);
            assert!(found.path.ends_with("/stuck"), "{}", found.path);
            assert_eq!(only(look_at(&volume.path, Writable)), found, "it is the same blocker as long as it lasts");
            stuck.finish();
            assert!(look_at(&volume.path, Writable).is_clean());
        }
    });
}

/// Whoever writes all the time is seen in a write at every moment, and in the same call at none.
#[test]
#[ignore = "needs root and loop devices"]
fn many_short_writes_are_no_long_one() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let file = fs::File::create(volume.file("busy")).unwrap();
        let (data, over) = (vec![b'x'; 4 << 20], AtomicBool::new(false));
        let looks: Vec<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    file.write_all_at(&data, 0).unwrap();
                }
            });
            until("it writes", || file.metadata().unwrap().len() > 0);
            let looks = (0..20).map(|_| look_at(&volume.path, Writable)).collect();
            over.store(true, Ordering::Relaxed);
            looks
        });
        assert!(looks.iter().all(Look::is_clean), "{looks:?}");
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn whoever_waits_for_a_thaw_is_not_inside() {
    in_a_pod(|| {
        let volume = Volume::new("xfs");
        let mut hand = Role::hand(&volume.file("data"));
        let frozen = Frozen::new(&volume);
        hand.tell("write more");
        until("it waits", || hand.waits_for_a_thaw());
        let looks = [Writable, Suspended].map(|when| look_at(&volume.path, when));
        drop(frozen);
        assert!(looks.iter().all(Look::is_clean), "{looks:?}");
        hand.done();
    });
}

/// A btrfs filesystem with some data, on a disk so slow that operations last.
fn slow_btrfs() -> (Slow, Volume) {
    let volume = Volume::new("btrfs");
    let of = format!("of={}", text(&volume.file("data")));
    run("dd", &["if=/dev/urandom", &of, "bs=1M", "count=60", "conv=fsync", "status=none"]);
    (Slow::new(&volume.path, 4 << 20), volume)
}

fn btrfs(words: &[&str], volume: &Volume) -> Child {
    let mut command = Command::new("btrfs");
    command.args(words).arg(&volume.path).stdout(Stdio::null());
    command.spawn().expect("btrfs-progs are needed for this test")
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_scrub_is_named() {
    in_a_pod(|| {
        let volume = Volume::new("btrfs");
        let of = format!("of={}", text(&volume.file("data")));
        run("dd", &["if=/dev/urandom", &of, "bs=1M", "count=60", "conv=fsync", "status=none"]);
        let uuid = run("findmnt", &["--noheadings", "--output", "UUID", text(&volume.path)]);
        fs::write(format!("/sys/fs/btrfs/{uuid}/devinfo/1/scrub_speed_max"), "2M").unwrap();
        assert!(look_at(&volume.path, Writable).is_clean());
        let mut scrub = btrfs(&["scrub", "start", "-B"], &volume);
        until("it is under way", || !look_at(&volume.path, Writable).is_clean());
        let found = look_at(&volume.path, Writable).blockers;
        run("btrfs", &["scrub", "cancel", text(&volume.path)]);
        scrub.wait().unwrap();
        // The program is inside an ioctl(2) besides, when it is in view.
        let found = found.iter().find(|found| found.reason == "FilesystemBusy").expect("it is named");
        assert!(found.message.contains("a scrub of device 1 is under way"), "{}", found.message);
        assert!(look_at(&volume.path, Writable).is_clean());
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_balance_is_named_until_it_ends_or_is_paused() {
    in_a_pod(|| {
        let (slow, volume) = slow_btrfs();
        let mut balance = btrfs(&["balance", "start", "--full-balance"], &volume);
        until("it is under way", || !look_at(&volume.path, Writable).is_clean());
        let found = look_at(&volume.path, Writable).blockers;
        drop(slow);
        run("btrfs", &["balance", "pause", text(&volume.path)]);
        balance.wait().unwrap();
        let paused = look_at(&volume.path, Writable);
        run("btrfs", &["balance", "cancel", text(&volume.path)]);
        let named = found.iter().find(|found| found.reason == "FilesystemBusy").expect("it is named");
        assert!(named.message.contains("a balance is under way"), "{}", named.message);
        assert!(paused.is_clean(), "{paused:?}");
    });
}
