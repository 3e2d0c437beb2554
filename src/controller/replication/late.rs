//! Snapshots that turn up late: a creation whose outcome was not heard of may come true after its attempt was voided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use kube::api::DeleteParams;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};

use super::observe::within;
use crate::api::snapshot::VolumeSnapshot;
use crate::api::{ConsistencyGroupReplication, Phase, labels};
use crate::limits::{API_TIMEOUT, MAX_REMEMBERED_RUNS};

/// How runs have ended, by the UID of the replication. Final phases are never left, so it never becomes wrong.
#[derive(Clone, Default)]
pub struct Endings {
    phases: Arc<Mutex<HashMap<String, Phase>>>,
}

impl Endings {
    /// Remembers the end of a run. Forgets all others when there are too many: they can be read again.
    pub fn remember(&self, replication_uid: &str, phase: Phase) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if phases.len() >= MAX_REMEMBERED_RUNS {
            phases.clear();
        }
        phases.insert(replication_uid.to_owned(), phase);
    }

    fn of(&self, replication_uid: &str) -> Option<Phase> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner).get(replication_uid).copied()
    }
}

/// Watches all replicas and deletes those of voided attempts. Never ends.
pub async fn sweep(client: Client, endings: Endings) {
    let config = watcher::Config::default().labels(labels::REPLICATION_UID);
    let api: Api<PartialObjectMeta<VolumeSnapshot>> = Api::all(client.clone());
    let mut events = watcher(api, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(snapshot) | watcher::Event::InitApply(snapshot)) => {
                if let Err(error) = judge(&client, &endings, &snapshot).await {
                    tracing::warn!(
                        name = snapshot.name_any(),
                        error = format!("{error:#}"),
                        "a late snapshot was not dealt with"
                    );
                }
            }
            Ok(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone) => {}
            // Also: the snapshot API is not installed. It may be later.
            Err(error) => tracing::debug!(%error, "replicas cannot be watched"),
        }
    }
}

async fn judge(client: &Client, endings: &Endings, snapshot: &PartialObjectMeta<VolumeSnapshot>) -> anyhow::Result<()> {
    let (Some(uid), Some(name), Some(namespace)) = (
        snapshot.labels().get(labels::REPLICATION_UID),
        snapshot.labels().get(labels::REPLICATION),
        snapshot.namespace(),
    ) else {
        return Ok(());
    };
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let phase = match endings.of(uid) {
        Some(phase) => Some(phase),
        None => {
            let api: Api<ConsistencyGroupReplication> = Api::namespaced(client.clone(), &namespace);
            let replication = within(API_TIMEOUT, api.get_opt(name)).await?;
            let phase = replication.filter(|it| it.uid().as_ref() == Some(uid)).and_then(|it| it.status?.phase);
            phase.filter(|phase| phase.is_final()).inspect(|phase| endings.remember(uid, *phase))
        }
    };
    if !matches!(phase, Some(Phase::Aborted | Phase::Failed)) {
        return Ok(());
    }
    tracing::info!(name = snapshot.name_any(), namespace, "deletes a snapshot of a voided attempt that turned up late");
    let api: Api<VolumeSnapshot> = Api::namespaced(client.clone(), &namespace);
    match tokio::time::timeout(API_TIMEOUT, api.delete(&snapshot.name_any(), &DeleteParams::default())).await? {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => Ok(result.map(drop)?),
    }
}
