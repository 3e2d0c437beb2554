//! Stillpoint replicates a consistency group of Kubernetes volumes at one common point in time, or not at all.
//!
//! `ARCHITECTURE.md` is the map. In short: [`api`] holds the Kubernetes types, `controller` decides and commands,
//! `agent` suspends and resumes beside the data, [`wire`] is what they say to each other, and [`limits`] bounds it all.

pub mod agent;
pub mod controller;
pub mod fsfreeze;
pub mod guardian;
pub mod note;
pub mod picture;
pub mod rpc;
pub mod telemetry;
pub mod undo;
