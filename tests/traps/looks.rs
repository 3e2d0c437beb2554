//! What a look for locks can miss, and what it must not touch.

use std::time::Duration;

use stillpoint::agent::dataset;
use stillpoint::agent::procfs::{Device, mountinfo};
use stillpoint_core::limits::LOOK_TIMEOUT;
use stillpoint_core::locks::Suspension;

use crate::looking::{look_at, only};
use crate::roles::{FakeContainer, Role, threads, until};
use crate::scene::{HOLD, Scene, on_a_node, words};
use crate::stuck::StuckWrite;
use crate::volume::{FILESYSTEMS, Frozen, Volume, bind, in_a_pod, run, scratch_dir, text};

const OWN_PID_NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
const OTHER_USER: [&str; 4] = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"];

#[test]
#[ignore = "needs root and loop devices"]
fn trap_05_the_device_of_a_btrfs_is_the_one_of_its_mounts() {
    in_a_pod(|| {
        let volume = Volume::new("btrfs");
        let subvolume = volume.file("vol");
        run("btrfs", &["subvolume", "create", text(&subvolume)]);
        let at = scratch_dir("at");
        bind(&subvolume, &at);
        let mounts = mountinfo::parse(&std::fs::read("/proc/thread-self/mountinfo").unwrap()).unwrap();
        let listed = mounts.iter().find(|mount| mount.mount_point == at).unwrap().device;
        assert_eq!(dataset::open(&at).unwrap().device, listed);

        let by_stat = rustix::fs::stat(&at).unwrap().st_dev;
        let by_stat = Device { major: rustix::fs::major(by_stat), minor: rustix::fs::minor(by_stat) };
        assert_ne!(by_stat, listed, "this kernel no longer shows why stat(2) is not to be asked");
        let holder = Role::holding("posix-write", &at.join("x"));
        assert_eq!(only(look_at(&at, Suspension::Suspended)).pid, holder.pid);
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_05_repeated_inodes_of_btrfs_subvolumes_are_told_apart() {
    in_a_pod(|| {
        let volume = Volume::new("btrfs");
        for subvolume in ["a", "b"] {
            run("btrfs", &["subvolume", "create", text(&volume.file(subvolume))]);
        }
        let _holders = ["a/x", "b/x"].map(|file| Role::holding("ofd-write", &volume.file(file)));
        let inode = |file| rustix::fs::stat(volume.file(file)).unwrap().st_ino;
        assert_eq!(inode("a/x"), inode("b/x"), "this kernel no longer repeats them");
        let found = look_at(&volume.path, Suspension::Suspended);
        let paths: Vec<&str> = found.blockers.iter().map(|blocker| blocker.path.as_str()).collect();
        assert_eq!(paths, ["a/x", "b/x"], "{found:?}");
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_06_an_agent_in_a_pid_namespace_of_its_own_is_blind() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let container = FakeContainer::new(scratch_dir("cgroup"));
        for lock in ["posix-write", "flock-write", "ofd-write"] {
            let holder = Role::holding(lock, &volume.file("x.db"));
            container.add(holder.pid);
            let words = Role::start(&OWN_PID_NAMESPACE, "agent", &[text(&volume.path), &container.id]).output();
            if lock == "ofd-write" {
                assert!(
                    words.contains("LockHeld 0 a process that is not visible to the agent holds an OFD"),
                    "{words}"
                );
            } else {
                assert!(!words.contains("LockHeld"), "this kernel no longer hides the lock: {words}");
            }
            assert!(
                words.contains("blocker Blind 0 the agent sees only the processes of its own container"),
                "{words}"
            );
            assert!(words.contains("blocker Blind 0 the agent sees no process of container database"), "{words}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_07_a_flock_outlives_its_locker_and_its_descriptor() {
    in_a_pod(|| {
        for filesystem in FILESYSTEMS {
            let volume = Volume::new(filesystem);
            let heir = Role::holding("flock-heir", &volume.file("x.db"));
            for when in [Suspension::Writable, Suspension::Suspended] {
                let blocker = only(look_at(&volume.path, when));
                assert_eq!((blocker.pid, blocker.path.as_str()), (heir.pid, "x.db"), "{filesystem}");
            }
            drop(heir);

            let mapper = Role::holding("flock-mapped", &volume.file("y.db"));
            let blocker = only(look_at(&volume.path, Suspension::Writable));
            assert_eq!((blocker.pid, blocker.path.as_str()), (mapper.pid, "y.db"), "{filesystem}");
            // Without the mappings the process is known by the lock's record, and the file by its inode only.
            let blocker = only(look_at(&volume.path, Suspension::Suspended));
            assert_eq!((blocker.pid, blocker.path.as_str()), (mapper.pid, ""), "{filesystem}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_07_a_flock_whose_locker_has_ended_is_found_in_a_nested_pid_namespace() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let words = Role::start(&OWN_PID_NAMESPACE, "pod", &[text(&volume.path), "flock-heir"]).output();
        let (_, heir) = words.split_once("\nholder ").unwrap_or_else(|| panic!("{words}"));
        let heir = heir.lines().next().unwrap();
        assert!(words.contains(&format!("blocker LockHeld {heir} process {heir} ")), "{words}");
        assert!(!words.contains("Blind"), "{words}");
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_07_an_ofd_lock_has_no_pid_and_its_holder_is_named() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let holder = Role::holding("ofd-write", &volume.file("x.db"));
        let inode = rustix::fs::stat(volume.file("x.db")).unwrap().st_ino;
        let table = std::fs::read_to_string("/proc/locks").unwrap();
        let mut lines = table.lines().filter(|line| line.contains(&format!(":{inode} ")));
        assert!(lines.any(|line| line.contains("OFDLCK") && line.contains(" -1 ")), "{table}");
        for when in [Suspension::Writable, Suspension::Suspended] {
            let blocker = only(look_at(&volume.path, when));
            assert_eq!((blocker.pid, blocker.path.as_str()), (holder.pid, "x.db"));
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_08_a_look_at_a_frozen_filesystem_does_not_hang() {
    in_a_pod(|| {
        for filesystem in FILESYSTEMS {
            let volume = Volume::new(filesystem);
            let storing = Role::holding("flock-storing", &volume.file("x.db"));
            let frozen = Frozen::new(&volume);
            until("the process waits with its mmap_lock held", || stuck_threads(storing.pid) == 2);
            // In a thread of this one's mount namespace. Detached, so that the test ends even if the look does not.
            let (send, found) = std::sync::mpsc::channel();
            let path = volume.path.clone();
            std::thread::spawn(move || send.send(look_at(&path, Suspension::Suspended)));
            let (send, command_line) = std::sync::mpsc::channel();
            let dir = format!("/proc/{}/cmdline", storing.pid);
            std::thread::spawn(move || send.send(std::fs::read(dir)));

            let found = found.recv_timeout(HOLD);
            let read = command_line.try_recv();
            drop(frozen);
            assert_eq!(only(found.expect("the look returns")).pid, storing.pid, "{filesystem}");
            assert!(read.is_err(), "{filesystem}: this kernel no longer shows what a look must not read");
        }
    });
}

/// How many threads of the process wait uninterruptibly: for the thaw, or for a thread that does.
fn stuck_threads(pid: i32) -> usize {
    let stuck = |stat: String| stat.contains(") D ");
    threads(pid).filter(|task| std::fs::read_to_string(task.join("stat")).is_ok_and(stuck)).count()
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_08_a_hold_with_such_a_process_is_ready_in_time() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let storing = Role::start(&[], "storing", &[text(&scene.volume.file("x.db"))]);
            scene.prepared(HOLD).await;
            let ready = scene.suspended().await;
            // One that waited for that process would end at its limit.
            assert!(Duration::from_micros(ready.suspended_us) < LOOK_TIMEOUT, "{filesystem}: {ready:?}");
            until("the process waits with its mmap_lock held", || stuck_threads(storing.pid) == 2);
            scene.unbroken().await;
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_09_half_a_record_whose_lock_goes_during_the_freeze_is_seen_before_it() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let mut application = Role::hand(&scene.volume.file("x"));
        scene.prepared(HOLD).await;
        for what in ["lock", "write half a rec"] {
            application.tell(what);
            application.done();
        }
        // A freeze would not complete before the lock is dropped.
        let stuck = StuckWrite::new(&scene.volume.path);
        scene.begin_to_suspend().await;
        let refused = tokio::time::timeout(HOLD, scene.refused()).await;
        application.tell("unlock");
        application.done();
        stuck.finish();
        let refused = refused.expect("a freeze was begun although the first look finds a lock");
        assert!(words(&refused.blockers).contains("LockHeld: process"), "{refused:?}");
        assert!(!scene.is_frozen());
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_09_a_lock_taken_during_the_freeze_is_seen_after_it() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let mut application = Role::hand(&scene.volume.file("x"));
            scene.prepared(HOLD).await;
            let stuck = StuckWrite::unseen(&scene.volume.path);
            scene.begin_to_suspend().await;
            scene.until_the_freeze_is_pending();
            // Locks are taken while every write waits.
            application.tell("lock");
            application.done();
            application.tell("write half a rec");
            until("the write waits", || application.waits_for_a_thaw());
            stuck.finish();
            let refused = scene.refused().await;
            let words = words(&refused.blockers);
            assert!(words.starts_with(&format!("LockHeld: process {} ", application.pid)), "{filesystem}: {words}");
            assert!(refused.retryable);
            application.done();
            assert!(!scene.is_frozen(), "{filesystem}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_14_an_agent_without_sys_ptrace_is_blind() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let file = volume.file("x.db");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(65532), Some(65532)).unwrap();
        let _holder = Role::start(&OTHER_USER, "ofd-write", &[text(&file)]);
        let words = Role::start(&["setpriv", "--bounding-set=-sys_ptrace"], "agent", &[text(&volume.path)]).output();
        let line = |start: &str| words.lines().any(|line| line.starts_with(start));
        assert!(line("blocker Blind 0 the agent's container lacks the capability SYS_PTRACE"), "{words}");
        assert!(words.contains("the agent cannot look into"), "{words}");
        assert!(line("blocker LockHeld 0 a process that is not visible to the agent holds an OFD"), "{words}");
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_14_processes_that_cannot_be_looked_into_are_not_taken_for_none() {
    on_a_node(async || {
        let mut scene = Scene::with_agent("ext4", &["setpriv", "--bounding-set=-sys_ptrace"]).await;
        let _innocent = Role::start(&OTHER_USER, "wait", &[]);
        let path = scene.volume.path.clone();
        let refused = crate::scene::refusal(scene.prepare_at(&path, HOLD, HOLD).await);
        let words = words(&refused.blockers);
        assert!(words.contains("Blind: the agent's container lacks the capability SYS_PTRACE"), "{words}");
        assert!(words.contains("Blind: the agent cannot look into the mounts of process"), "{words}");
        assert!(!refused.retryable, "{refused:?}");
    });
}
