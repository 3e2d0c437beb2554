//! What a run waits for: the planner's own account, for the status and for logs. Pure.

use std::fmt;

use k8s_openapi::jiff::Timestamp;

use super::agents::AgentRef;
use super::observed::Observed;
use super::replicas::is_usable;
use super::state::{Member, Run, Stage};
use stillpoint_api::Phase;

/// What a run that has not ended waits for. Shown as half a sentence.
#[derive(Clone, Debug, PartialEq)]
pub enum WaitingFor {
    /// The status that declares the attempt is to be stored.
    Declaration,
    /// This agent is to connect.
    Connection(AgentRef),
    /// Agents look.
    Looks,
    /// Agents suspend.
    Suspension,
    /// Every member holds, and what is next has begun.
    Hold,
    /// Agents are to resume, because a member was not ready in this round.
    Resumption(u32),
    /// The pause between two rounds is to be over.
    Round(u32),
    /// Replicas are to be cut; the value is what was said last is wrong with one.
    Cuts(Option<String>),
    /// Agents are to say that they resumed.
    Releases,
    /// Replicas are to become usable.
    Usable {
        /// Since when the cut is proven.
        since: Option<Timestamp>,
        /// How many of how many are.
        usable: (usize, usize),
        /// What the storage system said last is wrong with one.
        trouble: Option<String>,
    },
    /// The proof is to be written onto the replicas.
    Marks,
    /// Everything is being resumed and removed, for this reason.
    CleanUp(String),
    /// Nothing: the run has ended.
    Nothing,
}

impl WaitingFor {
    /// What this run waits for.
    pub fn of(run: &Run, observed: &Observed) -> Self {
        match &run.stage {
            Stage::Declaring => Self::Declaration,
            Stage::Preparing => {
                let mut agents = run.assignments().map(|(_, one)| &one.agent);
                let absent = agents.find(|agent| !observed.connected.contains(&agent.key()));
                absent.map_or(Self::Looks, |agent| Self::Connection(agent.clone()))
            }
            Stage::Suspending if run.phase() == Phase::Ready => Self::Hold,
            Stage::Suspending => Self::Suspension,
            Stage::Pausing { .. } if run.members.iter().any(Member::may_be_suspended) => Self::Resumption(run.round),
            Stage::Pausing { .. } => Self::Round(run.round),
            Stage::Cutting => Self::Cuts(run.replica_trouble.clone()),
            Stage::Releasing { .. } => Self::Releases,
            Stage::AwaitingUsable { .. } if run.members.iter().all(is_usable) => Self::Marks,
            Stage::AwaitingUsable { .. } => {
                let usable = run.members.iter().filter(|member| is_usable(member)).count();
                let since = run.hold_ended.map(|at| at.wall);
                Self::Usable { since, usable: (usable, run.members.len()), trouble: run.replica_trouble.clone() }
            }
            Stage::Abandoning { .. } | Stage::Listening | Stage::Ended => match &run.verdict {
                Some(verdict) => Self::CleanUp(verdict.message.clone()),
                None => Self::Nothing,
            },
        }
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declaration => f.write_str("the members are known; no agent was asked yet"),
            Self::Connection(agent) => write!(f, "waiting for {agent} to connect"),
            Self::Looks => f.write_str("agents look whether anything stands in the way; writes go on"),
            Self::Suspension => f.write_str("writes are being suspended"),
            Self::Hold => f.write_str("every member is suspended and holds"),
            Self::Resumption(round) => {
                write!(f, "a member was not ready in round {round}; writes are being given back")
            }
            Self::Round(round) => {
                write!(f, "a member was not ready in round {round}; writes go on until the next round")
            }
            Self::Cuts(trouble) => {
                f.write_str("every member holds; replicas are being cut")?;
                trouble.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
            }
            Self::Releases => f.write_str("writes are being given back"),
            Self::Usable { since, usable: (usable, all), trouble } => {
                f.write_str("the cut is proven and writes go on; replicas are becoming usable")?;
                since.iter().try_for_each(|since| write!(f, " since {since:.0}"))?;
                write!(f, " ({usable} of {all} are)")?;
                trouble.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
            }
            Self::Marks => {
                f.write_str("the cut is proven and every replica can be used; the proof is being written onto them")
            }
            Self::CleanUp(why) => write!(f, "{why}. Everything is being given back."),
            Self::Nothing => f.write_str("the run has ended"),
        }
    }
}
