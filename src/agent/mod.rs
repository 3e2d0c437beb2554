//! The agent: it stands beside the data, suspends writes to one member and gives them back.

pub mod blocker;
pub mod dataset;
pub mod locks;
pub mod procfs;
