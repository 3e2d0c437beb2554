//! An agent and a guardian as real processes, and a controller that says what the test wants, on a volume.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stillpoint::fsfreeze;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{Attempt, Blocker, NotReady, Prepare, Ready, Release, Released, Suspend};

use crate::controller::{Controller, Session};
use crate::roles::until;
use crate::volume::{Volume, in_a_pod, scratch_dir, text};

/// Longer than any test waits.
pub const HOLD: Duration = Duration::from_secs(20);
/// What a busy machine may add to a limit.
pub const SLACK: Duration = Duration::from_secs(2);
/// Starts an agent in a pod of its own, with another process as process 1.
pub const IN_ITS_POD: [&str; 8] =
    ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\"$0\" \"$@\" & wait $!"];

/// Runs a test that talks to agents, in a pod that stands for a node.
pub fn on_a_node<T: Future<Output = ()>>(test: impl FnOnce() -> T) {
    in_a_pod(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test())
    });
}

/// A role of the binary as a process, killed at the end.
pub struct Program {
    child: Child,
    /// The binary's process, below the wrapper's.
    pub pid: Pid,
}

impl Program {
    pub fn start(wrapper: &[&str], args: &[&str]) -> Self {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_stillpoint")], args].concat();
        let child = Process::new(words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
        let started = Pid::from_child(&child);
        until("the program runs", || descendant(started, "stillpoint").is_some());
        Self { pid: descendant(started, "stillpoint").unwrap(), child }
    }

    pub fn guardian(socket: &Path) -> Self {
        let guardian = Self::start(&[], &["guardian", "--socket", text(socket)]);
        let unix = || std::fs::read_to_string("/proc/net/unix").unwrap();
        until("the guardian listens", || unix().lines().any(|line| line.ends_with(text(socket))));
        guardian
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }

    /// Process 1 of the pod of a program that was started with [`IN_ITS_POD`].
    pub fn first_of_its_pod(&self) -> Pid {
        children(Pid::from_child(&self.child)).next().unwrap()
    }

    /// Kills its pod: with process 1, the kernel kills every process of the namespace.
    pub fn kill_pod(&self) {
        kill_process(self.first_of_its_pod(), Signal::KILL).unwrap();
    }

    /// The agent's freezer process.
    pub fn freezer(&self) -> Option<Pid> {
        descendant(self.pid, "freezer")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Dropped in this order: whoever could freeze, then whoever thaws, then the filesystem.
pub struct Scene {
    pub agent: Program,
    pub guardian: Program,
    pub session: Session,
    _controller: Controller,
    pub volume: Volume,
    _thaw: ThawAtTheEnd,
}

/// By its path: a descriptor would keep it from being unmounted.
struct ThawAtTheEnd(PathBuf);

impl Drop for ThawAtTheEnd {
    fn drop(&mut self) {
        let _ = std::fs::File::open(&self.0).map(fsfreeze::thaw);
    }
}

impl Scene {
    pub async fn new(filesystem: &str) -> Self {
        Self::with_agent(filesystem, &[]).await
    }

    /// With an agent that is started by `wrapper`.
    pub async fn with_agent(filesystem: &str, wrapper: &[&str]) -> Self {
        let volume = Volume::new(filesystem);
        let directory = scratch_dir("scene");
        let socket = directory.join("guardian.sock");
        let guardian = Program::guardian(&socket);
        let mut controller = Controller::start(&directory).await;
        let agent = Program::start(
            wrapper,
            &[
                "agent",
                "--controller",
                &controller.address,
                "--ca-file",
                text(&controller.ca_file),
                "--token-file",
                text(&controller.token_file),
                "--guardian",
                text(&socket),
                "--record-dir",
                text(&directory.join("records")),
            ],
        );
        let session = controller.session().await;
        let thaw = ThawAtTheEnd(volume.path.clone());
        Self { agent, guardian, session, _controller: controller, volume, _thaw: thaw }
    }

    /// Prepares what is mounted at `path`; every path is a member of its own.
    pub async fn prepare_at(&mut self, path: &Path, wait: Duration, hold: Duration) -> Report {
        let command = Command::Prepare(Prepare {
            attempt: Some(attempt(path)),
            claim: "orders".into(),
            mount_path: text(path).into(),
            containers: vec![],
            prepare_timeout_ms: wait.as_millis().try_into().unwrap(),
            hold_timeout_ms: hold.as_millis().try_into().unwrap(),
            ..Prepare::default()
        });
        self.session.say(command).await;
        self.session.hear().await
    }

    pub async fn prepared(&mut self, hold: Duration) {
        let path = self.volume.path.clone();
        let report = self.prepare_at(&path, HOLD, hold).await;
        assert!(matches!(report, Report::Prepared(_)), "{report:?}");
    }

    /// Tells the agent to suspend, and does not wait for its answer.
    pub async fn begin_to_suspend(&mut self) {
        self.session.say(Command::Suspend(Suspend { attempt: Some(attempt(&self.volume.path)), round: 1 })).await;
    }

    pub async fn suspended(&mut self) -> Ready {
        self.begin_to_suspend().await;
        match self.session.hear().await {
            Report::Ready(ready) => ready,
            other => panic!("{other:?}"),
        }
    }

    /// Holds, for at most `limit`.
    pub async fn hold(&mut self, limit: Duration) {
        self.prepared(limit).await;
        self.suspended().await;
        assert!(self.is_frozen());
    }

    pub async fn release(&mut self) -> Released {
        self.session.say(Command::Release(Release { attempt: Some(attempt(&self.volume.path)) })).await;
        match self.session.hear().await {
            Report::Released(released) => released,
            other => panic!("{other:?}"),
        }
    }

    /// Releases a hold that must be whole.
    pub async fn unbroken(&mut self) {
        let released = self.release().await;
        assert!(released.unbroken, "{released:?}");
        assert!(!self.is_frozen());
    }

    /// Releases a hold that is void, for this reason.
    pub async fn broken(&mut self, why: &str) {
        let released = self.release().await;
        assert!(!released.unbroken && released.reason.contains(why), "{released:?}");
    }

    /// Hears that the member is not ready.
    pub async fn refused(&mut self) -> NotReady {
        refusal(self.session.hear().await)
    }

    /// Waits until the freeze is under way, and kept from completing by a stuck writer.
    pub fn until_the_freeze_is_pending(&self) {
        let in_freeze = |pid: Pid| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
            // The kernel's function that waits for writers; compilers add to its name.
            read("stat").is_ok_and(|stat| stat.contains(") D "))
                && read("wchan").is_ok_and(|wchan| wchan.starts_with("freeze_super"))
        };
        until("the freezer waits in the kernel", || self.agent.freezer().is_some_and(in_freeze));
    }

    pub fn is_frozen(&self) -> bool {
        is_frozen(&self.volume)
    }
}

/// The kernel has no such question; but it refuses to freeze twice.
pub fn is_frozen(volume: &Volume) -> bool {
    let root = volume.root();
    match fsfreeze::freeze(&root) {
        Ok(()) => {
            fsfreeze::thaw(&root).unwrap();
            false
        }
        Err(rustix::io::Errno::BUSY) => true,
        Err(errno) => panic!("{errno}"),
    }
}

pub fn refusal(report: Report) -> NotReady {
    match report {
        Report::NotReady(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The reasons, messages and paths of blockers, one per line.
pub fn words(blockers: &[Blocker]) -> String {
    blockers.iter().map(|blocker| format!("{}: {}\n", blocker.reason, blocker.message)).collect()
}

/// The UID of the claim that is mounted at `path`: the path, with what a UID may be made of.
fn claim_uid(path: &Path) -> String {
    text(path).replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
}

fn attempt(path: &Path) -> Attempt {
    Attempt { epoch: 1, replication_uid: "run".into(), number: 1, member: claim_uid(path) }
}

fn children(parent: Pid) -> impl Iterator<Item = Pid> {
    let lists = crate::roles::threads(parent.as_raw_nonzero().get());
    let lists: String = lists.filter_map(|task| std::fs::read_to_string(task.join("children")).ok()).collect();
    let pids: Vec<Pid> = lists.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    pids.into_iter()
}

/// This process, or one below it, that has this name.
fn descendant(pid: Pid, name: &str) -> Option<Pid> {
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    if comm.trim_end() == name { Some(pid) } else { children(pid).find_map(|child| descendant(child, name)) }
}
