//! The controller: decides about replications and commands the agents.

pub mod replication;
pub mod sessions;
