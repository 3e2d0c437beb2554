//! Reads what is known of storage before anybody is asked.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures::stream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use stillpoint_core::limits::{API_TIMEOUT, RESOLVE_CONCURRENCY};
use stillpoint_core::replica::Kind;
use stillpoint_core::replica::seen;
use stillpoint_core::run::effect::Storage;
use stillpoint_core::run::rehearsal::{Room, counted_as};

use crate::controller::api::{within, within_if_there};

/// What is known of storage: the drivers of these volumes, what a kind of replica reads of the cluster, and what quotas of the
/// namespace say of its objects.
///
/// # Errors
/// When the API server does not answer.
pub async fn storage(
    client: &Client,
    namespace: &str,
    volumes: Vec<String>,
    kind: Option<&dyn Kind>,
) -> anyhow::Result<Storage> {
    let drivers = drivers(client, volumes);
    match kind {
        Some(kind) => {
            let (drivers, facts, room) =
                futures::try_join!(drivers, facts(client, kind), room(client, namespace, kind))?;
            Ok(Storage { drivers, facts, room })
        }
        None => Ok(Storage { drivers: drivers.await?, ..Storage::default() }),
    }
}

/// What quotas say of the objects of a kind of replica.
///
/// # Errors
/// When the API server does not answer.
async fn room(client: &Client, namespace: &str, kind: &dyn Kind) -> anyhow::Result<BTreeMap<String, Room>> {
    let api: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let quotas = within(API_TIMEOUT, api.list(&ListParams::default())).await;
    let quotas = quotas.with_context(|| format!("the ResourceQuotas of namespace {namespace} could not be read"))?;
    Ok(room_in(&quotas.items, kind))
}

fn room_in(quotas: &[ResourceQuota], kind: &dyn Kind) -> BTreeMap<String, Room> {
    let mut least: BTreeMap<String, Room> = BTreeMap::new();
    let objects = kind.objects();
    for (quota, what) in quotas.iter().flat_map(|quota| objects.iter().map(move |one| (quota, counted_as(one)))) {
        let number = |of: &Option<BTreeMap<String, Quantity>>| of.as_ref()?.get(&what)?.0.parse::<u64>().ok();
        let Some(status) = &quota.status else { continue };
        let Some(hard) = number(&status.hard) else { continue };
        let room = Room { quota: quota.name_any(), hard, used: number(&status.used).unwrap_or_default() };
        if least.get(&what).is_none_or(|known| room.left() < known.left()) {
            least.insert(what, room);
        }
    }
    least
}

/// The CSI drivers of volumes, by the volume's name.
///
/// # Errors
/// When the API server does not answer. A volume that is not there, or has no CSI driver, is left out.
async fn drivers(client: &Client, volumes: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let found: Vec<Option<(String, String)>> = stream::iter(volumes)
        .map(|name| {
            let api = api.clone();
            async move {
                let volume = within(API_TIMEOUT, api.get_opt(&name)).await?;
                let driver = volume.and_then(|volume| Some(volume.spec?.csi?.driver));
                anyhow::Ok(driver.map(|driver| (name, driver)))
            }
        })
        .buffer_unordered(RESOLVE_CONCURRENCY)
        .try_collect()
        .await
        .context("the PersistentVolumes of the members could not be read")?;
    Ok(found.into_iter().flatten().collect())
}

/// What a kind of replica needs to know of the cluster. A resource that is not installed is left out.
///
/// # Errors
/// When the API server does not answer.
async fn facts(client: &Client, kind: &dyn Kind) -> anyhow::Result<seen::Facts> {
    let mut facts = seen::Facts::default();
    for resource in kind.reads() {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let listed = within_if_there(API_TIMEOUT, api.list(&ListParams::default())).await;
        let listed = listed.with_context(|| format!("the {} could not be read", many(&resource)))?;
        facts.read.extend(listed.map(|list| (resource.kind, list.items)));
    }
    Ok(facts)
}

/// Several objects of a resource, as people write it.
fn many(resource: &ApiResource) -> String {
    let ending = resource.plural.strip_prefix(&resource.kind.to_lowercase());
    ending.map_or_else(|| resource.plural.clone(), |ending| format!("{}{ending}", resource.kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::http::StatusCode;
    use serde_json::json;

    use super::super::removal::remove;
    use super::*;
    use stillpoint_core::replica::KINDS;
    use stillpoint_core::replica::ask::RunId;
    use stillpoint_core::replica::removal::{Removal, Removed, Scope};

    /// An API server that answers every request so.
    fn answering(status: StatusCode, body: &'static str) -> Client {
        Client::new(Router::new().fallback(move || async move { (status, body) }), "shop")
    }

    #[tokio::test]
    async fn without_the_snapshot_crds_there_are_neither_classes_nor_snapshots() {
        // What kube-apiserver says of a group that nobody serves: not a Status object.
        let client = answering(StatusCode::NOT_FOUND, "404 page not found\n");
        assert_eq!(facts(&client, KINDS[0]).await.unwrap().read.len(), 0);
        let run = RunId {
            replication: "nightly",
            uid: "uid",
            namespace: "shop",
            attempt: 1,
            owner: None,
            asked_at: None,
            wishes: None,
        };
        let removed = remove(&client, "shop", Removal::new(KINDS[0].remove(&run, &[]), Scope::up_to(1))).await;
        assert_eq!(removed, Removed::default());
    }

    #[test]
    fn of_several_quotas_the_one_with_the_least_room_counts() {
        let quota = |name: &str, hard: &str, used: &str| -> ResourceQuota {
            let count = "count/volumesnapshots.snapshot.storage.k8s.io";
            let status = json!({"hard": {count: hard, "pods": "1"}, "used": {count: used}});
            serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
        };
        let quotas = [quota("wide", "100", "3"), quota("small", "5", "4"), quota("odd", "1Gi", "many")];
        let room: Vec<_> = room_in(&quotas, KINDS[0]).into_values().collect();
        assert_eq!(room, [Room { quota: "small".to_owned(), hard: 5, used: 4 }]);
    }

    #[tokio::test]
    async fn a_refusal_is_one_sentence() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not allowed to list",
            "reason": "Forbidden", "code": 403}"#;
        let error = facts(&answering(StatusCode::FORBIDDEN, status), KINDS[0]).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "the VolumeSnapshotClasses could not be read: not allowed to list");
    }
}
