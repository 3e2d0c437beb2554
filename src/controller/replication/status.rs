//! Writes statuses, in order, from one task per run. A queue between planner and writer never holds up a hold.
//!
//! A status is replaced whole, with the resource version that was read (an update, not server-side apply), and carries the
//! epoch of the leader that wrote it. Whoever wrote in between is noticed: a controller that has lost its leadership finds a
//! higher epoch than its own, and writes no more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::events::{Events, Told};
use crate::controller::api::{sentence, within};
use stillpoint_api::{ConsistencyGroupReplication, Phase, ReplicationStatus};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, API_TIMEOUT, STATUS_INTERVAL, STATUS_QUEUE};

/// Statuses that wait to be written. Of one phase only the newest waits, so that there are never more than phases.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    statuses: VecDeque<ReplicationStatus>,
    newest: Option<ReplicationStatus>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every critical section leaves the queue whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, status: ReplicationStatus) {
        let mut waiting = self.lock();
        if waiting.newest.as_ref() == Some(&status) {
            return;
        }
        let same_phase = waiting.statuses.back().is_some_and(|last| last.phase == status.phase);
        if same_phase || waiting.statuses.len() >= STATUS_QUEUE {
            waiting.statuses.pop_back();
        }
        waiting.newest = Some(status.clone());
        waiting.statuses.push_back(status);
        drop(waiting);
        self.changed.notify_one();
    }

    /// The next status; `None` when the queue is closed and empty.
    async fn next(&self) -> Option<ReplicationStatus> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(status) = waiting.statuses.pop_front() {
                    return Some(status);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// A newer status of the same phase, if one waits.
    fn newer(&self, phase: Option<Phase>) -> Option<ReplicationStatus> {
        let mut waiting = self.lock();
        if waiting.statuses.front()?.phase != phase { None } else { waiting.statuses.pop_front() }
    }

    /// Whether a status of a later phase waits.
    fn has_later(&self, phase: Option<Phase>) -> bool {
        self.lock().statuses.iter().any(|status| status.phase != phase)
    }

    /// Whether no more will come.
    fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// The writer of one run's status.
pub struct StatusWriter {
    queue: Arc<Queue>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

/// How far a writer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is stored yet.
    Begun,
    /// A status is stored.
    Stored,
    /// The status is not this writer's any more.
    Lost(Lost),
}

/// Why a run must not write its status any more, and so must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A newer leader works on the object.
    Overtaken,
    /// Somebody else changed the status; what is stored is to be read anew.
    Changed,
}

impl StatusWriter {
    /// Starts the task that writes the status of `object`.
    pub fn start(client: Client, events: Events, object: ConsistencyGroupReplication) -> Self {
        let queue = Arc::new(Queue::default());
        let (tell, progress) = watch::channel(Progress::Begun);
        let task = tokio::spawn(write_all(client, events, object, Arc::clone(&queue), tell));
        Self { queue, progress, task }
    }

    /// Queues a status. Never waits.
    pub fn push(&self, status: ReplicationStatus) {
        self.queue.push(status);
    }

    /// Waits until any status is stored. Safe to cancel.
    pub async fn recorded(&self) {
        if self.progress.clone().wait_for(|progress| *progress == Progress::Stored).await.is_err() {
            // The writer stopped because the object is gone or ended; the watch of the object will say so.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the status is found to be somebody else's. Safe to cancel.
    pub async fn lost(&self) -> Lost {
        let mut progress = self.progress.clone();
        let found = progress.wait_for(|progress| matches!(progress, Progress::Lost(_))).await.map(|found| *found);
        match found {
            Ok(Progress::Lost(lost)) => lost,
            Ok(Progress::Begun | Progress::Stored) | Err(_) => std::future::pending().await,
        }
    }

    /// Writes what still waits and ends; says whether the status was found to be somebody else's.
    pub async fn finish(self) -> Option<Lost> {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the status writer ended early");
        }
        match *self.progress.borrow() {
            Progress::Lost(lost) => Some(lost),
            Progress::Begun | Progress::Stored => None,
        }
    }
}

async fn write_all(
    client: Client,
    events: Events,
    mut object: ConsistencyGroupReplication,
    queue: Arc<Queue>,
    tell: watch::Sender<Progress>,
) {
    let reference = object.object_ref(&());
    let mut told = object.status.as_ref().map(Told::by).unwrap_or_default();
    let mut last: Option<(Option<Phase>, Instant)> = None;
    while let Some(status) = queue.next().await {
        let new_phase = last.is_none_or(|(phase, _)| phase != status.phase);
        if let (false, Some((phase, at))) = (new_phase, last) {
            wait_for_turn(&queue, phase, at).await;
            if queue.has_later(phase) {
                // What it tells is told by the next one too, and requests during a hold are few.
                continue;
            }
        }
        object = match write(&client, object, status, &queue).await {
            Ok(stored) => stored,
            Err(Unwritable::Gone) => return,
            Err(Unwritable::Lost(lost)) => {
                tell.send_replace(Progress::Lost(lost));
                return;
            }
        };
        let phase = object.status.as_ref().and_then(|status| status.phase);
        last = Some((phase, Instant::now()));
        tell.send_replace(Progress::Stored);
        if let Some(status) = &object.status {
            events.tell(&mut told, status, &reference);
        }
    }
}

/// Spaces updates of the same phase, unless something more important waits behind.
async fn wait_for_turn(queue: &Queue, phase: Option<Phase>, last: Instant) {
    let turn = tokio::time::sleep_until(last + STATUS_INTERVAL);
    tokio::pin!(turn);
    while !queue.has_later(phase) && !queue.is_closed() {
        tokio::select! {
            () = &mut turn => return,
            () = queue.changed.notified() => {}
        }
    }
}

/// Why a status is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwritable {
    /// There is no such object any more.
    Gone,
    /// The status is somebody else's.
    Lost(Lost),
}

/// Writes one status, or a newer one of its phase, over the one that `object` has. Tries until it is stored.
async fn write(
    client: &Client,
    mut object: ConsistencyGroupReplication,
    status: ReplicationStatus,
    queue: &Queue,
) -> Result<ConsistencyGroupReplication, Unwritable> {
    let before = object.status.clone();
    let name = object.name_any();
    let uid = object.uid();
    let api: Api<ConsistencyGroupReplication> =
        Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let phase = status.phase;
    object.status = Some(status);
    let mut pause = API_RETRY_MIN;
    let mut told = None;
    loop {
        if let Some(newer) = queue.newer(phase) {
            object.status = Some(newer);
        }
        let params = PostParams::default();
        let answer =
            tokio::time::timeout(API_TIMEOUT, api.replace_subresource("status", &name, &params, &object)).await;
        let trouble = match answer {
            Ok(Ok(stored)) => return Ok(stored),
            Ok(Err(kube::Error::Api(error))) if error.is_not_found() => return Err(Unwritable::Gone),
            Ok(Err(kube::Error::Api(error))) if error.is_conflict() => {
                if let Ok(current) = within(API_TIMEOUT, api.get_opt(&name)).await {
                    let current = current.filter(|current| current.uid() == uid).ok_or(Unwritable::Gone)?;
                    if let Some(lost) = lost(before.as_ref(), object.status.as_ref(), current.status.as_ref()) {
                        tracing::warn!(name, ?lost, "somebody else has written this status; it is left as it is");
                        return Err(Unwritable::Lost(lost));
                    }
                    object.metadata = current.metadata;
                    continue;
                }
                sentence(&kube::Error::Api(error))
            }
            Ok(Err(error)) => sentence(&error),
            Err(_) => format!("the API server did not answer within {API_TIMEOUT:?}"),
        };
        // A refusal may last for hours: each cause is worth one line.
        if told.as_ref() != Some(&trouble) {
            tracing::warn!(name, "the status cannot be written; it is tried again until it can: {trouble}");
            told = Some(trouble);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(API_RETRY_MAX);
    }
}

/// Writes a first status, unless the object is not any more what it was. Tries once: it only tells of a run that waits.
pub async fn write_unless_changed(
    client: Client,
    events: Events,
    mut object: ConsistencyGroupReplication,
    status: ReplicationStatus,
) {
    let name = object.name_any();
    let reference = object.object_ref(&());
    let api: Api<ConsistencyGroupReplication> = Api::namespaced(client, &object.namespace().unwrap_or_default());
    object.status = Some(status);
    match within(API_TIMEOUT, api.replace_subresource("status", &name, &PostParams::default(), &object)).await {
        Ok(stored) => events.tell(&mut Told::default(), &stored.status.unwrap_or_default(), &reference),
        Err(error) => tracing::debug!(name, error = format!("{error:#}"), "that a run waits was not written"),
    }
}

/// Whether what is stored now is somebody else's, so that nothing may be written over it. `before` was stored when `ours` was
/// made, and what is stored may be ours too: a write whose answer was lost.
///
/// A status of an older leader is read anew, because nobody has seen yet what it says; it may be the end of the run.
fn lost(
    before: Option<&ReplicationStatus>,
    ours: Option<&ReplicationStatus>,
    stored: Option<&ReplicationStatus>,
) -> Option<Lost> {
    let epoch = |status: Option<&ReplicationStatus>| status.map_or(0, |status| status.leader_epoch);
    let phase = |status: Option<&ReplicationStatus>| status.and_then(|status| status.phase);
    if epoch(stored) > epoch(ours) {
        return Some(Lost::Overtaken);
    }
    let not_ours = epoch(stored) < epoch(ours) && stored != before;
    // Final phases are never left.
    let ended_otherwise = phase(stored).is_some_and(Phase::is_final) && phase(stored) != phase(ours);
    (not_ours || ended_otherwise).then_some(Lost::Changed)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
