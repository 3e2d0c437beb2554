//! What the agent can see: the processes of its pod, each with the mounts of its mount namespace.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stillpoint_api::Reason;

use super::mountinfo::{self, Mount};
use super::{Device, cgroup, each_line, each_number, read, stat, vanished};
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::{MAX_MOUNTS, MAX_PROCESSES};
use stillpoint_core::wire::Blocker;

/// A process that the agent can look into.
pub struct Process {
    /// Its id in the agent's pid namespace.
    pub pid: i32,
    /// Its first thread, whose id is that of the process; another of its threads when the first has ended.
    pub thread: i32,
    /// The directory of that thread in `/proc`.
    pub dir: PathBuf,
    /// The mounts that it sees, as far as they were wanted. Processes of one mount namespace share the table.
    pub mounts: Arc<[Mount]>,
}

impl Process {
    /// Whether a mount of this device is in its mount namespace.
    pub fn mounts_device(&self, device: Device) -> bool {
        self.mounts.iter().any(|mount| mount.device == device)
    }

    /// Its name: at most 15 bytes by the kernel's rule; empty when it has ended.
    pub fn name(&self) -> String {
        let comm = read(&self.dir.join("comm")).unwrap_or_default();
        String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned()
    }

    /// The ids of the containers that it runs in, outermost first; none when it has ended.
    pub fn container_ids(&self) -> Vec<String> {
        let cgroup = read(&self.dir.join("cgroup")).unwrap_or_default();
        cgroup::container_ids(&String::from_utf8_lossy(&cgroup)).into_iter().map(str::to_owned).collect()
    }
}

/// All that the agent can see at one moment, and where it is blind.
pub struct View {
    /// The processes that it can look into.
    pub processes: Vec<Process>,
    /// Why that may not be all; at most two blockers.
    pub blind: Vec<Blocker>,
}

impl View {
    /// Looks at every process in `/proc`. Kernel threads and processes that end meanwhile are left out: neither can hold
    /// a file open. Of their mounts those are kept that are `wanted`.
    ///
    /// Safe while a filesystem is suspended: reads only links, stat and mountinfo.
    pub fn gather(wanted: impl Fn(&Mount) -> bool) -> Self {
        let mut view = Self { processes: Vec::new(), blind: Vec::new() };
        let mut tables = Tables { wanted, known: HashMap::new(), buffer: Vec::new() };
        let mut hidden = Vec::new();
        let listed = each_number(Path::new("/proc"), |pid| {
            match tables.find(pid) {
                Ok(Some(process)) => view.processes.push(process),
                Ok(None) => {}
                Err(error) => hidden.push((pid, error)),
            }
            if view.processes.len() + hidden.len() > MAX_PROCESSES {
                return Err(io::Error::other(format!("there are more than {MAX_PROCESSES}")));
            }
            Ok(())
        });
        if let Err(error) = listed {
            let message = format!("the agent cannot look at all of the pod's processes: {error}");
            view.blind.push(blocker(Reason::Blind, &message));
        }
        view.blind.extend(blind_to("the mounts", &hidden));
        view
    }
}

/// The blocker for processes that the agent may not look into; `what` says at what. `None` when there are none.
pub fn blind_to(what: &str, hidden: &[(i32, io::Error)]) -> Option<Blocker> {
    let (pid, error) = hidden.first()?;
    let others = match hidden.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". The agent's container needs the capability SYS_PTRACE, and Linux before 5.14 DAC_READ_SEARCH too"
        }
        _ => "",
    };
    let message =
        format!("the agent cannot look into {what} of process {pid}{others}: {error}; it may hold a lock{remedy}");
    Some(Blocker { pid: *pid, ..blocker(Reason::Blind, &message) })
}

/// The tables of mounts that were read, each once.
struct Tables<Wanted> {
    wanted: Wanted,
    /// By namespace and root directory: mountinfo shows the mounts below the root directory of a process, so a table is shared
    /// by the processes that have both in common.
    known: HashMap<(PathBuf, PathBuf), Arc<[Mount]>>,
    buffer: Vec<u8>,
}

impl<Wanted: Fn(&Mount) -> bool> Tables<Wanted> {
    /// `None`: the process has ended, or is a thread of the kernel.
    fn find(&mut self, pid: i32) -> io::Result<Option<Process>> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        match self.mounts(&dir) {
            Ok(mounts) => Ok(Some(Process { pid, thread: pid, dir, mounts })),
            Err(error) => match read(&dir.join("stat")).ok().and_then(|bytes| stat::parse(&bytes)) {
                None => Ok(None),
                Some(stat) if stat.kernel_thread => Ok(None),
                Some(stat) if stat.zombie => Ok((stat.threads > 1).then(|| self.living_thread(pid)).flatten()),
                Some(_) if vanished(&error) => Ok(None),
                Some(_) => Err(error),
            },
        }
    }

    /// A process whose first thread has ended shows neither mounts nor descriptors, but each of its other threads does.
    fn living_thread(&mut self, pid: i32) -> Option<Process> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let mut found = None;
        // Broken off by an error when it is found.
        let _ = each_number(&tasks, |thread| {
            let dir = tasks.join(thread.to_string());
            let Ok(mounts) = self.mounts(&dir) else { return Ok(()) };
            found = Some(Process { pid, thread, dir, mounts });
            Err(io::ErrorKind::Other.into())
        });
        found
    }

    fn mounts(&mut self, dir: &Path) -> io::Result<Arc<[Mount]>> {
        let key = (std::fs::read_link(dir.join("ns/mnt"))?, std::fs::read_link(dir.join("root"))?);
        if let Some(table) = self.known.get(&key) {
            return Ok(Arc::clone(table));
        }
        let table: Arc<[Mount]> = mounts(File::open(dir.join("mountinfo"))?, &mut self.buffer, &self.wanted)?.into();
        self.known.insert(key, Arc::clone(&table));
        Ok(table)
    }
}

/// The wanted mounts of a table, at most [`MAX_MOUNTS`].
///
/// # Errors
/// There are more, a line is not understood, or the table cannot be read.
pub fn mounts(table: File, buffer: &mut Vec<u8>, wanted: impl Fn(&Mount) -> bool) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let wrong = each_line(table, buffer, |line| {
        let Some(mount) = mountinfo::parse_line(line) else {
            return ControlFlow::Break("its table of mounts is not understood".to_owned());
        };
        if wanted(&mount) {
            mounts.push(mount);
        }
        match mounts.len() {
            0..=MAX_MOUNTS => ControlFlow::Continue(()),
            _ => ControlFlow::Break(format!("it has more than {MAX_MOUNTS} mounts")),
        }
    })?;
    wrong.map_or(Ok(mounts), |wrong| Err(io::Error::other(wrong)))
}
