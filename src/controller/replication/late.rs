//! Snapshots that turn up late: a creation whose outcome was not heard of may come true after its attempt was voided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use kube::api::DeleteParams;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::execute::{Pauses, delete_replicas};
use super::observe::{is_absent, within};
use crate::api::snapshot::VolumeSnapshot;
use crate::api::{ConsistencyGroupReplication, Mode, Phase, labels};
use crate::limits::{API_TIMEOUT, LATE_CONCURRENCY, MAX_REMEMBERED_RUNS};

/// How runs have ended, by the UID of the replication. Final phases are never left, so it never becomes wrong.
#[derive(Clone)]
pub struct Endings {
    phases: Arc<Mutex<HashMap<String, Phase>>>,
    voided: mpsc::Sender<Voided>,
}

/// A replication whose replicas are void.
pub struct Voided {
    namespace: String,
    uid: String,
}

impl Endings {
    /// Remembers nothing yet. The other end gives every voided run once, for [`sweep`].
    pub fn new() -> (Self, mpsc::Receiver<Voided>) {
        let (voided, to_sweep) = mpsc::channel(MAX_REMEMBERED_RUNS);
        (Self { phases: Arc::default(), voided }, to_sweep)
    }

    /// Remembers the end of a run, if it has ended. Forgets all others when there are too many: they can be read again.
    ///
    /// A snapshot that turned up before the end was stored was not late then, and no event will tell of it again: the
    /// replicas of a void run are looked for once more, now that whatever comes after this is known to be late.
    pub fn remember(&self, object: &ConsistencyGroupReplication) {
        let Some(status) = &object.status else { return };
        let Some(phase) = status.phase.filter(|phase| phase.is_final()) else { return };
        let uid = object.uid().unwrap_or_default();
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if phases.contains_key(&uid) {
            return;
        }
        // Without an attempt nothing was asked of anybody.
        let may_have_replicas = status.attempt > 0 && object.spec.mode == Mode::Replicate;
        if is_void(phase) && may_have_replicas {
            let voided = Voided { namespace: object.namespace().unwrap_or_default(), uid: uid.clone() };
            // What finds no place is not remembered either, so that the next look at the object tries again.
            if self.voided.try_send(voided).is_err() {
                return;
            }
        }
        if phases.len() >= MAX_REMEMBERED_RUNS {
            phases.clear();
        }
        phases.insert(uid, phase);
    }

    fn of(&self, replication_uid: &str) -> Option<Phase> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner).get(replication_uid).copied()
    }
}

fn is_void(phase: Phase) -> bool {
    matches!(phase, Phase::Aborted | Phase::Failed)
}

type Snapshot = PartialObjectMeta<VolumeSnapshot>;

/// Something to look at.
enum Work {
    Snapshot(Box<Snapshot>),
    Voided(Voided),
}

/// Watches all replicas and deletes those of voided attempts. Never ends.
pub async fn sweep(client: Client, endings: Endings, voided: mpsc::Receiver<Voided>) {
    let voided = ReceiverStream::new(voided).map(Work::Voided).boxed();
    stream::select(snapshots(&client), voided)
        .for_each_concurrent(LATE_CONCURRENCY, |work| match work {
            Work::Snapshot(snapshot) => judge(&client, &endings, snapshot).boxed(),
            Work::Voided(Voided { namespace, uid }) => {
                let client = client.clone();
                async move {
                    delete_replicas(&client, &namespace, &uid, &[]).await;
                }
                .boxed()
            }
        })
        .await;
}

fn snapshots(client: &Client) -> BoxStream<'static, Work> {
    let config = watcher::Config::default().labels(labels::REPLICATION_UID);
    watcher(Api::<Snapshot>::all(client.clone()), config)
        .default_backoff()
        .filter_map(|event| {
            std::future::ready(match event {
                Ok(watcher::Event::Apply(snapshot) | watcher::Event::InitApply(snapshot)) => {
                    Some(Work::Snapshot(Box::new(snapshot)))
                }
                Ok(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone) => None,
                // Also: the snapshot API is not installed. It may be later.
                Err(error) => {
                    tracing::debug!(%error, "replicas cannot be watched");
                    None
                }
            })
        })
        .boxed()
}

/// Deletes a snapshot if its attempt is void. Tries until that is decided and done: no event will tell of it again.
async fn judge(client: &Client, endings: &Endings, snapshot: Box<Snapshot>) {
    let mut pauses = Pauses::new();
    while let Err(error) = judge_once(client, endings, &snapshot).await {
        pauses.after(error).await;
    }
}

async fn judge_once(client: &Client, endings: &Endings, snapshot: &Snapshot) -> anyhow::Result<()> {
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
    if endings.of(uid).is_none() {
        let api: Api<ConsistencyGroupReplication> = Api::namespaced(client.clone(), &namespace);
        let replication = within(API_TIMEOUT, api.get_opt(name)).await?;
        if let Some(replication) = replication.filter(|it| it.uid().as_ref() == Some(uid)) {
            endings.remember(&replication);
        }
    }
    // Of a replication that is gone and not remembered nothing is known: it may have been Done, and its replicas retained.
    if !endings.of(uid).is_some_and(is_void) {
        return Ok(());
    }
    tracing::info!(name = snapshot.name_any(), namespace, "deletes a snapshot of a voided attempt that turned up late");
    let api: Api<VolumeSnapshot> = Api::namespaced(client.clone(), &namespace);
    match tokio::time::timeout(API_TIMEOUT, api.delete(&snapshot.name_any(), &DeleteParams::default())).await? {
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}
