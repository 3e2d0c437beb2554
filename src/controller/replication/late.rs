//! Snapshots that turn up late: a creation whose outcome was not heard of may come true after its attempt was voided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::execute::{Pauses, attempt_of, delete_replica, delete_replicas};
use crate::controller::api::within;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Mode, Phase, ReplicationStatus, labels};
use stillpoint_core::limits::{API_TIMEOUT, LATE_CONCURRENCY, MAX_REMEMBERED_RUNS};

/// Which attempts are void, by the UID of the replication. What is void stays so, and final phases are never left, so this
/// never becomes wrong.
#[derive(Clone)]
pub struct Endings {
    known: Arc<Mutex<HashMap<String, Known>>>,
    voided: mpsc::Sender<Voided>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Known {
    /// This attempt and all before it are void; 0: none is.
    last_void: u32,
    /// No other attempt will follow.
    ended: bool,
}

/// A replication whose replicas are void, up to this attempt.
pub struct Voided {
    namespace: String,
    uid: String,
    last_attempt: u32,
}

impl Endings {
    /// Remembers nothing yet. The other end gives every voided run once, for [`sweep`].
    pub fn new() -> (Self, mpsc::Receiver<Voided>) {
        let (voided, to_sweep) = mpsc::channel(MAX_REMEMBERED_RUNS);
        (Self { known: Arc::default(), voided }, to_sweep)
    }

    /// Remembers which attempts are void, if any are, and that a run has ended. Forgets all others when there are too many: they
    /// can be read again.
    ///
    /// A snapshot that turned up before the end of its attempt was stored was not late then, and no event will tell of it
    /// again: the replicas of a void attempt are looked for once more, now that whatever comes after this is known to be late.
    pub fn remember(&self, object: &ConsistencyGroupReplication) {
        let Some(status) = object.status.as_ref().filter(|_| object.spec.mode == Mode::Replicate) else { return };
        let ended = status.phase.is_some_and(Phase::is_final);
        let uid = object.uid().unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&uid).copied().unwrap_or_default();
        let now = Known { last_void: before.last_void.max(last_void(status)), ended: before.ended || ended };
        if now == before {
            return;
        }
        if now.last_void > before.last_void {
            let namespace = object.namespace().unwrap_or_default();
            let voided = Voided { namespace, uid: uid.clone(), last_attempt: now.last_void };
            // What finds no place is not remembered either, so that the next look at the object tries again.
            if self.voided.try_send(voided).is_err() {
                return;
            }
        }
        if known.len() >= MAX_REMEMBERED_RUNS {
            known.clear();
        }
        known.insert(uid, now);
    }

    /// Whether this attempt is void; `None`: it is not known.
    fn is_void(&self, replication_uid: &str, attempt: u32) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(replication_uid)?;
        if attempt <= known.last_void { Some(true) } else { known.ended.then_some(false) }
    }
}

/// The last attempt whose replicas are void; 0: none.
fn last_void(status: &ReplicationStatus) -> u32 {
    // Without an attempt that was begun nothing was asked of anybody.
    if status.phases.iter().all(|entry| entry.phase == Phase::Pending || entry.phase.is_final()) {
        return 0;
    }
    match status.phase {
        Some(Phase::Aborted | Phase::Failed | Phase::Pending) => status.attempt,
        Some(Phase::Checking | Phase::Ready | Phase::Replicating | Phase::Done) | None => {
            status.attempt.saturating_sub(1)
        }
    }
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
            Work::Voided(Voided { namespace, uid, last_attempt }) => {
                let client = client.clone();
                async move {
                    delete_replicas(&client, &namespace, &uid, last_attempt, &[]).await;
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
    let (Some(uid), Some(name), Some(attempt), Some(namespace)) = (
        snapshot.labels().get(labels::REPLICATION_UID),
        snapshot.labels().get(labels::REPLICATION),
        attempt_of(snapshot),
        snapshot.namespace(),
    ) else {
        return Ok(());
    };
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    if endings.is_void(uid, attempt).is_none() {
        let api: Api<ConsistencyGroupReplication> = Api::namespaced(client.clone(), &namespace);
        let replication = within(API_TIMEOUT, api.get_opt(name)).await?;
        if let Some(replication) = replication.filter(|it| it.uid().as_ref() == Some(uid)) {
            endings.remember(&replication);
        }
    }
    // Of a replication that is gone and not remembered nothing is known: it may have been Done, and its replicas retained.
    if endings.is_void(uid, attempt) != Some(true) {
        return Ok(());
    }
    tracing::info!(name = snapshot.name_any(), namespace, "deletes a snapshot of a voided attempt that turned up late");
    let api: Api<VolumeSnapshot> = Api::namespaced(client.clone(), &namespace);
    delete_replica(&api, &snapshot.name_any()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use stillpoint_api::PhaseEntry;

    /// A replication whose second attempt has come so far.
    fn replication(phases: &[Phase]) -> ConsistencyGroupReplication {
        let mut object: ConsistencyGroupReplication = serde_json::from_value(json!({
            "apiVersion": "stillpoint.io/v1alpha1",
            "kind": "ConsistencyGroupReplication",
            "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid"},
            "spec": {"source": {}, "replication": {"volumeSnapshot": {}}},
        }))
        .unwrap();
        let entry = |phase: &Phase| PhaseEntry { phase: *phase, started_at: MicroTime(Timestamp::UNIX_EPOCH) };
        let phases = phases.iter().map(entry).collect::<Vec<_>>();
        let phase = phases.last().map(|entry| entry.phase);
        object.status = Some(ReplicationStatus { attempt: 2, phase, phases, ..ReplicationStatus::default() });
        object
    }

    #[test]
    fn an_attempt_is_void_when_it_was_aborted_or_another_one_followed() {
        use Phase::{Aborted, Checking, Done, Failed, Pending, Replicating};
        let first = [Checking, Pending];
        let cases = [
            (Checking, Some(true), None),
            (Replicating, Some(true), None),
            (Pending, Some(true), Some(true)),
            (Aborted, Some(true), Some(true)),
            (Failed, Some(true), Some(true)),
            (Done, Some(true), Some(false)),
        ];
        for (phase, of_the_first, of_the_second) in cases {
            let (endings, mut voided) = Endings::new();
            assert_eq!(endings.is_void("uid", 1), None);
            endings.remember(&replication(&[&first[..], &[phase]].concat()));
            assert_eq!(
                (endings.is_void("uid", 1), endings.is_void("uid", 2)),
                (of_the_first, of_the_second),
                "{phase:?}"
            );
            let swept = voided.try_recv().unwrap().last_attempt;
            assert_eq!(swept, if of_the_second == Some(true) { 2 } else { 1 }, "{phase:?}");
        }
        let (endings, mut voided) = Endings::new();
        endings.remember(&replication(&[Aborted]));
        assert!(voided.try_recv().is_err(), "nothing was asked of anybody");
        assert_eq!(endings.is_void("uid", 1), Some(false));
    }
}
