//! The hold, for one size of the group.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint_api::{Mode, Phase, ReplicationStatus};

use super::floor::{self, Start};
use super::memory::{Resident, child, resident};
use super::objects::{agent_token, bound_claim, published_ca, running_pod, service_account};
use super::pod::Pod;
use super::round_trip;
use super::system::System;
use super::version::Version;
use super::volume::Volume;
use crate::namespace::Place;
use crate::replication::{duration, of_claims, replicate};

/// A freeze within a second of another finds the kernel warm; so long it is left alone before each measurement.
const COOL: Duration = Duration::from_millis(1_200);
/// How often the freezer, which lives for a moment only, is looked for.
const GLANCE: Duration = Duration::from_millis(1);

/// A member: a volume, and a pod with a writer and an agent of every version. Dropped in this order: who writes ends before
/// the volume goes.
struct Member {
    name: String,
    pod: Pod,
    volume: Volume,
}

/// One version: its controller and guardian, and the objects of the group on its API server.
struct Side {
    label: &'static str,
    place: Place,
    ca: String,
    system: System,
    runs: u64,
}

/// A group that grows. Every version has its own agents and objects; the filesystems and their writers are the same.
pub struct Group<'a> {
    // First, so that the agents end before those that they talk to.
    members: Vec<Member>,
    sides: Vec<Side>,
    directory: &'a Path,
}

/// What one repetition showed of one version.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `status.hold.duration`.
    pub hold: Duration,
    /// The longest `suspendedFor` of a member.
    pub suspended: Duration,
    /// From the first ready member to the last.
    pub gathering: Duration,
    /// The longest write of any writer.
    pub stall: Duration,
}

/// One repetition: the floor, and right after it every version.
pub struct Repetition {
    /// The floor when the kernel is cold.
    pub cold_floor: Duration,
    /// The floor when every filesystem was frozen just before.
    pub warm_floor: Duration,
    /// The versions, in the order of [`Group::labels`].
    pub samples: Vec<Sample>,
}

/// All repetitions with one size of the group.
pub struct Series {
    /// Members.
    pub members: usize,
    /// What they showed.
    pub repetitions: Vec<Repetition>,
    /// One round trip.
    pub round_trip: Duration,
}

impl Series {
    /// What one version showed, repetition for repetition.
    pub fn of(&self, version: usize, value: impl Fn(&Sample) -> Duration) -> Vec<Duration> {
        self.repetitions.iter().filter_map(|repetition| repetition.samples.get(version).map(&value)).collect()
    }
}

/// The processes of one version.
pub struct Processes {
    /// Of which version.
    pub label: &'static str,
    /// Their names and their memory.
    pub memory: Vec<(&'static str, Resident)>,
}

impl<'a> Group<'a> {
    /// Starts controllers and guardians of these versions, for a group without members.
    ///
    /// # Errors
    /// A program cannot be run, or its controller does not come to lead.
    pub async fn new(versions: &[Version], directory: &'a Path) -> Result<Self> {
        let mut sides = Vec::new();
        for version in versions {
            let system = System::start(version, &directory.join(format!("hold-{}", version.label)))?;
            let place = Place::new(&version.cluster, "bench").await?;
            service_account(&place).await?;
            let ca = published_ca(&place).await?;
            sides.push(Side { label: version.label, place, ca, system, runs: 0 });
        }
        Ok(Self { members: Vec::new(), sides, directory })
    }

    /// The versions.
    pub fn labels(&self) -> Vec<&'static str> {
        self.sides.iter().map(|side| side.label).collect()
    }

    /// Adds members until there are so many.
    ///
    /// # Errors
    /// A volume, an object or a process cannot be made.
    pub async fn grow(&mut self, members: usize) -> Result<()> {
        for number in self.members.len()..members {
            let name = format!("member-{number}");
            let volume = Volume::new(self.directory, &name)?;
            let mount = volume.mount.to_str().context("the directory for temporary files is not UTF-8")?;
            let mut agents = Vec::new();
            for side in &self.sides {
                agents.push(side.join(&name, mount).await?);
            }
            let pod = Pod::start(&volume.mount, &agents)?;
            self.members.push(Member { name, pod, volume });
        }
        Ok(())
    }

    /// Measures the group as it is. The first replication of every version, in which new agents connect, is not counted.
    ///
    /// # Errors
    /// A replication does not end as Done.
    pub async fn series(&mut self, count: u64, mut progress: impl FnMut(u64)) -> Result<Series> {
        for version in 0..self.sides.len() {
            self.check(version).await?;
        }
        let mut repetitions = Vec::new();
        for number in 0..count {
            progress(number);
            repetitions.push(self.repetition(number).await?);
        }
        Ok(Series { members: self.members.len(), repetitions, round_trip: round_trip::measure()? })
    }

    async fn repetition(&mut self, number: u64) -> Result<Repetition> {
        let mounts: Vec<&Path> = self.members.iter().map(|member| member.volume.mount.as_path()).collect();
        tokio::time::sleep(COOL).await;
        let cold_floor = floor::measure(&mounts, Start::Cold)?;
        tokio::time::sleep(COOL).await;
        let warm_floor = floor::measure(&mounts, Start::Warm)?;
        // In turns: none of the versions always comes first.
        let mut order: Vec<usize> = (0..self.sides.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        let mut samples = Vec::new();
        for version in order {
            samples.push((version, self.sample(version).await?));
        }
        samples.sort_by_key(|(version, _)| *version);
        Ok(Repetition { cold_floor, warm_floor, samples: samples.into_iter().map(|(_, sample)| sample).collect() })
    }

    async fn sample(&mut self, version: usize) -> Result<Sample> {
        tokio::time::sleep(COOL).await;
        self.longest_write()?;
        let status = self.check(version).await?;
        let stall = self.longest_write()?;
        let hold = status.hold.as_ref().context("the status shows no hold")?;
        let all_ready = status.phases.iter().find(|entry| entry.phase == Phase::Ready).context("it was never Ready")?;
        let gathering = all_ready.started_at.0.duration_since(hold.started_at.0);
        let suspended = status.members.iter().filter_map(|member| member.suspended_for.as_ref().map(duration));
        Ok(Sample {
            hold: hold.duration.as_ref().map(duration).context("the hold has no duration")?,
            suspended: suspended.max().context("no member says how long it was suspended")?,
            gathering: Duration::try_from(gathering).unwrap_or_default(),
            stall,
        })
    }

    /// Asks a version whether the group could be cut: everything of a hold but the snapshots.
    async fn check(&mut self, version: usize) -> Result<ReplicationStatus> {
        let side = &mut self.sides[version];
        side.runs += 1;
        let claims: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        let mut wanted = of_claims(&format!("run-{}", side.runs), &claims);
        wanted.spec.mode = Mode::Check;
        wanted.spec.replication = None;
        let run = replicate(&side.place, &wanted, |_| {}).await?;
        let status = run.status();
        let done = status.phase == Some(Phase::Done);
        let conditions = serde_json::to_string(&status.conditions)?;
        ensure!(done, "a replication of the {} version did not end as Done: {conditions}", side.label);
        Ok(status)
    }

    fn longest_write(&mut self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for member in &mut self.members {
            longest = longest.max(member.pod.longest_write()?);
        }
        Ok(longest)
    }

    /// The memory of every version: of its controller, its guardian, one agent, and that agent's freezer during a replication.
    ///
    /// # Errors
    /// There is no agent, or no freezer was seen.
    pub async fn memory(&mut self) -> Result<Vec<Processes>> {
        let mut all = Vec::new();
        for version in 0..self.sides.len() {
            let [agent, freezer] = self.agents_memory(version).await?;
            let side = &self.sides[version];
            let (controller, guardian) =
                (resident(side.system.controller.pid())?, resident(side.system.guardian.pid())?);
            let memory =
                vec![("controller", controller), ("agent", agent), ("its freezer", freezer), ("guardian", guardian)];
            all.push(Processes { label: side.label, memory });
        }
        Ok(all)
    }

    async fn agents_memory(&mut self, version: usize) -> Result<[Resident; 2]> {
        let first = self.members.first().context("the group has no member")?;
        let agent = *first.pod.agents().get(version).context("the agent is gone")?;
        let glances = tokio::spawn(async move {
            loop {
                if let Some(freezer) = child(agent, "freezer").and_then(|freezer| resident(freezer).ok()) {
                    return freezer;
                }
                tokio::time::sleep(GLANCE).await;
            }
        });
        self.check(version).await?;
        ensure!(glances.is_finished(), "the freezer was not seen in time");
        Ok([resident(agent)?, glances.await?])
    }
}

impl Side {
    /// Makes the objects of a member, and the command of its agent.
    async fn join(&self, name: &str, mount: &str) -> Result<Vec<String>> {
        bound_claim(&self.place, name).await?;
        let pod = running_pod(&self.place, name, mount).await?;
        self.system.agent(name, &self.ca, &agent_token(&self.place, &pod).await?)
    }
}

/// The median.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
