//! What happened in a run, said once by the planner: log lines, Events, metrics and traces are made of it. Plain data.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use stillpoint_api::{Blocker, ClaimReference, Phase, ReplicationStatus};

use super::conditions::CLEANED_UP;
use crate::limits::MAX_BLOCKERS;

/// Something that people are told.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// The run came to another stage.
    Stage {
        /// Number of the attempt.
        attempt: u32,
        /// Number of the round.
        round: u32,
        /// The stage.
        stage: &'static str,
    },
    /// A phase began.
    Began {
        /// Number of the attempt.
        attempt: u32,
        /// The phase.
        phase: Phase,
        /// What the condition `Ready` says of it.
        message: Option<String>,
    },
    /// A blocker was seen for the first time.
    Blocked {
        /// Number of the attempt.
        attempt: u32,
        /// In which phase.
        phase: Phase,
        /// The member.
        claim: ClaimReference,
        /// What stands in its way.
        blocker: Box<Blocker>,
    },
    /// Replicas that were to be removed are still there.
    Left {
        /// Why, for programs.
        reason: String,
        /// Which, and why, for people.
        message: String,
    },
}

impl Happened {
    /// A phase began, as a status shows it.
    pub fn began(status: &ReplicationStatus) -> Option<Self> {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let message = ready.map(|ready| ready.message.clone());
        Some(Self::Began { attempt: status.attempt, phase: status.phase?, message })
    }

    /// Something is left, as the conditions show it.
    pub fn left(conditions: &[Condition]) -> Option<Self> {
        let left = conditions.iter().find(|one| one.type_ == CLEANED_UP && one.status == "False")?;
        Some(Self::Left { reason: left.reason.clone(), message: left.message.clone() })
    }

    /// Whether a status shows it too: then it is told when that is stored, because a leader that was overtaken has nothing to
    /// tell.
    pub fn is_shown(&self) -> bool {
        match self {
            Self::Stage { .. } => false,
            Self::Began { .. } | Self::Blocked { .. } | Self::Left { .. } => true,
        }
    }
}

/// What has been told of one replication: the phase, and blockers by the claim's name, at most [`MAX_BLOCKERS`] each: blockers that come and go must not
/// become a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The phase, and of which attempt.
    phase: Option<(Phase, u32)>,
    blockers: BTreeMap<String, Vec<Blocker>>,
}

impl Told {
    /// What a stored status shows has been told when it was stored.
    pub fn by(status: &ReplicationStatus) -> Self {
        let mut told = Self { phase: status.phase.map(|phase| (phase, status.attempt)), ..Self::default() };
        for member in &status.members {
            drop(told.news(&member.persistent_volume_claim, &member.blockers));
        }
        told
    }

    /// Takes note of the phase of an attempt, and says whether it began.
    pub fn begins(&mut self, phase: Phase, attempt: u32) -> bool {
        self.phase.replace((phase, attempt)) != Some((phase, attempt))
    }

    /// Takes note of what stands in the way of a member, and gives what is new.
    pub fn news(&mut self, claim: &ClaimReference, blockers: &[Blocker]) -> Vec<Blocker> {
        if blockers.is_empty() {
            return Vec::new();
        }
        let known = self.blockers.entry(claim.name.clone()).or_default();
        let mut news = Vec::new();
        for blocker in blockers {
            // It stays the same blocker while it is seen for longer.
            let blocker = Blocker { seen_for: None, ..blocker.clone() };
            if known.len() < MAX_BLOCKERS && !known.contains(&blocker) {
                known.push(blocker.clone());
                news.push(blocker);
            }
        }
        news
    }

    /// No blocker was told of.
    pub fn forget_blockers(&mut self) {
        self.blockers.clear();
    }
}

#[cfg(test)]
#[path = "happened_tests.rs"]
mod tests;
