//! Processes as /proc shows them.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// All that is resident, the program's own pages from its file included.
    pub all: u64,
    /// What it allocated.
    pub anonymous: u64,
}

/// The memory of a process.
///
/// # Errors
/// It has ended.
pub fn resident(pid: Pid) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let field = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let read = || Some(Resident { all: field("VmRSS:")?, anonymous: field("RssAnon:")? });
    read().context("the process has ended")
}

/// The first child of a process whose name is one of those wanted.
pub fn child(parent: Pid, wanted: impl Fn(&str) -> bool) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).ok()?;
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    let named = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| wanted(comm.trim()));
    Pid::from_raw(children.split_whitespace().find(named)?.parse().ok()?)
}
