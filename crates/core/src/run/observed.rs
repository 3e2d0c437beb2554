//! What is known of the world at one moment: the newest of everything. Plain data, filled by the attempt's driver, read by the
//! planner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::DynamicObject;

use super::agents::{AgentKey, AssignmentKey};
use super::facts::{Claim, PodFacts};
use super::state::Moment;
use crate::replica::ask::NotMade;
use crate::replica::removal::{Left, Removed};
use crate::replica::seen::ObjectName;
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
    /// The suspension is late, and nothing takes it back: writes may be suspended until [`Self::NotReady`] follows.
    Pending {
        /// The round of the Suspend.
        round: u32,
        /// What is known of it.
        blockers: Vec<Blocker>,
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
        /// For how long writes were suspended in this round.
        suspended: Duration,
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

/// The newest of everything. Keys of `claims` and `pods` are UIDs.
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
    /// The objects that the replicas of this replication consist of.
    pub replicas: BTreeMap<ObjectName, DynamicObject>,
    /// What was asked for and is gone.
    pub vanished: BTreeSet<ObjectName>,
    /// What was asked for in vain, and why.
    pub unmade: BTreeMap<ObjectName, NotMade>,
    /// What was asked for, and the outcome is still open.
    pub open_creations: BTreeSet<ObjectName>,
    /// How the removal of the replicas ended.
    pub removed: Option<Removed>,
    /// A status that says that the cut is proven is stored.
    pub proof_stored: bool,
    /// The proof is written onto the replicas, or why it cannot be.
    pub marked: Option<Result<(), String>>,
    /// Pods were listed anew after the release.
    pub rechecked: bool,
}

impl Observed {
    /// What a removal has left of the replicas.
    pub fn left(&self) -> &[Left] {
        self.removed.as_ref().map_or(&[], |removed| &removed.left)
    }

    /// A command goes out: what was heard of this assignment before cannot be the answer.
    pub fn asking(&mut self, assignment: &AssignmentKey) {
        self.answers.remove(assignment);
        self.lost.remove(assignment);
    }

    /// The session of an agent is lost, and with it whatever it held of these assignments.
    pub fn lost(&mut self, agent: &AgentKey, assignments: impl IntoIterator<Item = AssignmentKey>) {
        self.connected.remove(agent);
        self.lost.extend(assignments);
    }
}
