//! Every deadline of the harness in one place. They are generous: a slow machine is no failure.

use std::time::Duration;

/// Until the controller runs.
pub const CONTROLLER: Duration = Duration::from_secs(30);
/// Until a pod is ready or has ended, its volumes made and mounted.
pub const POD: Duration = Duration::from_secs(120);
/// Until a replication has ended, beyond its own prepare and hold limits.
pub const REPLICATION: Duration = Duration::from_secs(120);
/// Until a snapshot can be restored from.
pub const SNAPSHOT: Duration = Duration::from_secs(60);
/// Until a deleted object, or a namespace with all that is in it, is gone.
pub const DELETION: Duration = Duration::from_secs(120);
/// Until the writer has written some records.
pub const WRITING: Duration = Duration::from_secs(60);
/// Until the controller has published its CA into an opted-in namespace.
pub const CA: Duration = Duration::from_secs(30);
/// Volumes in one checking pod. Its report must fit a termination message (4096 bytes).
pub const VOLUMES_PER_CHECK: usize = 30;
