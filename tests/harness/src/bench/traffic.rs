//! What a run asks of the API server, with scripted members.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::fleet::Fleet;
use super::requests::{self, Requests};
use super::runs;
use super::snapshotter::{self, OWN_REQUEST, Snapshotter};
use super::system::System;
use super::version::Version;

/// Until a run has ended.
const LIMIT: Duration = Duration::from_secs(180);

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With a VolumeSnapshot for every member.
    Replicate,
    /// Without.
    Check,
}

/// What runs of one size asked for, per run.
pub struct Count {
    /// Members.
    pub members: usize,
    /// Requests of all runs together.
    pub requests: Requests,
    /// So many runs.
    pub runs: u64,
}

impl Count {
    /// Requests of one kind per run.
    pub fn of(&self, kind: &str) -> f64 {
        *self.requests.get(kind).unwrap_or(&0) as f64 / self.runs as f64
    }

    /// All requests per run.
    pub fn total(&self) -> f64 {
        self.requests.values().sum::<u64>() as f64 / self.runs as f64
    }
}

/// One version with its controller and members.
pub struct Traffic<'a> {
    version: &'a Version,
    fleet: Fleet,
    _snapshotter: Snapshotter,
    _system: System,
    runs: u64,
}

impl<'a> Traffic<'a> {
    /// Starts the controller and connects so many members.
    ///
    /// # Errors
    /// The controller cannot be run, or the API server refuses.
    pub async fn start(version: &'a Version, directory: &Path, members: usize) -> Result<Self> {
        let system = System::start(version, directory)?;
        let mut fleet = Fleet::new(version, 1, members, |_| {}).await?;
        fleet.connect(system.port, |_| {}).await?;
        let snapshotter = snapshotter::play(fleet.place());
        let mut traffic = Self { version, fleet, _snapshotter: snapshotter, _system: system, runs: 0 };
        // The first run may be asked for before the controller leads and the watch of snapshots has begun.
        traffic.run(Kind::Replicate, 1).await?;
        Ok(traffic)
    }

    /// Counts some runs of this size.
    ///
    /// # Errors
    /// A run does not end as Done, or the API server shows no counts.
    pub async fn count(&mut self, kind: Kind, members: usize, runs: u64) -> Result<Count> {
        let client = self.version.cluster.client.clone();
        let before = requests::settled(&client).await?;
        for _ in 0..runs {
            self.run(kind, members).await?;
        }
        let after = requests::settled(&client).await?;
        let mut requests = requests::between(&before, &after, runs);
        requests.remove(OWN_REQUEST);
        self.fleet.expect_connected()?;
        Ok(Count { members, requests, runs })
    }

    async fn run(&mut self, kind: Kind, members: usize) -> Result<()> {
        self.runs += 1;
        let spec: fn(&[String]) -> Value = if kind == Kind::Check { runs::check } else { runs::replicate };
        let wanted = [self.fleet.group(&format!("run-{}", self.runs), members, spec)];
        let done = runs::until_done(&self.version.cluster.client, &wanted, LIMIT, |_| {}).await;
        done.with_context(|| format!("a run of the {} version (has it another CRD? see --help)", self.version.label))?;
        Ok(())
    }
}
