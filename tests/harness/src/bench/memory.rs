//! Processes as /proc shows them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// The unit of times in /proc/PID/stat: USER_HZ, which is 100 on x86-64 and on arm64.
const TICK: Duration = Duration::from_millis(10);

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// All that is resident, the program's own pages from its file included.
    pub all: u64,
    /// What it allocated.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak: u64,
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
    let read = || Some(Resident { all: field("VmRSS:")?, anonymous: field("RssAnon:")?, peak: field("VmHWM:")? });
    read().context("the process has ended")
}

/// The children of a process, in the order in which each of its threads started them.
pub fn children(parent: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())) else { return Vec::new() };
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The first child of a process that has this name.
pub fn child(parent: Pid, wanted: &str) -> Option<Pid> {
    let named = |pid: &Pid| {
        fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).is_ok_and(|comm| comm.trim() == wanted)
    };
    children(parent).into_iter().find(named)
}

/// The processor time that a process took so far, of all its threads, in user and in kernel mode. It is exact to
/// a [`TICK`].
///
/// # Errors
/// It has ended.
pub fn processor_time(pid: Pid) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let ticks = ticks(&stat).context("the process has no times")?;
    Ok(ticks * TICK)
}

/// The sum of utime and stime, fields 14 and 15. The second one, the name, may have blanks and parentheses in it.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn the_name_of_a_process_does_not_move_its_times() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 200 0 0 31 11 5 6 20 0 4 0 100";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (short) S 1"), None);
    }
}
