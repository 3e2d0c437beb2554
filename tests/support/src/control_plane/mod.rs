//! For tests on a real API server without nodes: a namespace with what a cluster would have in it, and whoever would answer the
//! controller there, played.

pub mod agents;
pub mod fixture;
pub mod objects;
pub mod snapshots;
pub mod stages;
