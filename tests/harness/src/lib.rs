//! Stillpoint on a real cluster, as a user would see it: through its API server alone.
//!
//! [`cluster`] connects, [`installed`] sees that Stillpoint is there, [`namespace`] is one test's own place, [`group`]
//! runs the ordered writer over several volumes, [`replication`] cuts them and records every phase, and [`restore`] checks
//! what was cut. [`terminal`] and [`live`] show it to people. [`chaos`] breaks everything around it.

pub mod bench;
pub mod chaos;
pub mod classes;
pub mod cluster;
pub mod group;
pub mod images;
pub mod installed;
pub mod limits;
pub mod live;
pub mod manifests;
pub mod namespace;
pub mod page;
pub mod processes;
pub mod replication;
pub mod restore;
pub mod snapshots;
pub mod terminal;
pub mod waiting;
