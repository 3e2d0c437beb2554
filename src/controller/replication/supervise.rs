//! Starts a run for every replication that needs one, and no more at a time than [`super::Config`] allows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::conditions;
use super::late::Endings;
use super::runs::{Context, replicate};
use super::status::write_unless_changed;
use crate::api::{ConsistencyGroupReplication, Phase, PhaseEntry, ReplicationStatus, labels};
use crate::limits::{API_RETRY_MAX, API_RETRY_MIN};

type Object = Arc<ConsistencyGroupReplication>;

/// A replication that is worked on, or is to be.
struct Entry {
    newest: watch::Sender<Option<Object>>,
    running: bool,
    queued: bool,
    /// That it waits was written to its status.
    shown: bool,
    /// Its deletion was seen since its task began, which may have looked before.
    deletion_seen: bool,
    /// Runs that ended with an error, one after the other.
    failures: u32,
}

/// What a task of the supervisor ended with: the UID of its replication, and whether it succeeded.
type Ended = (String, anyhow::Result<()>);

/// Follows all replications.
pub struct Supervisor {
    context: Context,
    endings: Endings,
    entries: HashMap<String, Entry>,
    /// Entries that wait for their turn.
    queue: VecDeque<String>,
    tasks: JoinSet<Ended>,
    /// UIDs that the list in progress has shown so far.
    listed: HashSet<String>,
}

impl Supervisor {
    /// Begins with nothing.
    pub fn new(context: Context, endings: Endings) -> Self {
        Self {
            context,
            endings,
            entries: HashMap::new(),
            queue: VecDeque::new(),
            tasks: JoinSet::new(),
            listed: HashSet::new(),
        }
    }

    /// Follows all replications until the controller stops; then waits until every run has given writes back.
    pub async fn follow(mut self) {
        let api: Api<ConsistencyGroupReplication> = Api::all(self.context.client.clone());
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let shutdown = self.context.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = events.next() => match event {
                    Ok(event) => self.handle(event),
                    Err(error) => tracing::warn!(%error, "replications cannot be watched; it is tried again"),
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
            self.start_waiting();
        }
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a run ended early");
            }
        }
    }

    fn handle(&mut self, event: watcher::Event<ConsistencyGroupReplication>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(object) => {
                self.listed.extend(object.uid());
                self.update(object);
            }
            watcher::Event::Apply(object) => self.update(object),
            watcher::Event::Delete(object) => self.gone(&object.uid().unwrap_or_default()),
            watcher::Event::InitDone => {
                // What a new list does not show was deleted while nobody watched.
                let missing: Vec<String> =
                    self.entries.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
                missing.iter().for_each(|uid| self.gone(uid));
            }
        }
    }

    fn update(&mut self, object: ConsistencyGroupReplication) {
        let uid = object.uid().unwrap_or_default();
        self.endings.remember(&object);
        let to_do = needs_work(&object);
        let deleting = object.metadata.deletion_timestamp.is_some();
        let object = Arc::new(object);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.deletion_seen |= deleting;
            entry.newest.send_replace(Some(object));
            if !to_do && !entry.running {
                self.entries.remove(&uid);
            }
        } else if to_do {
            let (newest, _) = watch::channel(Some(object));
            self.entries.insert(
                uid.clone(),
                Entry { newest, running: false, queued: false, shown: false, deletion_seen: false, failures: 0 },
            );
        }
        if to_do {
            self.enqueue(&uid);
        }
    }

    fn gone(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get(uid) {
            entry.newest.send_replace(None);
            if !entry.running {
                self.entries.remove(uid);
            }
        }
    }

    fn enqueue(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid)
            && !entry.running
            && !entry.queued
        {
            entry.queued = true;
            self.queue.push_back(uid.to_owned());
        }
    }

    fn start_waiting(&mut self) {
        while self.tasks.len() < self.context.config.max_runs {
            let Some(uid) = self.queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            entry.queued = false;
            entry.running = true;
            entry.deletion_seen = false;
            let (context, object, pause) = (self.context.clone(), entry.newest.subscribe(), pause(entry.failures));
            self.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // A run that was not begun is the next leader's.
                    () = context.shutdown.cancelled() => return (uid, Ok(())),
                }
                (uid, contained(replicate(&context, object)).await)
            });
        }
        for uid in self.queue.clone() {
            self.show_pending(&uid);
        }
    }

    /// Says once that a run waits for its turn.
    fn show_pending(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid).filter(|entry| !entry.shown) else { return };
        entry.shown = true;
        let Some(object) = entry.newest.borrow().clone().filter(|object| object.status.is_none()) else { return };
        let now = self.context.now();
        let generation = object.metadata.generation;
        let runs = self.context.config.max_runs;
        let message = format!("{runs} replications run already; this one waits for its turn");
        let status = ReplicationStatus {
            phase: Some(Phase::Pending),
            phases: vec![PhaseEntry { phase: Phase::Pending, started_at: now.micro_time() }],
            observed_generation: generation,
            conditions: conditions::waiting(generation, &message, &[], now),
            ..ReplicationStatus::default()
        };
        tokio::spawn(write_unless_changed(
            self.context.client.clone(),
            self.context.events.clone(),
            (*object).clone(),
            status,
        ));
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let (uid, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a run ended early");
                return;
            }
        };
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.running = false;
        let newest = entry.newest.borrow().clone();
        match result {
            Ok(()) => entry.failures = 0,
            Err(error) => {
                entry.failures = entry.failures.saturating_add(1);
                tracing::warn!(%uid, error = format!("{error:#}"), "a run could not go on and is tried again");
            }
        }
        let again = entry.failures > 0 || entry.deletion_seen;
        // After success the watch will show the end; until then the newest object may be older than what the run wrote.
        match newest {
            Some(_) if again => self.enqueue(&uid),
            Some(object) if needs_work(&object) => {}
            _ => {
                self.entries.remove(&uid);
            }
        }
    }
}

/// Runs to the end, or to a panic, which is then a failure of this run alone.
async fn contained(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // What a run shares with others is whole after every step: maps behind locks, and channels.
    let ended = AssertUnwindSafe(run).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the run panicked; the log says where")))
}

fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => API_RETRY_MIN.saturating_mul(1 << failures.min(10)).min(API_RETRY_MAX),
    }
}

fn final_phase(object: &ConsistencyGroupReplication) -> Option<Phase> {
    object.status.as_ref().and_then(|status| status.phase).filter(|phase| phase.is_final())
}

/// Whether a run is to be started: it has not ended, or it has and waits for its finalizer.
fn needs_work(object: &ConsistencyGroupReplication) -> bool {
    if object.metadata.deletion_timestamp.is_some() {
        return object.finalizers().iter().any(|one| one == labels::FINALIZER);
    }
    final_phase(object).is_none()
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
