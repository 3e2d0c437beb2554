//! The production state machines of agents and controllers, joined by a simulated kernel, network and API server.

pub mod cluster;
pub mod model;
pub mod node;
pub mod simulation;
