//! How replicas are made. Pure builders and judges; the controller's executor acts.

pub mod csi;
pub mod removal;
