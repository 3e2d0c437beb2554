//! The controller: decides about replications and commands the agents.

pub mod certificates;
pub mod identity;
pub mod sessions;
