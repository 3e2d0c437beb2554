//! Every kind of lock, on every filesystem, with every way to lose its holder.

use stillpoint::agent::dataset;
use stillpoint::agent::locks::look;
use stillpoint_core::locks::Suspension;
use stillpoint_core::wire::Container;

use std::time::Instant;

use crate::looking::{look_at, only};
use crate::roles::{FakeContainer, Role, until};
use crate::volume::{FILESYSTEMS, Volume, in_a_pod, scratch_dir, text};

#[test]
fn a_lock_for_writing_blocks_and_is_blamed_on_its_holder() {
    in_a_pod(|| {
        for filesystem in FILESYSTEMS {
            let volume = Volume::new(filesystem);
            std::fs::create_dir(volume.file("data")).unwrap();
            let file = volume.file("data/x.db");
            let table = [
                ("posix-write", "POSIX", 0, Some(511), "a POSIX WRITE lock on bytes 0-511 of"),
                ("ofd-write", "OFD", 512, None, "an OFD WRITE lock on bytes 512 to the end of"),
                ("flock-write", "FLOCK", 0, None, "a FLOCK WRITE lock on"),
                ("lease-write", "LEASE", 0, None, "a WRITE lease on"),
            ];
            for (role, kind, start, end, words) in table {
                let holder = Role::holding(role, &file);
                for when in [Suspension::Writable, Suspension::Suspended] {
                    let blocker = only(look_at(&volume.path, when));
                    let lock = blocker.lock.unwrap();
                    assert_eq!((blocker.reason.as_str(), blocker.pid), ("LockHeld", holder.pid), "{filesystem} {role}");
                    assert_eq!(
                        (lock.kind.as_str(), lock.mode.as_str(), lock.start, lock.end),
                        (kind, "WRITE", start, end)
                    );
                    assert_eq!(blocker.path, "data/x.db");
                    let expected = format!(
                        "process {} ({}) in no container holds {words} {}",
                        holder.pid,
                        blocker.process,
                        text(&file)
                    );
                    assert_eq!(blocker.message, expected);
                }
                drop(holder);
                assert!(look_at(&volume.path, Suspension::Writable).is_clean(), "{filesystem} {role}");
            }
        }
    });
}

#[test]
fn neither_readers_nor_waiters_nor_other_filesystems_block() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let _reader = Role::holding("posix-read", &volume.file("read.db"));
        let elsewhere = scratch_dir("elsewhere").join("y.db");
        let _elsewhere = Role::holding("posix-write", &elsewhere);
        let found = look_at(&volume.path, Suspension::Writable);
        assert!(found.is_clean(), "{found:?}");

        let holder = Role::holding("posix-write", &volume.file("x.db"));
        let waiter = Role::holding("posix-wait", &volume.file("x.db"));
        let waits = format!(" {} ", waiter.pid);
        until("it waits behind the holder", || {
            let table = std::fs::read_to_string("/proc/locks").unwrap();
            table.lines().any(|line| line.contains("->") && line.contains(&waits))
        });
        assert_eq!(only(look_at(&volume.path, Suspension::Writable)).pid, holder.pid);
    });
}

#[test]
fn a_process_whose_first_thread_has_ended_is_still_seen() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let holder = Role::holding("leaderless", &volume.file("x.db"));
        let blocker = only(look_at(&volume.path, Suspension::Suspended));
        assert_eq!((blocker.pid, blocker.path.as_str()), (holder.pid, "x.db"));
    });
}

#[test]
fn the_container_is_named() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let container = FakeContainer::new(scratch_dir("cgroup"));
        let holder = Role::holding("posix-write", &volume.file("x.db"));
        let known = [Container { name: "database".into(), id: container.id.clone() }];
        let dataset = dataset::open(&volume.path).unwrap();

        let found = look(&dataset, &known, Suspension::Writable);
        assert_eq!(found.blockers[0].reason, "Blind", "no process of the container yet: {found:?}");
        assert!(found.blockers[0].message.contains("container database"), "{found:?}");
        assert_eq!(found.blockers[0].container_id, container.id);

        container.add(holder.pid);
        let blocker = only(look(&dataset, &known, Suspension::Writable));
        assert_eq!((blocker.reason.as_str(), &blocker.container_id), ("LockHeld", &container.id));
        assert!(blocker.message.contains("in container database holds"), "{}", blocker.message);
    });
}

#[test]
fn a_descriptor_with_a_line_for_each_of_many_watches_is_passed_over() {
    in_a_pod(|| {
        let (volume, many) = (Volume::new("ext4"), scratch_dir("watched"));
        let watcher = Role::start(&[], "watch", &[text(&many), "80000"]);
        let infos = std::fs::read_dir(format!("/proc/{}/fdinfo", watcher.pid)).unwrap();
        let sizes = infos.map(|info| std::fs::read(info.unwrap().path()).unwrap().len());
        assert!(sizes.max().unwrap() > 8 << 20, "it is as large as in the field");
        for when in [Suspension::Writable, Suspension::Suspended] {
            let found = look_at(&volume.path, when);
            assert!(found.is_clean(), "{found:?}");
        }
        let holder = Role::holding("flock-write", &volume.file("x.db"));
        assert_eq!(only(look_at(&volume.path, Suspension::Suspended)).pid, holder.pid);
    });
}

#[test]
fn the_locks_of_one_process_are_one_blocker() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let server = Role::start(&[], "lock-many", &[text(&volume.path), "300"]);
        let blocker = only(look_at(&volume.path, Suspension::Suspended));
        assert_eq!((blocker.pid, blocker.path.as_str()), (server.pid, "000"));
        assert!(blocker.message.ends_with("/000, and 299 more locks"), "{}", blocker.message);
    });
}

/// Many processes with many descriptors, of which one look must go through all, and the other through none: they do not have the
/// volume. Prints what both cost. Fewer than there may be, so that the pod lives for less than its rescue waits.
#[test]
fn a_look_while_writes_are_suspended_keeps_to_those_who_have_the_volume() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let elsewhere =
            ["unshare", "--mount", "sh", "-c", "umount \"$1\"; shift; exec \"$@\"", "sh", text(&volume.path)];
        let _crowd = Role::start(&elsewhere, "crowd", &["300", "100"]);
        let best = |when, times| {
            let look = || {
                let begun = Instant::now();
                let found = look_at(&volume.path, when);
                assert!(found.is_clean(), "{found:?}");
                (begun.elapsed(), found.cost.took)
            };
            (0..times).map(|_| look()).min().expect("it is looked at least once")
        };
        let (suspended, writable) = (best(Suspension::Suspended, 9), best(Suspension::Writable, 1));
        println!("a look takes {:.1?} while writes are suspended, and {:.1?} before", suspended.0, writable.0);
        assert!(suspended.0 * 5 < writable.0, "{suspended:?} {writable:?}");
        assert!(writable.1 * 2 < writable.0, "the first knows beforehand what the second costs: {writable:?}");
    });
}
