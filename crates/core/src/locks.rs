//! What a look for locks says.

use std::time::Duration;

use crate::wire::Blocker;

/// Whether the dataset is suspended while the agent looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspension {
    /// Writes go on. The look may take its time: it goes through every descriptor in view, and mappings where needed.
    Writable,
    /// Writes are suspended. The look is quick, begins with the processes that have the dataset mounted, and keeps away
    /// from all that can hang: of a process it reads only links, fdinfo, comm, stat, cgroup and mountinfo, and it never
    /// stats through a descriptor; one that has a lock it duplicates for a moment, to read its link.
    Suspended,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Look {
    /// What stands in the way, at most [`crate::limits::MAX_BLOCKERS`]: first where the agent is blind, then locks by file.
    pub blockers: Vec<Blocker>,
    /// Blockers beyond those listed.
    pub more_blockers: u32,
    /// What a look like it costs while writes are suspended.
    pub cost: Cost,
}

/// What a look costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// How long it takes.
    pub took: Duration,
    /// For how much of that the CPU limit of the agent's container held it up, as far as it is known.
    pub throttled: Duration,
}

impl Look {
    /// Whether nothing stands in the way.
    pub fn is_clean(&self) -> bool {
        self.blockers.is_empty()
    }
}
