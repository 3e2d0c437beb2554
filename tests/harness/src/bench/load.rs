//! A controller with many connected agents and many runs at once: its memory and its processor time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::fleet::Fleet;
use super::memory::{Resident, processor_time, resident};
use super::runs;
use super::system::System;
use super::version::Version;

/// Members of one namespace; a controller accepts 1,000.
const PER_NAMESPACE: usize = 100;
/// How long the connected agents are left alone, to see what keeping their sessions costs.
const IDLE: Duration = Duration::from_secs(10);
/// How long until what a stage left to be done is done: last answers, events, what is freed.
const CALM: Duration = Duration::from_secs(2);
/// How often all runs are asked for; memory that grows again the second time is not reused.
const BATCHES: usize = 2;
/// Until all runs of a batch have ended.
const LIMIT: Duration = Duration::from_secs(600);

/// So much load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connected agents.
    pub agents: usize,
    /// Runs at once. Together they have all agents as members.
    pub runs: usize,
}

/// The controller after a stage.
pub struct Stage {
    /// What had happened.
    pub what: String,
    /// Its memory.
    pub memory: Resident,
    /// Its processor time since its start.
    pub processor: Duration,
    /// How long the stage took by the wall.
    pub took: Duration,
}

/// Starts the controller of a version anew, loads it, and looks at it after every stage. `progress` is told what happens.
///
/// # Errors
/// The controller cannot be run or refuses an agent, a run does not end as Done, or a session ends.
pub async fn measure(version: &Version, directory: &Path, load: Load, progress: impl Fn(&str)) -> Result<Vec<Stage>> {
    let system = System::start(version, directory)?;
    let namespaces = load.agents.div_ceil(PER_NAMESPACE).min(load.runs).max(1);
    let mut fleet = Fleet::new(version, namespaces, load.agents, |done| progress(&format!("{done} pods made"))).await?;
    let mut stages = Stages::begin(&system);
    stages.end("no agent".to_owned()).await?;
    fleet.connect(system.port, |done| progress(&format!("{done} agents connected"))).await?;
    stages.end(format!("{} agents connected", load.agents)).await?;
    progress("left alone");
    tokio::time::sleep(IDLE).await;
    stages.end(format!("left alone for {} s", IDLE.as_secs())).await?;
    for batch in 0..BATCHES {
        let wanted = fleet.groups(&format!("batch-{batch}"), load.runs, runs::check);
        let client = &version.cluster.client;
        runs::until_done(client, &wanted, LIMIT, |done| progress(&format!("{done} runs done"))).await?;
        fleet.expect_connected()?;
        stages.end(format!("{}{} runs at once", if batch == 0 { "" } else { "again " }, load.runs)).await?;
    }
    Ok(stages.seen)
}

/// The stages of one controller process.
pub(super) struct Stages<'a> {
    system: &'a System,
    /// Those that have ended.
    pub seen: Vec<Stage>,
    began: Instant,
}

impl<'a> Stages<'a> {
    /// Begins the first one.
    pub fn begin(system: &'a System) -> Self {
        Self { system, seen: Vec::new(), began: Instant::now() }
    }

    /// Ends one when the controller is calm, and begins the next.
    pub async fn end(&mut self, what: String) -> Result<()> {
        let took = self.began.elapsed();
        tokio::time::sleep(CALM).await;
        let controller = self.system.controller.pid();
        let (memory, processor) = (resident(controller)?, processor_time(controller)?);
        self.seen.push(Stage { what, memory, processor, took });
        self.began = Instant::now();
        Ok(())
    }
}
