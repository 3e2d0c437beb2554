//! Plays the snapshot controller: gives every snapshot of a namespace the outcome that a test wants.

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, labels};
use tokio::task::JoinHandle;

use super::fixture::{DEADLINE, Fixture};

/// A task that answers until the test ends.
pub struct SnapshotController(JoinHandle<()>);

impl Drop for SnapshotController {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The status of a snapshot that worked just now.
pub fn usable() -> Value {
    let now = format!("{:.0}", Timestamp::now());
    json!({"creationTime": now, "readyToUse": true, "boundVolumeSnapshotContentName": "content"})
}

/// The status of a snapshot that the driver refused.
pub fn refused(message: &str) -> Value {
    json!({"readyToUse": false, "error": {"message": message, "time": "2026-01-01T00:00:00Z"}})
}

/// Gives every new snapshot the status that `outcome` makes of its claim's name; `None` leaves it without one.
pub fn play(fixture: &Fixture, outcome: impl Fn(&str) -> Option<Value> + Send + 'static) -> SnapshotController {
    let snapshots = fixture.api::<VolumeSnapshot>();
    let mut seen = watcher(snapshots.clone(), watcher::Config::default()).applied_objects().boxed();
    SnapshotController(tokio::spawn(async move {
        while let Some(event) = seen.next().await {
            let Ok(snapshot) = event else { continue };
            let claim = snapshot.spec.source.persistent_volume_claim_name.clone().unwrap_or_default();
            let (None, Some(status)) = (&snapshot.status, outcome(&claim)) else { continue };
            let patch = Patch::Merge(json!({"status": status}));
            // It may be gone already; then it needs no status.
            let _ = snapshots.patch_status(&snapshot.name_any(), &PatchParams::default(), &patch).await;
        }
    }))
}

/// The snapshots of the namespace.
pub async fn replicas(fixture: &Fixture) -> Vec<VolumeSnapshot> {
    fixture.api::<VolumeSnapshot>().list(&ListParams::default()).await.expect("a list").items
}

/// Waits until the namespace has no snapshot.
pub async fn assert_no_replica_is_left(fixture: &Fixture) {
    let mut updates = watcher(fixture.api::<VolumeSnapshot>(), watcher::Config::default()).boxed();
    let empty = async {
        while !replicas(fixture).await.is_empty() {
            updates.next().await;
        }
    };
    tokio::time::timeout(DEADLINE, empty).await.expect("every replica of a void attempt is deleted");
}

/// A snapshot as a create whose answer was lost would make it: it carries the labels of an attempt.
pub async fn create_late(fixture: &Fixture, run: &ConsistencyGroupReplication, attempt: u32, name: &str) {
    let labels = json!({
        labels::REPLICATION: run.name_any(),
        labels::REPLICATION_UID: run.uid(),
        labels::ATTEMPT: attempt.to_string(),
    });
    let late = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"source": {"persistentVolumeClaimName": "any"}},
    });
    fixture.create::<VolumeSnapshot>(late).await;
}
