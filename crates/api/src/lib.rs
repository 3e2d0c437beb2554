//! The Kubernetes API of Stillpoint: group `stillpoint.io`, version `v1alpha1`.
//!
//! Types only, no IO. Their docstrings are the descriptions that `kubectl explain` shows, and the CRDs under `crds/` are
//! generated from them.

pub mod duration;
pub mod labels;
pub mod limits;
mod replication;
pub mod snapshot;

pub use kube::core::Duration;
pub use replication::*;
