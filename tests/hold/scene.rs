//! One agent in its pod, its guardian and its controller, on one volume that somebody writes to.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use stillpoint_core::calls::{Machine, changing};
use stillpoint_core::limits::GUARDIAN_GRACE;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{Attempt, Prepare, Ready, Release, Released, Suspend};

use crate::controller::{Controller, Session};
use crate::volume::{Volume, Writer};

const PROTOTYPE: i32 = Errno::PROTOTYPE.raw_os_error();
/// How long an agent may wait for a member to become clean.
const PREPARE: Duration = Duration::from_secs(5);
/// Rounds after which a disk is too slow for these tests.
const MANY_ROUNDS: u32 = 50;
pub const HOLD: Duration = Duration::from_secs(10);
/// What a busy machine may add to a limit, as for the longest append of the fault injection. Far below [`HOLD`], so that what
/// is given back at once is told from what ends at its limit.
pub const SLACK: Duration = Duration::from_secs(2);

/// Dropped in this order: processes first, then the volume.
pub struct Scene {
    pub agent: Running,
    pub pod: Pod,
    pub guardian: Option<Running>,
    pub session: Session,
    pub controller: Controller,
    pub writer: Writer,
    pub volume: Volume,
}

/// A pid and a mount namespace with a process of their own, as a pod that shares its process namespace has them: they
/// outlive its containers. Killed at the end, with all that runs in it.
pub struct Pod {
    started: Child,
    pub pause_process: Pid,
}

impl Pod {
    fn start() -> Self {
        let mut process = Process::new("unshare");
        process.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"]);
        let started = process.stdin(Stdio::null()).spawn().unwrap();
        let pause_process = || child(Pid::from_child(&started), "sleep");
        until("the pod runs", || pause_process().is_some());
        Self { pause_process: pause_process().unwrap(), started }
    }

    /// Runs a program beside the containers, until the pod ends.
    pub fn runs(&self, words: &[&str]) -> Child {
        let mut process = Process::new("nsenter");
        process.args(["--pid", "--mount", "--target", &self.pause_process.as_raw_nonzero().to_string()]);
        process.args(words).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn container(&self, arguments: &[String]) -> Running {
        let mut process = Process::new("nsenter");
        process.args(["--pid", "--mount", "--target", &self.pause_process.as_raw_nonzero().to_string()]);
        process.arg(env!("CARGO_BIN_EXE_stillpoint")).args(arguments);
        let started = process.stdin(Stdio::null()).spawn().unwrap();
        let inner = || child(Pid::from_child(&started), "stillpoint");
        until("the container runs", || inner().is_some());
        Running { pid: inner().unwrap(), started }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.started.kill();
        let _ = self.started.wait();
    }
}

/// A process of the test, killed at the end.
pub struct Running {
    pub started: Child,
    pub pid: Pid,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
        let mut process = Process::new(env!("CARGO_BIN_EXE_stillpoint"));
        let started = process.args(arguments).stdin(Stdio::null()).spawn().unwrap();
        Self { pid: Pid::from_child(&started), started }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    pub fn ended(&self) -> bool {
        !Path::new(&format!("/proc/{}/fd/0", self.pid.as_raw_nonzero())).exists()
    }

    pub fn freezer(&self) -> Option<Pid> {
        child(self.pid, "freezer")
    }

    pub fn resident_kib(pid: Pid) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.started.kill();
        let _ = self.started.wait();
    }
}

impl Scene {
    pub async fn new(filesystem: &str) -> Self {
        Self::begin(filesystem, true).await
    }

    pub async fn begin(filesystem: &str, guarded: bool) -> Self {
        Self::set_up(Volume::new(filesystem), guarded).await
    }

    /// The agent keeps its records at this place of the volume's directory.
    pub async fn recording_to(filesystem: &str, place: &Path) -> Self {
        let mut volume = Volume::new(filesystem);
        volume.records = volume.directory.join(place);
        Self::set_up(volume, true).await
    }

    async fn set_up(volume: Volume, guarded: bool) -> Self {
        let socket = volume.directory.join("guardian.sock");
        let guardian = guarded.then(|| guardian(&socket));
        let mut controller = Controller::start(&volume.directory).await;
        let pod = Pod::start();
        let agent = pod.container(&agent_arguments(&volume, &controller));
        let session = controller.session().await;
        let writer = Writer::new(&volume.mount);
        Self { agent, pod, guardian, session, controller, writer, volume }
    }

    pub fn guardian(&self) -> &Running {
        self.guardian.as_ref().unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.volume.directory.join("guardian.sock")
    }

    /// The guardian runs in a container of the agent's pod.
    pub fn move_guardian_into_pod(&mut self) {
        self.guardian = None;
        self.guardian = Some(guardian_in(&self.pod, &self.socket(), "pod"));
    }

    /// The guardian runs as on a cluster: it and the agent do not see each other's processes.
    pub fn move_guardian_into_another_pod(&mut self) -> Pod {
        self.guardian = None;
        let pod = Pod::start();
        self.guardian = Some(guardian_in(&pod, &self.socket(), "node"));
        pod
    }

    pub fn restart_guardian(&mut self) {
        self.guardian = None;
        self.guardian = Some(guardian(&self.socket()));
    }

    /// Another pod in the place of this one, which was killed: nothing that lay in it is there any more.
    pub async fn replace_pod(&mut self) {
        fs::remove_dir_all(&self.volume.records).unwrap();
        self.pod = Pod::start();
        self.restart_agent().await;
    }

    /// The agent's container starts again, in the same pod.
    pub async fn restart_agent(&mut self) {
        self.agent = self.pod.container(&agent_arguments(&self.volume, &self.controller));
        self.session = self.controller.session().await;
    }

    pub async fn prepare(&mut self, hold: Duration) -> Report {
        let command = Command::Prepare(Prepare {
            attempt: Some(attempt()),
            claim: "orders".into(),
            mount_path: self.volume.mount.to_str().unwrap().into(),
            containers: vec![],
            prepare_timeout_ms: PREPARE.as_millis().try_into().unwrap(),
            hold_timeout_ms: hold.as_millis().try_into().unwrap(),
            ..Prepare::default()
        });
        self.session.say(command).await;
        self.session.hear().await
    }

    pub async fn suspend(&mut self, round: u32) -> Report {
        self.session.say(Command::Suspend(Suspend { attempt: Some(attempt()), round })).await;
        self.session.hear().await
    }

    pub async fn release(&mut self) -> Released {
        self.session.say(Command::Release(Release { attempt: Some(attempt()) })).await;
        match self.session.hear().await {
            Report::Released(released) => released,
            other => panic!("{other:?}"),
        }
    }

    pub async fn hold(&mut self, limit: Duration) -> Ready {
        let prepared = self.prepare(limit).await;
        assert!(matches!(prepared, Report::Prepared(_)), "{prepared:?}");
        // On a busy disk a flush is not short at once: then there is another round, as the controller would have it.
        for round in 1..MANY_ROUNDS {
            match self.suspend(round).await {
                Report::Ready(ready) => return ready,
                Report::NotReady(refused) if refused.retryable && refused.blockers[0].reason == "TooSlow" => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("it was too slow in every one of {MANY_ROUNDS} rounds");
    }

    /// Writes go on, within the limit of the hold and what may come on top of it, and nothing is left of the freeze.
    pub fn given_back(&self, limit: Duration) -> Duration {
        let took = self.writer.goes_on();
        assert!(took < limit + GUARDIAN_GRACE + SLACK, "suspended for {took:?}");
        // Not by a freeze of our own: a guardian whose thaw has not settled would thaw that one, and take it for what it owes.
        let after = self.volume.mount.join("after");
        let written = std::thread::spawn(move || {
            let mut file = fs::File::create(after)?;
            file.write_all(b"writable")?;
            file.sync_all()
        });
        until("a file can be made", || written.is_finished());
        written.join().unwrap().unwrap();
        took
    }

    pub async fn broken(&mut self, why: &str) {
        let released = self.release().await;
        assert!(!released.unbroken, "{released:?}");
        assert!(released.reason.contains(why), "{released:?}");
    }
}

fn agent_arguments(volume: &Volume, controller: &Controller) -> [String; 11] {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    [
        "agent".to_owned(),
        "--controller".to_owned(),
        controller.address.clone(),
        "--ca-file".to_owned(),
        text(&controller.ca_file),
        "--token-file".to_owned(),
        text(&controller.token_file),
        "--guardian".to_owned(),
        text(&volume.directory.join("guardian.sock")),
        "--record-dir".to_owned(),
        text(&volume.records),
    ]
}

fn guardian(socket: &Path) -> Running {
    let guardian = Running::start(&["guardian", "--socket", socket.to_str().unwrap()]);
    until("the guardian listens", || listens(socket));
    guardian
}

fn guardian_in(pod: &Pod, socket: &Path, scope: &str) -> Running {
    let guardian =
        pod.container(&["guardian", "--scope", scope, "--socket", socket.to_str().unwrap()].map(str::to_owned));
    until("the guardian listens", || listens(socket));
    guardian
}

/// A stream socket is of the wrong type, and only a listener says so.
fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_err_and(|error| error.raw_os_error() == Some(PROTOTYPE))
}

pub fn attempt() -> Attempt {
    Attempt { epoch: 1, replication_uid: "run".into(), number: 1, member: "claim".into() }
}

pub fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The child of a process with this name.
pub fn child(parent: Pid, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).ok()?;
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    let named = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    Pid::from_raw(children.split_whitespace().find(named)?.parse().ok()?)
}

/// Stops a process, and returns when none of its threads can do anything any more.
pub fn stop(process: Pid) {
    kill_process(process, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    until("every thread is stopped", || {
        let mut stats = fs::read_dir(&tasks).unwrap().map(|task| fs::read_to_string(task.unwrap().path().join("stat")));
        stats.all(|stat| stat.is_ok_and(stopped))
    });
}

/// None of them can react to the death of another.
pub fn kill_at_once(processes: &[Pid]) {
    for process in processes {
        stop(*process);
    }
    for process in processes {
        kill_process(*process, Signal::KILL).unwrap();
    }
}

/// Whether a freezer waits inside its freeze, and not in a flush.
pub fn is_freezing(pid: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{}/syscall", pid.as_raw_nonzero())).unwrap_or_default();
    let call = Machine::this().and_then(|machine| changing(machine, &line));
    in_uninterruptible_sleep(pid) && call.is_some_and(|call| call.name == "ioctl")
}

fn in_uninterruptible_sleep(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}
