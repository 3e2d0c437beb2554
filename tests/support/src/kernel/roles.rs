//! Processes for tests: the test binary starts itself again in a role that `ROLE` names. A role announces itself with
//! `ready <pid>` and ends when its standard input does, so none outlives its test.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::burdens;
use rustix::process::{Pid, WaitOptions, waitpid};
use stillpoint::agent::{dataset, locks};
use stillpoint_core::wire::{Blocker, Container};

/// How long something may take that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process in a role.
pub struct Role {
    child: Child,
    /// Who holds the lock; not always the process that was started.
    pub pid: i32,
    output: BufReader<std::process::ChildStdout>,
}

impl Role {
    /// Starts a role and waits until it is ready. `wrapper` is a command to start it with, like `setpriv …`.
    pub fn start(wrapper: &[&str], role: &str, args: &[&str]) -> Self {
        let mut child = command(wrapper, role, args).spawn().expect("util-linux and the test binary can be started");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let pid = ready(&mut output);
        Self { child, pid, output }
    }

    /// A process that holds a lock: `posix-write`, `posix-read`, `ofd-write`, `flock-write`, `flock-heir`, `flock-mapped`
    /// or `lease-write`.
    pub fn holding(lock: &str, file: &Path) -> Self {
        let role = Self::start(&[], lock, &[super::volume::text(file)]);
        if lock == "flock-heir" {
            // Only a locker that is reaped, too, has no number any more.
            let locker = Pid::from_child(&role.child);
            waitpid(Some(locker), WaitOptions::empty()).expect("the locker ends by itself");
        }
        role
    }

    /// A process that does what it is told, to a file that it makes.
    pub fn hand(file: &Path) -> Self {
        Self::start(&[], "hand", &[super::volume::text(file)])
    }

    /// Tells a hand what to do, and does not wait for it.
    pub fn tell(&mut self, what: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{what}").expect("the role lives");
    }

    /// Waits until a hand is done with one thing.
    pub fn done(&mut self) {
        let mut line = String::new();
        while line != "done\n" {
            line.clear();
            // Not for longer than any thaw takes: at last the pod's rescue would thaw.
            let waited = !self.output.buffer().is_empty() || readable(self.output.get_ref(), PATIENCE);
            assert!(waited, "what the role was told is still not done");
            let read = self.output.read_line(&mut line).expect("a role writes text");
            assert_ne!(read, 0, "the role ended before it was done");
        }
    }

    /// Whether it waits for the thaw of a filesystem.
    pub fn waits_for_a_thaw(&self) -> bool {
        waits_for_a_thaw(self.pid)
    }

    /// Kills it; a process in an uninterruptible wait ends after that.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
    }

    /// What it writes until its end.
    pub fn output(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("a role writes text");
        text
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The end of its output is the end of all processes of the role.
        let _ = self.output.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
    }
}

fn readable(output: impl AsFd, patience: Duration) -> bool {
    let patience = rustix::event::Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&output, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&patience)) == Ok(1)
}

fn command(wrapper: &[&str], role: &str, args: &[&str]) -> Command {
    let binary = std::env::current_exe().expect("the test binary has a path");
    let mut words: Vec<&str> = wrapper.to_vec();
    words.extend([super::volume::text(&binary), "--exact", "role", "--nocapture", "--test-threads=1"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("ROLE", role).env("ROLE_ARGS", args.join("\n"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The pid in the line `ready <pid>`; lines before it are the test harness's.
fn ready(output: &mut impl BufRead) -> i32 {
    let mut seen = String::new();
    for line in output.lines() {
        let line = line.expect("a role writes text");
        if let Some((_, pid)) = line.split_once("ready ") {
            return pid.parse().expect("a pid follows");
        }
        seen += &line;
    }
    panic!("the role ended before it was ready: {seen}");
}

/// Whether a thread of this process waits, uninterruptibly, for the thaw of a filesystem that it writes to.
pub fn waits_for_a_thaw(pid: i32) -> bool {
    threads(pid).any(|task| {
        let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        read("stat").contains(") D ") && read("wchan") == "percpu_rwsem_wait"
    })
}

/// The directories of a process's threads in `/proc`; none when it has ended.
pub fn threads(pid: i32) -> impl Iterator<Item = PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    tasks.flatten().map(|task| task.path())
}

/// Waits for a condition that other processes bring about.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Plays the role that the environment asks for; returns at once in a plain test run.
pub fn play() {
    let Ok(role) = std::env::var("ROLE") else { return };
    let args = std::env::var("ROLE_ARGS").unwrap_or_default();
    let args: Vec<&str> = args.split('\n').collect();
    match role.as_str() {
        "agent" => return agent(Path::new(args[0]), &args[1..]),
        "pod" => return pod(&args),
        "flock-heir" => return flock_then_leave(Path::new(args[0])),
        "leaderless" => return leaderless(Path::new(args[0])),
        "hand" => return hand(Path::new(args[0])),
        "storing" => map(open(Path::new(args[0])), true),
        "wait" => {}
        "watch" => burdens::watch(Path::new(args[0]), number(args[1])),
        "lock-many" => burdens::lock_many(Path::new(args[0]), number(args[1])),
        "fuse" => burdens::mount_fuse(Path::new(args[0])),
        "crowd" => burdens::crowd(number(args[0]), number(args[1])),
        lock => std::mem::forget(take(lock, Path::new(args[0]))),
    }
    announce(std::process::id());
    until_input_ends();
}

fn number(text: &str) -> usize {
    text.parse().expect("it is a number")
}

fn announce(pid: u32) {
    println!("\nready {pid}");
}

fn until_input_ends() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("the file can be made")
}

/// Opens a file and takes a lock on it, of one of the kinds of [`Role::holding`].
pub(super) fn take(lock: &str, path: &Path) -> File {
    let file = open(path);
    let fd = file.as_raw_fd();
    let record = |kind: libc::c_int, start, len| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the record outlives the call.
    let result = unsafe {
        match lock {
            "posix-write" => libc::fcntl(fd, libc::F_SETLK, &record(libc::F_WRLCK, 0, 512)),
            "posix-wait" => {
                // Waits behind another lock for as long as the role lives.
                std::thread::spawn(move || libc::fcntl(fd, libc::F_SETLKW, &record(libc::F_WRLCK, 0, 512)));
                0
            }
            "posix-read" => libc::fcntl(fd, libc::F_SETLK, &record(libc::F_RDLCK, 128, 1)),
            "ofd-write" => libc::fcntl(fd, libc::F_OFD_SETLK, &record(libc::F_WRLCK, 512, 0)),
            "flock-write" => libc::flock(fd, libc::LOCK_EX),
            "flock-mapped" | "flock-storing" => libc::flock(fd, libc::LOCK_EX),
            "lease-write" => libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK),
            other => panic!("there is no role {other}"),
        }
    };
    assert_eq!(result, 0, "{lock} on {path:?}: {}", std::io::Error::last_os_error());
    if lock == "flock-mapped" || lock == "flock-storing" {
        map(file, lock == "flock-storing");
        return File::open("/dev/null").expect("it is there");
    }
    file
}

/// Maps the file and closes it. When `storing`, one thread stores to the mapping all the time and another changes the
/// mapping. While the filesystem is frozen the first waits in a page fault for the thaw, and the second waits for the first
/// with the process's mmap_lock held: whoever reads the process's maps then waits too.
fn map(file: File, storing: bool) {
    const SIZE: usize = 1 << 20;
    file.set_len(SIZE as u64).expect("the file can grow");
    // SAFETY: a new shared mapping at an address of the kernel's choice; it is never unmapped.
    let address = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), SIZE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(address, libc::MAP_FAILED);
    if !storing {
        return;
    }
    let address = address as usize;
    std::thread::spawn(move || {
        loop {
            for page in (0..SIZE).step_by(4096) {
                // SAFETY: within the mapping, which lives as long as the process.
                unsafe { std::ptr::write_volatile((address + page) as *mut u8, 1) };
            }
            // SAFETY: as above. Writing back makes the pages read-only, so that the next store faults.
            unsafe { libc::msync(address as *mut libc::c_void, SIZE, libc::MS_SYNC) };
        }
    });
    std::thread::spawn(move || {
        loop {
            for advice in [libc::MADV_DONTFORK, libc::MADV_DOFORK] {
                // SAFETY: changes what fork(2) does with the mapping, and nothing else.
                unsafe { libc::madvise(address as *mut libc::c_void, SIZE, advice) };
            }
        }
    });
}

/// Takes a flock, passes the descriptor on to a child, and ends.
#[expect(clippy::zombie_processes, reason = "that the child is left behind is the point")]
fn flock_then_leave(path: &Path) {
    let file = take("flock-write", path);
    // SAFETY: the descriptor is open; clearing FD_CLOEXEC passes it on.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    let mut heir = command(&[], "wait", &[]);
    // The heir has the role's own input and output, and so announces itself.
    heir.stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn().expect("the heir can be started");
}

/// Does to one file what it is told, line by line, and says `done` after each. `rename` gives the file its name, as programs
/// do that replace a file at once; until then it is called `*.new`.
fn hand(path: &Path) {
    let new = path.with_extension("new");
    let mut file = open(&new);
    let copy = open(&path.with_extension("copy"));
    announce(std::process::id());
    for line in std::io::stdin().lines() {
        let line = line.expect("a test tells text");
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("write", words) => file.write_all(words.as_bytes()).expect("it can be written"),
            ("rename", _) => std::fs::rename(&new, path).expect("it can be renamed"),
            ("clone", _) => rustix::fs::ioctl_ficlone(&copy, &file).expect("it can be cloned"),
            ("lock", _) => assert_eq!(ofd_lock(&file, libc::F_WRLCK), 0),
            ("unlock", _) => assert_eq!(ofd_lock(&file, libc::F_UNLCK), 0),
            (other, _) => panic!("a hand cannot {other}"),
        }
        println!("\ndone");
    }
}

fn ofd_lock(file: &File, kind: libc::c_int) -> libc::c_int {
    let record = libc::flock { l_type: kind as libc::c_short, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the descriptor is open and the record outlives the call.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &record) }
}

/// Takes an OFD lock in a second thread and ends the first one, as a program whose `main` calls pthread_exit(3) does.
fn leaderless(path: &Path) {
    // SAFETY: the test harness's other thread only waits, so it holds no lock that the child would wait for.
    match unsafe { libc::fork() } {
        0 => {}
        child => {
            assert!(child > 0, "fork: {}", std::io::Error::last_os_error());
            std::process::exit(0);
        }
    }
    let file = take("ofd-write", path);
    std::thread::spawn(move || {
        let _file = file;
        while !std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| stat.contains(") Z ")) {
            std::thread::yield_now();
        }
        announce(std::process::id());
        until_input_ends();
        std::process::exit(0);
    });
    // SAFETY: ends the calling thread only, the first of the process, which holds nothing that is needed.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// As the first process of a pid namespace, like a pod's pause process: starts a holder and then an agent.
fn pod(args: &[&str]) {
    let holder = Role::holding(args[1], &Path::new(args[0]).join("x.db"));
    let agent = Role::start(&[], "agent", &[args[0]]);
    announce(std::process::id());
    println!("{}holder {}", agent.output(), holder.pid);
}

/// Checks the dataset and looks at its locks, and tells what stands in the way.
fn agent(mount_path: &Path, containers: &[&str]) {
    announce(std::process::id());
    let containers: Vec<Container> =
        containers.iter().map(|id| Container { name: "database".into(), id: (*id).to_owned() }).collect();
    let blockers = match dataset::open(mount_path) {
        Ok(dataset) => {
            let look = locks::look(&dataset, &containers, stillpoint_core::locks::Suspension::Writable);
            [dataset::exclusive(&dataset).err().unwrap_or_default(), look.blockers].concat()
        }
        Err(blocker) => vec![blocker],
    };
    for Blocker { reason, pid, message, .. } in blockers {
        println!("blocker {reason} {pid} {message}");
    }
}

/// A container as the agent knows one: a cgroup with an id for a name. Make it before its processes, so that it is
/// dropped after them.
pub struct FakeContainer {
    /// Its id.
    pub id: String,
    hierarchy: PathBuf,
}

impl FakeContainer {
    /// Makes the cgroup, in a mount of the cgroup2 hierarchy at `hierarchy`.
    pub fn new(hierarchy: PathBuf) -> Self {
        super::volume::run("mount", &["-t", "cgroup2", "cgroup2", super::volume::text(&hierarchy)]);
        let container = Self { id: format!("{:0>64}", super::volume::pod_digits()), hierarchy };
        std::fs::create_dir(container.cgroup()).expect("root may make cgroups");
        container
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) {
        std::fs::write(self.cgroup().join("cgroup.procs"), pid.to_string()).expect("root may move processes");
    }

    /// Tells the kernel to stop its processes, or to let them go on (`cgroup.freeze`).
    pub fn freeze(&self, frozen: bool) {
        std::fs::write(self.cgroup().join("cgroup.freeze"), if frozen { "1" } else { "0" })
            .expect("root may freeze it");
    }

    /// Whether all of its processes are stopped.
    pub fn is_frozen(&self) -> bool {
        let events = std::fs::read_to_string(self.cgroup().join("cgroup.events")).expect("the kernel has it");
        events.lines().any(|line| line == "frozen 1")
    }

    fn cgroup(&self) -> PathBuf {
        self.hierarchy.join(format!("cri-containerd-{}.scope", self.id))
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.cgroup().join("cgroup.freeze"), "0");
        let _ = std::fs::remove_dir(self.cgroup());
        let _ = Command::new("umount").arg(&self.hierarchy).output();
    }
}
