//! Many members: claims, pods and scripted agents, spread over namespaces.

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};

use stillpoint_core::limits::MAX_MEMBERS;

use super::objects::{agent_token, bound_claim, published_ca, running_pod, service_account};
use super::runs::Wanted;
use super::scripted::{Script, ScriptedAgent};
use super::version::Version;
use crate::namespace::Place;

/// Members that are made at the same time. A controller takes 128 connections from one address before they are proven.
const TOGETHER: usize = 16;
/// Where the agents of these pods mount their claims; nobody looks.
const MOUNT_PATH: &str = "/stillpoint/data";

/// Who is to become a member: its claim and its pod exist.
struct Member {
    /// Which of the namespaces.
    place: usize,
    token: String,
}

/// Members whose agents may be connected.
pub struct Fleet {
    places: Vec<(Place, String)>,
    members: Vec<Member>,
    agents: Vec<ScriptedAgent>,
}

impl Fleet {
    /// Makes the namespaces, and `members` claims and pods spread over them. No agent is connected yet. `progress` is told how
    /// many there are.
    ///
    /// # Errors
    /// The API server refuses, or no controller publishes its CA.
    pub async fn new(
        version: &Version,
        namespaces: usize,
        members: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let mut places = Vec::new();
        for _ in 0..namespaces {
            let place = Place::new(&version.cluster, "bench").await?;
            service_account(&place).await?;
            let ca = published_ca(&place).await?;
            places.push((place, ca));
        }
        let made = stream::iter(0..members).map(|number| {
            let place = number % namespaces;
            let name = claim(number / namespaces);
            make(&places[place].0, place, name)
        });
        let mut made = made.buffered(TOGETHER);
        let mut all = Vec::new();
        while let Some(member) = made.try_next().await? {
            all.push(member);
            progress(all.len());
        }
        drop(made);
        Ok(Self { places, members: all, agents: Vec::new() })
    }

    /// Connects the agents of all members with the controller on this port.
    ///
    /// # Errors
    /// The controller refuses one.
    pub async fn connect(&mut self, port: u16, progress: impl FnMut(usize)) -> Result<()> {
        self.connect_as(Script::Obeys, port, progress).await
    }

    /// The same with agents that follow this script.
    ///
    /// # Errors
    /// The controller refuses one.
    pub async fn connect_as(&mut self, script: Script, port: u16, mut progress: impl FnMut(usize)) -> Result<()> {
        let dial = |member: &'_ Member| {
            let (ca, token) = (self.places[member.place].1.clone(), member.token.clone());
            async move { ScriptedAgent::connect(port, &ca, &token, script).await }
        };
        let mut connected = stream::iter(self.members.iter().map(dial)).buffer_unordered(TOGETHER);
        let mut agents = Vec::new();
        while let Some(agent) = connected.try_next().await? {
            agents.push(agent);
            progress(agents.len());
        }
        drop(connected);
        self.agents = agents;
        Ok(())
    }

    /// Makes sure that no session has ended.
    ///
    /// # Errors
    /// Some have.
    pub fn expect_connected(&self) -> Result<()> {
        let lost = self.agents.iter().filter(|agent| !agent.is_connected()).count();
        ensure!(lost == 0, "{lost} of {} sessions have ended", self.agents.len());
        Ok(())
    }

    /// Replications called `NAME-NUMBER`, each of members of one namespace, no member in two, and all of the same size: the
    /// largest one that the members are enough for.
    pub fn groups(&self, name: &str, count: usize, spec: impl Fn(&[String]) -> serde_json::Value) -> Vec<Wanted> {
        let namespaces = self.places.len();
        let size = (self.members.len() / namespaces / count.div_ceil(namespaces)).min(MAX_MEMBERS);
        let wanted = |number: usize| {
            let first = number / namespaces * size;
            let claims: Vec<String> = (first..first + size).map(claim).collect();
            Wanted {
                namespace: self.places[number % namespaces].0.name.clone(),
                name: format!("{name}-{number}"),
                spec: spec(&claims),
            }
        };
        (0..count).map(wanted).collect()
    }

    /// A replication of the first members of the first namespace.
    pub fn group(&self, name: &str, size: usize, spec: impl Fn(&[String]) -> serde_json::Value) -> Wanted {
        let claims: Vec<String> = (0..size).map(claim).collect();
        Wanted { namespace: self.places[0].0.name.clone(), name: name.to_owned(), spec: spec(&claims) }
    }

    /// The CA that the first namespace was given, and the token of the first member's pod.
    pub fn credentials(&self) -> (&str, &str) {
        (&self.places[0].1, &self.members[0].token)
    }

    /// The first namespace.
    pub fn place(&self) -> &Place {
        &self.places[0].0
    }
}

fn claim(number: usize) -> String {
    format!("member-{number}")
}

async fn make(place: &Place, index: usize, name: String) -> Result<Member> {
    bound_claim(place, &name).await?;
    let pod = running_pod(place, &name, MOUNT_PATH).await?;
    Ok(Member { place: index, token: agent_token(place, &pod).await? })
}
