//! The cluster as data: what the API server stores, and the objects and facts that a group consists of.

mod facts;
mod store;
pub mod untyped;

pub use facts::{claim, claim_name, claim_uid, group, is_pod_of, member_of, mounts, storage};
pub use store::{Object, Store, is_deleting, phase};

/// Name of the replication.
pub const NAME: &str = "nightly";
/// Its namespace.
pub const NAMESPACE: &str = "shop";
/// Its UID.
pub const UID: &str = "uid-nightly";
