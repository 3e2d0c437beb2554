//! Plays the snapshot controller and the CSI driver: every new snapshot is cut, and can be used, at once.

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use tokio::task::JoinHandle;

use crate::namespace::Place;

/// What this does to the API server for every snapshot. The controller never does it.
pub const OWN_REQUEST: &str = "PATCH volumesnapshots/status";

/// A task that answers until this is dropped.
pub struct Snapshotter(JoinHandle<()>);

impl Drop for Snapshotter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to play, in one namespace.
pub fn play(place: &Place) -> Snapshotter {
    let snapshots = place.api::<VolumeSnapshot>();
    let mut seen = watcher(snapshots.clone(), watcher::Config::default()).applied_objects().boxed();
    Snapshotter(tokio::spawn(async move {
        while let Some(event) = seen.next().await {
            let Ok(snapshot) = event else { continue };
            if snapshot.status.is_some() {
                continue;
            }
            let snapshots = snapshots.clone();
            // Drivers work side by side.
            tokio::spawn(async move {
                let status = json!({
                    "boundVolumeSnapshotContentName": "content",
                    "creationTime": Time(Timestamp::now()),
                    "readyToUse": true,
                });
                let patch = Patch::Merge(json!({"status": status}));
                // It may be gone already; then it needs no status.
                let _ = snapshots.patch_status(&snapshot.name_any(), &PatchParams::default(), &patch).await;
            });
        }
    }))
}
