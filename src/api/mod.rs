//! The Kubernetes API of Stillpoint: group `stillpoint.io`, version `v1alpha1`.
//!
//! Types only, no IO. Their docstrings are the descriptions that `kubectl explain` shows, and the CRDs under `crds/` are
//! generated from them.

pub mod labels;
pub mod snapshot;
mod spec;
mod status;

pub use kube::core::Duration;
pub use spec::*;
pub use status::*;

/// The API group of every Stillpoint kind.
pub const GROUP: &str = "stillpoint.io";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
