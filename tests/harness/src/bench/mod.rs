//! The benchmark of the hold: the real controller, agents, guardian and API server, and real filesystems with a writer on
//! each, on one machine without kubelets. How near does a hold come to what the kernel needs for it anyway?

pub mod floor;
pub mod measure;
pub mod memory;
pub mod objects;
pub mod pod;
pub mod report;
pub mod requests;
pub mod round_trip;
pub mod system;
pub mod volume;
