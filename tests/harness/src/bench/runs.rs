//! Many runs at once, followed by one watch. Only the phase is read, because versions may write different statuses.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use futures::{FutureExt, TryStreamExt};
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::ConsistencyGroupReplication;
use tokio::time::timeout;

use super::objects::SNAPSHOT_CLASS;

/// One replication that is wanted.
pub struct Wanted {
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its spec, with fields that every version knows.
    pub spec: Value,
}

/// A spec that asks whether these claims could be cut.
pub fn check(claims: &[String]) -> Value {
    json!({"source": {"persistentVolumeClaimNames": claims}, "mode": "Check"})
}

/// A spec that cuts these claims with VolumeSnapshots.
pub fn replicate(claims: &[String]) -> Value {
    let snapshots = json!({"volumeSnapshot": {"volumeSnapshotClassName": SNAPSHOT_CLASS}});
    json!({"source": {"persistentVolumeClaimNames": claims}, "replication": snapshots})
}

/// Creates all of them at once and waits until every one is Done; how long that took. `progress` is told how many are.
///
/// To the API server these are one LIST, one WATCH, and a POST of each.
///
/// # Errors
/// One is refused, or ends otherwise, or they do not end within `limit`.
pub async fn until_done(
    client: &Client,
    wanted: &[Wanted],
    limit: Duration,
    progress: impl FnMut(usize),
) -> Result<Duration> {
    let followed = timeout(limit, follow(client, wanted, progress)).await;
    followed.with_context(|| format!("{} replications are not Done within {limit:?}", wanted.len()))?
}

async fn follow(client: &Client, wanted: &[Wanted], mut progress: impl FnMut(usize)) -> Result<Duration> {
    let kind = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let mut events = pin!(watcher(Api::<DynamicObject>::all_with(client.clone(), &kind), watcher::Config::default()));
    while let Some(event) = events.try_next().await? {
        if matches!(event, Event::InitDone) {
            break;
        }
    }
    let mut open: BTreeSet<(String, String)> =
        wanted.iter().map(|one| (one.namespace.clone(), one.name.clone())).collect();
    let began = Instant::now();
    let create = try_join_all(wanted.iter().map(|one| create(client, one)));
    // The watch goes on while they are created.
    let mut create = pin!(create.fuse());
    while !open.is_empty() {
        let event = tokio::select! {
            created = &mut create => { created?; continue }
            event = events.try_next() => event?.context("the watch of the replications ended")?,
        };
        let (Event::Apply(object) | Event::InitApply(object)) = event else { continue };
        let run = (object.namespace().unwrap_or_default(), object.name_any());
        match object.data["status"]["phase"].as_str() {
            Some("Done") => open.remove(&run),
            Some("Aborted" | "Failed") if open.contains(&run) => {
                bail!("cgr {} ended otherwise: {}", run.1, object.data["status"])
            }
            _ => continue,
        };
        progress(wanted.len() - open.len());
    }
    Ok(began.elapsed())
}

/// Creates one.
///
/// # Errors
/// It is refused.
pub async fn create(client: &Client, wanted: &Wanted) -> Result<()> {
    let kind = &ApiResource::erase::<ConsistencyGroupReplication>(&());
    let mut object = DynamicObject::new(&wanted.name, kind).within(&wanted.namespace);
    object.data = json!({"spec": wanted.spec});
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &wanted.namespace, kind);
    let made = api.create(&PostParams::default(), &object).await;
    made.with_context(|| format!("cgr {} is refused", wanted.name))?;
    Ok(())
}
