//! The Kubernetes API of Stillpoint: group `stillpoint.io`, version `v1alpha1`.
//!
//! Types only, no IO. Their docstrings are the descriptions that `kubectl explain` shows, and the CRDs under `crds/` are
//! generated from them.

pub mod duration;
pub mod labels;
pub mod limits;
mod reason;
mod replication;
pub mod snapshot;

pub use duration::Duration;
pub use reason::Reason;
pub use replication::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::CustomResourceExt;

/// The CRD of every kind of the group. The files under `crds/`, the chart's copies of them and what it grants come from this
/// list.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![ConsistencyGroupReplication::crd()]
}
