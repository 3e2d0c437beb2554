//! Processes of containers, for tests that kill or stop one. They are found in this machine's /proc, so the cluster's nodes
//! must be on this machine, as those of the test cluster and of a local kind are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::namespace::Place;

/// Field 22 of /proc/PID/stat, counted from the first one after the command's name; see proc_pid_stat(5).
const START_TIME: usize = 19;

/// One process, told by its id and the time at which it began: ids come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    started: u64,
}

impl Process {
    /// The process that has this id now.
    ///
    /// # Errors
    /// There is none.
    pub fn of_pid(pid: i32) -> Result<Self> {
        let started = started(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, started })
    }

    /// The first process of an init container (such as a native sidecar) that runs.
    ///
    /// # Errors
    /// The container does not run, or not on this machine.
    pub async fn of_sidecar(place: &Place, pod: &str, container: &str) -> Result<Self> {
        Self::of_container(&place.api::<Pod>().get(pod).await?, container)
    }

    /// The first process of a container of any kind.
    ///
    /// # Errors
    /// The container does not run, or not on this machine.
    pub fn of_container(pod: &Pod, container: &str) -> Result<Self> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let id = container_id(pod, container)?;
        first_process(&id).with_context(|| format!("container {container} of pod {name} ({id}) is not on this machine"))
    }

    /// A child of this process, whichever of its threads started it.
    ///
    /// # Errors
    /// It has none.
    pub fn child(&self) -> Result<Self> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let first = children.filter_map(|all| all.split_whitespace().next()?.parse().ok()).next();
        Self::of_pid(first.with_context(|| format!("process {} has no child", self.pid))?)
    }

    /// Its id, as this machine sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Stops it, until [`Process::resume`].
    ///
    /// # Errors
    /// It is gone.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::stop`].
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(started(self.pid) == Some(self.started), "process {} is gone", self.pid);
        let pid = Pid::from_raw(self.pid).context("no id of a process")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to process {}", self.pid))
    }
}

/// The id of a container of a pod, of any kind, as its runtime calls it.
///
/// # Errors
/// It was not started yet.
pub fn container_id(pod: &Pod, container: &str) -> Result<String> {
    let status = pod.status.clone().unwrap_or_default();
    let mut statuses = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    let id = statuses.find(|status| status.name == container).and_then(|status| status.container_id);
    let id = id.with_context(|| format!("container {container} of pod {:?} has no id", pod.metadata.name))?;
    Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
}

/// The process in the container's control group whose parent is outside. Only files of /proc/PID are read that cannot hang
/// while a filesystem is suspended, as environ can.
fn first_process(container: &str) -> Option<Process> {
    let mut first = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|_| is_in(&entry.path(), container)) else { continue };
        if !parent(&entry.path()).is_some_and(|parent| is_in(&Path::new("/proc").join(parent), container)) {
            first = Process::of_pid(pid).ok();
        }
    }
    first
}

fn is_in(process: &Path, container: &str) -> bool {
    fs::read_to_string(process.join("cgroup")).is_ok_and(|groups| groups.contains(container))
}

fn parent(process: &Path) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")).map(|parent| parent.trim().to_owned())
}

/// When a process began, in clock ticks since the machine did.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(START_TIME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn a_process_is_told_by_id_and_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let here = Process::of_pid(id() as i32).unwrap();
        let there = Process::of_pid(child.id() as i32).unwrap();
        let namesake = Process { started: here.started, ..there.clone() };
        assert!(there.started >= here.started);
        assert_eq!(namesake.kill().is_err(), namesake != there, "another process of the same id is left alone");
        there.stop().unwrap();
        there.resume().unwrap();
        assert_eq!(here.child().unwrap(), there, "started by the thread of this test");
        there.kill().unwrap();
        child.wait().unwrap();
        assert!(there.kill().is_err());
    }
}
