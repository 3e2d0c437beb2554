//! VolumeSnapshots: listing them, taking them without Stillpoint, and seeing that there were none.

use std::pin::pin;

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use futures::future::try_join_all;
use kube::api::{DeleteParams, ListParams, ObjectMeta};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use stillpoint_api::labels;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::installed::SNAPSHOT_CLASS;
use crate::limits::SNAPSHOT;
use crate::namespace::Place;
use crate::waiting::{until, until_gone};

/// A snapshot of a claim, without Stillpoint.
pub fn plain(name: &str, claim: &str) -> VolumeSnapshot {
    VolumeSnapshot {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        spec: VolumeSnapshotSpec {
            volume_snapshot_class_name: Some(SNAPSHOT_CLASS.into()),
            source: VolumeSnapshotSource { persistent_volume_claim_name: Some(claim.into()) },
        },
        status: None,
    }
}

/// Takes snapshots of all claims at once, as one does without Stillpoint, and waits until they can be used. Their names, in
/// the order of the claims.
///
/// # Errors
/// A snapshot does not become usable.
pub async fn take_together(place: &Place, prefix: &str, claims: &[&str]) -> Result<Vec<String>> {
    let wanted: Vec<VolumeSnapshot> = claims.iter().map(|claim| plain(&format!("{prefix}-{claim}"), claim)).collect();
    try_join_all(wanted.iter().map(|snapshot| place.create(snapshot))).await?;
    let names: Vec<String> = wanted.iter().map(ResourceExt::name_any).collect();
    try_join_all(names.iter().map(|name| usable(place, name))).await?;
    Ok(names)
}

async fn usable(place: &Place, name: &str) -> Result<()> {
    until(&place.api::<VolumeSnapshot>(), name, &format!("VolumeSnapshot {name} to be usable"), SNAPSHOT, |found| {
        let status = found.and_then(|snapshot| snapshot.status.as_ref());
        Ok(status.and_then(|status| status.ready_to_use).unwrap_or(false).then_some(()))
    })
    .await
}

/// The snapshots that carry the label of a replication.
///
/// # Errors
/// The API server's refusal.
pub async fn of_replication(place: &Place, name: &str) -> Result<Vec<VolumeSnapshot>> {
    let labelled = ListParams::default().labels(&format!("{}={name}", labels::REPLICATION));
    Ok(place.api::<VolumeSnapshot>().list(&labelled).await?.items)
}

/// The contents behind snapshots of a namespace, also behind those that are gone: the name of each, and of its snapshot.
///
/// # Errors
/// The API server's refusal.
pub async fn contents_of(place: &Place) -> Result<Vec<(String, String)>> {
    let kind = GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshotContent");
    let resource = ApiResource::from_gvk_with_plural(&kind, "volumesnapshotcontents");
    let all = Api::<DynamicObject>::all_with(place.client(), &resource).list(&ListParams::default()).await?;
    let here = all.iter().filter_map(|content| {
        let of = &content.data["spec"]["volumeSnapshotRef"];
        let snapshot = of["name"].as_str().filter(|_| of["namespace"] == place.name.as_str())?;
        Some((content.name_any(), snapshot.to_owned()))
    });
    Ok(here.collect())
}

/// Watches a namespace and remembers every VolumeSnapshot that ever was there, however short.
pub struct Witness {
    place: Place,
    task: JoinHandle<Result<Vec<String>>>,
}

const LAST: &str = "witness-ends";

impl Witness {
    /// Begins to watch; from now on nothing is missed.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn begin(place: &Place) -> Result<Self> {
        let (begun, watching) = oneshot::channel();
        let api = place.api::<VolumeSnapshot>();
        let task = tokio::spawn(async move {
            let mut begun = Some(begun);
            let mut names = Vec::new();
            let mut events = pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = events.try_next().await? {
                match event {
                    Event::InitDone => drop(begun.take().map(|begun| begun.send(()))),
                    Event::Apply(snapshot) | Event::InitApply(snapshot) | Event::Delete(snapshot) => {
                        let name = snapshot.name_any();
                        if name == LAST {
                            return Ok(names);
                        }
                        if !names.contains(&name) {
                            names.push(name);
                        }
                    }
                    Event::Init => {}
                }
            }
            bail!("the watch of VolumeSnapshots ended")
        });
        timeout(SNAPSHOT, watching).await.context("the watch of VolumeSnapshots does not begin")??;
        Ok(Self { place: place.clone(), task })
    }

    /// The names of all snapshots that there were. A last one, of a claim that does not exist, marks the end of the watch and
    /// is removed again.
    ///
    /// # Errors
    /// The watch failed.
    pub async fn end(self) -> Result<Vec<String>> {
        self.place.create(&plain(LAST, "there-is-no-such-claim")).await?;
        let names = timeout(SNAPSHOT, self.task).await.context("the watch of VolumeSnapshots does not end")??;
        let api = self.place.api::<VolumeSnapshot>();
        api.delete(LAST, &DeleteParams::default()).await?;
        until_gone(&api, LAST, "the end of the snapshot that ended a watch", SNAPSHOT).await?;
        names
    }
}
