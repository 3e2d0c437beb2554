//! What is measured for one size of the group.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint_api::{Mode, Phase, ReplicationStatus};

use super::floor::{self, Start};
use super::memory::{Resident, child, resident};
use super::objects::{agent_token, bound_claim, published_ca, running_pod};
use super::pod::Pod;
use super::requests::{self, Requests};
use super::round_trip;
use super::system::System;
use super::volume::Volume;
use crate::namespace::Place;
use crate::replication::{duration, of_claims, replicate};

/// A freeze within a second of another finds the kernel warm; so long it is left alone before each measurement.
const COOL: Duration = Duration::from_millis(1_200);
/// How often the freezer, which lives for a moment only, is looked for.
const GLANCE: Duration = Duration::from_millis(1);

/// A member: a volume, and a pod with a writer and an agent. Dropped in this order: who writes ends before the volume goes.
struct Member {
    name: String,
    pod: Pod,
    volume: Volume,
}

/// A group that grows.
pub struct Group<'a> {
    place: &'a Place,
    system: &'a System,
    directory: &'a Path,
    members: Vec<Member>,
    runs: u64,
}

/// What one repetition showed.
pub struct Sample {
    /// `status.hold.duration`.
    pub hold: Duration,
    /// The longest `suspendedFor` of a member.
    pub suspended: Duration,
    /// From the first ready member to the last.
    pub gathering: Duration,
    /// The longest write of any writer.
    pub stall: Duration,
    /// The floor when the kernel is cold.
    pub cold_floor: Duration,
    /// The floor when every filesystem was frozen just before.
    pub warm_floor: Duration,
}

/// All repetitions with one size of the group.
pub struct Series {
    /// Members.
    pub members: usize,
    /// One per repetition.
    pub samples: Vec<Sample>,
    /// One round trip.
    pub round_trip: Duration,
    /// The controller's requests, of all repetitions.
    pub requests: Requests,
}

impl<'a> Group<'a> {
    /// A group without members.
    pub fn new(place: &'a Place, system: &'a System, directory: &'a Path) -> Self {
        Self { place, system, directory, members: Vec::new(), runs: 0 }
    }

    /// Adds members until there are so many.
    ///
    /// # Errors
    /// A volume, an object or a process cannot be made.
    pub async fn grow(&mut self, members: usize) -> Result<()> {
        let ca = published_ca(self.place).await?;
        for number in self.members.len()..members {
            let name = format!("member-{number}");
            let volume = Volume::new(self.directory, &name)?;
            let mount = volume.mount.to_str().context("the directory for temporary files is not UTF-8")?;
            bound_claim(self.place, &name).await?;
            let pod = running_pod(self.place, &name, mount).await?;
            let agent = self.system.agent(&name, &ca, &agent_token(self.place, &pod).await?)?;
            let pod = Pod::start(&volume.mount, &agent)?;
            self.members.push(Member { name, pod, volume });
        }
        Ok(())
    }

    /// Measures the group as it is. The first replication, in which new agents connect, is not counted.
    ///
    /// # Errors
    /// A replication does not end as Done.
    pub async fn series(&mut self, repetitions: u64, mut progress: impl FnMut(u64)) -> Result<Series> {
        self.check().await?;
        let mut samples = Vec::new();
        let before = requests::settled(&self.place.client()).await?;
        for number in 0..repetitions {
            progress(number);
            samples.push(self.sample().await?);
        }
        let after = requests::settled(&self.place.client()).await?;
        Ok(Series {
            members: self.members.len(),
            samples,
            round_trip: round_trip::measure()?,
            requests: requests::between(&before, &after, repetitions),
        })
    }

    async fn sample(&mut self) -> Result<Sample> {
        let mounts: Vec<&Path> = self.members.iter().map(|member| member.volume.mount.as_path()).collect();
        tokio::time::sleep(COOL).await;
        let cold_floor = floor::measure(&mounts, Start::Cold)?;
        tokio::time::sleep(COOL).await;
        let warm_floor = floor::measure(&mounts, Start::Warm)?;
        tokio::time::sleep(COOL).await;
        self.longest_write()?;
        let status = self.check().await?;
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
            cold_floor,
            warm_floor,
        })
    }

    /// Asks whether the group could be cut: everything of a hold but the snapshots.
    async fn check(&mut self) -> Result<ReplicationStatus> {
        self.runs += 1;
        let claims: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        let mut wanted = of_claims(&format!("run-{}", self.runs), &claims);
        wanted.spec.mode = Mode::Check;
        wanted.spec.replication = None;
        let run = replicate(self.place, &wanted, |_| {}).await?;
        let status = run.status();
        let done = status.phase == Some(Phase::Done);
        ensure!(done, "a replication did not end as Done: {}", serde_json::to_string(&status.conditions)?);
        Ok(status)
    }

    fn longest_write(&mut self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for member in &mut self.members {
            longest = longest.max(member.pod.longest_write()?);
        }
        Ok(longest)
    }

    /// The memory of an agent, and of its freezer during a replication.
    ///
    /// # Errors
    /// There is no agent, or no freezer was seen.
    pub async fn agents_memory(&mut self) -> Result<[Resident; 2]> {
        let first = self.members.first().context("the group has no member")?;
        let agent = first.pod.agent().context("the agent is gone")?;
        let glances = tokio::spawn(async move {
            loop {
                if let Some(freezer) = child(agent, |name| name == "freezer").and_then(|freezer| resident(freezer).ok())
                {
                    return freezer;
                }
                tokio::time::sleep(GLANCE).await;
            }
        });
        self.check().await?;
        ensure!(glances.is_finished(), "the freezer was not seen in time");
        Ok([resident(agent)?, glances.await?])
    }
}

/// The median.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
