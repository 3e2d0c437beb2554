//! Processes of containers, for tests that kill one. They are found in this machine's /proc, so the cluster's nodes must be
//! on this machine, as those of the test cluster and of a local kind are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::Place;

/// A container's first process.
pub struct Process(Pid);

impl Process {
    /// The first process of an init container (such as a native sidecar) that runs.
    ///
    /// # Errors
    /// The container does not run, or not on this machine.
    pub async fn of_sidecar(place: &Place, pod: &str, container: &str) -> Result<Self> {
        let found = place.api::<Pod>().get(pod).await?;
        let statuses = found.status.and_then(|status| status.init_container_statuses).unwrap_or_default();
        let status = statuses.into_iter().find(|status| status.name == container);
        let id = status.and_then(|status| status.container_id);
        let id = id.with_context(|| format!("container {container} of pod {pod} has no id"))?;
        let id = id.rsplit('/').next().unwrap_or_default();
        first_process(id).with_context(|| format!("container {container} of pod {pod} ({id}) is not on this machine"))
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill(&self) -> Result<()> {
        kill_process(self.0, Signal::KILL).context("cannot kill the container's process")
    }
}

/// The process in the container's control group whose parent is outside. Only cgroup and status are read: other files of
/// /proc/PID, such as environ, can hang while a filesystem is suspended.
fn first_process(container: &str) -> Option<Process> {
    let mut first = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|_| is_in(&entry.path(), container)) else { continue };
        if !parent(&entry.path()).is_some_and(|parent| is_in(&Path::new("/proc").join(parent), container)) {
            first = Some(Process(pid));
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
