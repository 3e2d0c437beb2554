//! What is known of the world at one moment: the newest of everything. Plain data, filled by `observe` and by agents'
//! answers, read by the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::agents::{AgentKey, AssignmentKey};
use super::facts::{Claim, PodFacts};
use super::state::Moment;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{Blocker, Protection};

/// What an agent said about one assignment.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// When it was heard.
    pub at: Moment,
    /// What it said.
    pub content: AnswerContent,
}

/// The contents of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerContent {
    /// Not clean yet; it goes on looking.
    Waiting {
        /// What stands in the way.
        blockers: Vec<Blocker>,
        /// Blockers that are not listed.
        more: u32,
    },
    /// Nothing stands in the way of Suspend.
    Prepared {
        /// What gives the writes back if the agent dies.
        protection: Option<Protection>,
    },
    /// It holds.
    Ready {
        /// The round of the Suspend.
        round: u32,
        /// For how long writes had been suspended.
        suspended: Duration,
    },
    /// Writes are not suspended.
    NotReady {
        /// The round of the Suspend; 0 answers Prepare.
        round: u32,
        /// Whether asking again may help.
        retryable: bool,
        /// Why.
        blockers: Vec<Blocker>,
        /// Blockers that are not listed.
        more: u32,
    },
    /// Writes go on.
    Released {
        /// It held from ready to release.
        unbroken: bool,
        /// Why not.
        reason: String,
        /// For how long writes were suspended.
        suspended: Duration,
    },
}

/// The newest of everything. Keys of `claims` and `pods` are UIDs, keys of `replicas` and `refused_replicas` names of snapshots.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The status that declares the attempt is stored.
    pub recorded: bool,
    /// The object is being deleted, or is gone.
    pub deleted: bool,
    /// The controller cannot follow this run any more, for this reason; everything must be released.
    pub cut_off: Option<String>,
    /// All watches have delivered their first list.
    pub watching: bool,
    /// The claims of the namespace.
    pub claims: BTreeMap<String, Claim>,
    /// The unfinished pods of the namespace.
    pub pods: BTreeMap<String, PodFacts>,
    /// Agents that can be commanded.
    pub connected: BTreeSet<AgentKey>,
    /// The newest answer to the last command.
    pub answers: BTreeMap<AssignmentKey, Answer>,
    /// Assignments whose agent's session was lost since their last command, or that could not be sent it.
    pub lost: BTreeSet<AssignmentKey>,
    /// The snapshots of this replication.
    pub replicas: BTreeMap<String, VolumeSnapshot>,
    /// Snapshots whose creation failed, and why.
    pub refused_replicas: BTreeMap<String, String>,
    /// Creations whose outcome is still open.
    pub open_creations: usize,
    /// How many replicas were found and deleted; `None` until the deletion is complete.
    pub deleted_replicas: Option<usize>,
    /// Pods were listed anew after the release.
    pub rechecked: bool,
    /// A session was lost, or a command could not be sent, since the last [`Observed::take_losses`].
    pub losses: bool,
}

impl Observed {
    /// A command goes out: what was heard of this assignment before cannot be the answer.
    pub fn asking(&mut self, assignment: &AssignmentKey) {
        self.answers.remove(assignment);
        self.lost.remove(assignment);
    }

    /// The session of an agent is lost, and with it whatever it held of these assignments.
    pub fn lost(&mut self, agent: &AgentKey, assignments: impl IntoIterator<Item = AssignmentKey>) {
        self.connected.remove(agent);
        self.lost.extend(assignments);
        self.losses = true;
    }

    /// Whether anything was lost since this was last asked. How many are lost does not say so: one is asked again and leaves
    /// `lost` while another one enters it.
    pub fn take_losses(&mut self) -> bool {
        std::mem::take(&mut self.losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_noted_also_when_as_many_are_lost_as_before() {
        let agent = |name: &str| AgentKey::of_pod(name);
        let assignment = |name: &str| AssignmentKey::new(name, agent(name));
        let mut observed = Observed::default();
        assert!(!observed.take_losses());
        observed.lost(&agent("a"), [assignment("a")]);
        assert!(observed.take_losses() && !observed.take_losses(), "once");
        let before = observed.lost.len();
        observed.asking(&assignment("a"));
        assert!(!observed.take_losses(), "a command that goes out is no loss");
        observed.lost(&agent("b"), [assignment("b")]);
        assert_eq!(observed.lost.len(), before);
        assert!(observed.take_losses());
    }
}
