//! The benchmark: the real controller and API server on one machine without kubelets, alone or beside another version of
//! Stillpoint, the baseline, both measured in turns.
//!
//! [`measure`] asks how near a hold comes to what the kernel needs for it anyway, with real agents, guardians and
//! filesystems, a writer on each. [`traffic`] counts what a run asks of the API server, and [`load`] looks at a controller
//! with many agents and many runs; their members are sessions of [`scripted`] agents. [`piles`] looks at a controller beside
//! thousands of objects, and [`looks`] at an agent beside thousands of processes.

pub mod fleet;
pub mod floor;
pub mod load;
pub mod looks;
pub mod measure;
pub mod memory;
pub mod objects;
pub mod piles;
pub mod pod;
pub mod report;
pub mod requests;
pub mod round_trip;
pub mod runs;
pub mod scripted;
pub mod snapshotter;
pub mod system;
pub mod traffic;
pub mod version;
pub mod volume;
