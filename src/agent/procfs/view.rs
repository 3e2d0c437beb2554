//! What the agent can see: the processes of its pod, each with the mounts of its mount namespace.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stillpoint_api::Reason;

use super::mountinfo::{self, Mount};
use super::{Device, cgroup, numbers, read, stat, vanished};
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::MAX_PROCESSES;
use stillpoint_core::wire::Blocker;

/// A process that the agent can look into.
pub struct Process {
    /// Its id in the agent's pid namespace.
    pub pid: i32,
    /// Its first thread, whose id is that of the process; another of its threads when the first has ended.
    pub thread: i32,
    /// The directory of that thread in `/proc`.
    pub dir: PathBuf,
    /// The mounts that it sees. Processes of one mount namespace share the table.
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
    /// a file open.
    ///
    /// Safe while a filesystem is suspended: reads only links, stat and mountinfo.
    pub fn gather() -> Self {
        let mut view = Self { processes: Vec::new(), blind: Vec::new() };
        let pids = match numbers(Path::new("/proc"), MAX_PROCESSES) {
            Ok(pids) => pids,
            Err(error) => {
                let message = format!("the agent cannot list the pod's processes (at most {MAX_PROCESSES}): {error}");
                view.blind.push(blocker(Reason::Blind, &message));
                return view;
            }
        };
        let mut tables = HashMap::new();
        let mut hidden = Vec::new();
        for pid in pids {
            match find(pid, &mut tables) {
                Ok(Some(process)) => view.processes.push(process),
                Ok(None) => {}
                Err(error) => hidden.push((pid, error)),
            }
        }
        view.blind.extend(blind_to("the mounts", &hidden));
        view
    }

    /// One table of mounts per mount namespace that is in view.
    pub fn mount_tables(&self) -> Vec<Arc<[Mount]>> {
        let mut tables: Vec<Arc<[Mount]>> = Vec::new();
        for process in &self.processes {
            if !tables.iter().any(|table| Arc::ptr_eq(table, &process.mounts)) {
                tables.push(Arc::clone(&process.mounts));
            }
        }
        tables
    }
}

/// The blocker for processes that the agent may not look into; `what` says at what. `None` when there are none.
pub fn blind_to(what: &str, hidden: &[(i32, io::Error)]) -> Option<Blocker> {
    let (pid, error) = hidden.first()?;
    let others = match hidden.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let message = format!(
        "the agent cannot look into {what} of process {pid}{others}: {error}; it may hold a lock. The agent's container \
         needs the capability SYS_PTRACE, and Linux before 5.14 DAC_READ_SEARCH too"
    );
    Some(Blocker { pid: *pid, ..blocker(Reason::Blind, &message) })
}

type Tables = HashMap<(PathBuf, PathBuf), Arc<[Mount]>>;

/// `None`: the process has ended, or is a thread of the kernel.
fn find(pid: i32, tables: &mut Tables) -> io::Result<Option<Process>> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    match mounts(&dir, tables) {
        Ok(mounts) => Ok(Some(Process { pid, thread: pid, dir, mounts })),
        Err(error) => match read(&dir.join("stat")).ok().and_then(|bytes| stat::parse(&bytes)) {
            None => Ok(None),
            Some(stat) if stat.kernel_thread => Ok(None),
            Some(stat) if stat.zombie => Ok((stat.threads > 1).then(|| living_thread(pid, tables)).flatten()),
            Some(_) if vanished(&error) => Ok(None),
            Some(_) => Err(error),
        },
    }
}

/// A process whose first thread has ended shows neither mounts nor descriptors, but each of its other threads does.
fn living_thread(pid: i32, tables: &mut Tables) -> Option<Process> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    numbers(&tasks, MAX_PROCESSES).ok()?.into_iter().find_map(|thread| {
        let dir = tasks.join(thread.to_string());
        mounts(&dir, tables).ok().map(|mounts| Process { pid, thread, dir, mounts })
    })
}

/// The mounts of a process. mountinfo shows those below its root directory, so a table is shared by the processes that
/// have both the namespace and the root directory in common.
fn mounts(dir: &Path, tables: &mut Tables) -> io::Result<Arc<[Mount]>> {
    let key = (std::fs::read_link(dir.join("ns/mnt"))?, std::fs::read_link(dir.join("root"))?);
    if let Some(table) = tables.get(&key) {
        return Ok(Arc::clone(table));
    }
    let table = mountinfo::parse(&read(&dir.join("mountinfo"))?)
        .ok_or_else(|| io::Error::other("its table of mounts is not understood"))?;
    let table: Arc<[Mount]> = table.into();
    tables.insert(key, Arc::clone(&table));
    Ok(table)
}
