//! What happened in a run, said once: for log lines, Events, metrics and traces. Plain data.

use std::collections::BTreeMap;

use stillpoint_api::{Blocker, ClaimReference, Phase, ReplicationStatus};

use crate::limits::MAX_BLOCKERS;

/// Something that people are told.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// A phase began, and its status is stored.
    Began {
        /// The phase.
        phase: Phase,
        /// What the condition `Ready` says of it.
        message: Option<String>,
    },
    /// A blocker was seen for the first time, and the status that names it is stored.
    Blocked {
        /// In which phase.
        phase: Phase,
        /// The member.
        claim: ClaimReference,
        /// What stands in its way.
        blocker: Blocker,
    },
}

/// What has been told of one replication.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Of which attempt.
    phase: Option<(Phase, u32)>,
    /// By the claim's name, at most [`MAX_BLOCKERS`] each: blockers that come and go must not become a stream of Events.
    blockers: BTreeMap<String, Vec<Blocker>>,
}

impl Told {
    /// What a stored status says has been told when it was stored.
    pub fn by(status: &ReplicationStatus) -> Self {
        let mut told = Self::default();
        drop(told.news(status));
        told
    }

    /// Takes note of a status that is stored, and gives what it shows for the first time.
    pub fn news(&mut self, status: &ReplicationStatus) -> Vec<Happened> {
        let Some(phase) = status.phase else { return Vec::new() };
        let mut news = Vec::new();
        for member in &status.members {
            let claim = &member.persistent_volume_claim;
            let known = self.blockers.entry(claim.name.clone()).or_default();
            for blocker in &member.blockers {
                // It stays the same blocker while it is seen for longer.
                let blocker = Blocker { seen_for: None, ..blocker.clone() };
                if known.len() < MAX_BLOCKERS && !known.contains(&blocker) {
                    known.push(blocker.clone());
                    news.push(Happened::Blocked { phase, claim: claim.clone(), blocker });
                }
            }
        }
        if self.phase.replace((phase, status.attempt)) != Some((phase, status.attempt)) {
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            news.push(Happened::Began { phase, message: ready.map(|ready| ready.message.clone()) });
        }
        news
    }
}

#[cfg(test)]
#[path = "happened_tests.rs"]
mod tests;
