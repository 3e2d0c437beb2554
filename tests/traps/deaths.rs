//! Whoever freezes may die, and so may whoever was to thaw.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, test_kill_process};
use stillpoint::fsfreeze;
use stillpoint::guardian::client::Guardian;
use stillpoint::guardian::protocol::Answer;
use stillpoint::undo::Undo;
use stillpoint_core::limits::GUARDIAN_GRACE;

use crate::roles::{Role, threads, until, waits_for_a_thaw};
use crate::scene::{HOLD, IN_ITS_POD, Program, SLACK, Scene, is_frozen, on_a_node};
use crate::stuck::StuckWrite;
use crate::volume::{FILESYSTEMS, Volume, scratch_dir, text};

#[test]
#[ignore = "needs root and loop devices"]
fn trap_01_the_guardian_thaws_a_freeze_that_completes_after_its_caller_was_killed() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::with_agent(filesystem, &IN_ITS_POD).await;
            scene.prepared(HOLD).await;
            let mut writer = Role::hand(&scene.volume.file("x"));
            let stuck = StuckWrite::unseen(&scene.volume.path);
            scene.begin_to_suspend().await;
            scene.until_the_freeze_is_pending();
            writer.tell("write record");
            until("other writers wait too", || writer.waits_for_a_thaw());
            assert_eq!(fsfreeze::thaw(scene.volume.root()), Err(Errno::INVAL), "a pending freeze cannot be thawed");

            let freezer = scene.agent.freezer().unwrap();
            scene.agent.kill_pod();
            until("the guardian has thawed in vain, more than once", {
                let before = switches(scene.guardian.pid);
                let guardian = scene.guardian.pid;
                move || switches(guardian) >= before + 5
            });
            assert!(test_kill_process(freezer).is_ok(), "the caller is killed, and still there");
            stuck.finish();
            writer.done();
            until("the caller is gone", || test_kill_process(freezer).is_err());
            assert!(!scene.is_frozen(), "{filesystem}");
        }
    });
}

/// How often the guardian's threads for connections have waited; each thaw that is repeated is one more.
fn switches(guardian: Pid) -> u64 {
    let guards = threads(guardian.as_raw_nonzero().get()).filter_map(|task| {
        let status = std::fs::read_to_string(task.join("status")).ok().filter(|status| status.contains("\tguard\n"))?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    });
    guards.sum()
}

/// What an agent is to the guardian: a connection, and a process that freezes.
struct Member {
    volume: Volume,
    root: OwnedFd,
    freezer: Child,
    guardian: Option<Guardian>,
}

impl Member {
    /// Guarded, armed, and then frozen.
    async fn frozen(filesystem: &str, socket: &Path, limit: Duration) -> Self {
        let volume = Volume::new(filesystem);
        let root = volume.root();
        let freezer = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&freezer), PidfdFlags::empty()).unwrap();
        let guardian = Guardian::engage(socket, "orders", Undo::Thaw, &root, &process).unwrap();
        guardian.arm(7, limit).unwrap();
        assert_eq!(guardian.answer().await.unwrap(), Answer::Armed { ticket: 7 });
        fsfreeze::freeze(&root).unwrap();
        Self { volume, root, freezer, guardian: Some(guardian) }
    }

    /// Every process of it is gone.
    fn die(&mut self) {
        self.freezer.kill().unwrap();
        self.guardian = None;
    }

    fn is_frozen(&self) -> bool {
        is_frozen(&self.volume)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = fsfreeze::thaw(&self.root);
        let _ = self.freezer.kill();
        let _ = self.freezer.wait();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_02_a_guardian_gives_back_what_a_dead_agent_left_frozen_and_no_more() {
    on_a_node(async || {
        let socket = scratch_dir("guardian").join("guardian.sock");
        let _guardian = Program::guardian(&socket);
        for filesystem in FILESYSTEMS {
            let mut dead = Member::frozen(filesystem, &socket, HOLD).await;
            let other = Member::frozen(filesystem, &socket, HOLD).await;
            dead.die();
            until("the guardian thaws", || !dead.is_frozen());
            assert!(other.is_frozen(), "{filesystem}: the hold of the other goes on");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_02_a_killed_pod_ends_although_a_writer_in_it_cannot_be_killed() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::with_agent(filesystem, &IN_ITS_POD).await;
            let pod = scene.agent.first_of_its_pod();
            let in_the_pod = ["nsenter", "--target", &pod.to_string(), "--pid", "--mount"];
            let mut writer = Role::start(&in_the_pod, "hand", &[text(&scene.volume.file("x"))]);
            scene.hold(HOLD).await;
            writer.tell("write record");
            until("a process waits for the thaw", || {
                let processes = std::fs::read_dir("/proc").unwrap();
                let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
                pids.into_iter().any(waits_for_a_thaw)
            });
            scene.agent.kill_pod();
            until("the last process of the pod is gone", || test_kill_process(pod).is_err());
            assert!(!scene.is_frozen(), "{filesystem}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_02_a_guardian_gives_back_what_a_stopped_agent_keeps_past_its_limit() {
    on_a_node(async || {
        let socket = scratch_dir("guardian").join("guardian.sock");
        let _guardian = Program::guardian(&socket);
        for filesystem in FILESYSTEMS {
            let limit = Duration::from_millis(300);
            let begun = Instant::now();
            // Connected, its freezer alive, and silent.
            let stopped = Member::frozen(filesystem, &socket, limit).await;
            let frozen = Instant::now();
            until("the guardian thaws", || !stopped.is_frozen());
            assert!(begun.elapsed() >= limit + GUARDIAN_GRACE, "{filesystem}: thawed too early");
            let took = frozen.elapsed();
            assert!(took < limit + GUARDIAN_GRACE + SLACK, "{filesystem}: thawed after {took:?}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_02_an_agent_learns_at_once_that_its_guardian_was_killed() {
    on_a_node(async || {
        let socket = scratch_dir("guardian").join("guardian.sock");
        let guardian = Program::guardian(&socket);
        let member = Member::frozen("ext4", &socket, HOLD).await;
        guardian.signal(Signal::KILL);
        let answer = tokio::time::timeout(HOLD, member.guardian.as_ref().unwrap().answer()).await;
        assert!(answer.expect("the end of the connection is told").is_err());
        // And with nobody to thaw, no other hold begins.
        let volume = Volume::new("ext4");
        let process = pidfd_open(Pid::from_child(&member.freezer), PidfdFlags::empty()).unwrap();
        let engaged = Guardian::engage(&socket, "orders", Undo::Thaw, &volume.root(), &process);
        assert!(engaged.is_err_and(|why| why.contains("does not answer")));
    });
}
