//! The agent.
pub mod freezer;
pub mod hold;
