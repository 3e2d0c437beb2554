//! Starts a run for every replication that needs one: when its time has come, and when there is a place for it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::late::Endings;
use super::places::Place;
use super::runs::{Context, has_ended, replicate};
use super::status::write_unless_changed;
use stillpoint_api::{ConsistencyGroupReplication, Phase, PhaseEntry, ReplicationStatus, labels};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN};
use stillpoint_core::run::conditions;

type Object = Arc<ConsistencyGroupReplication>;

/// A replication that is worked on, or is to be.
struct Entry {
    newest: watch::Sender<Option<Object>>,
    turn: Turn,
    /// A cool-down, or a pause after a failure, lasts until then.
    not_before: Instant,
    /// That it waits was written to its status.
    shown: bool,
    /// Its deletion was seen since its task began, which may have looked before.
    deletion_seen: bool,
    /// Runs that ended with an error, one after the other.
    failures: u32,
}

/// What an entry is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing is to be done before its watch says something new.
    Idle,
    /// It may not begin before this.
    Later(Instant),
    /// It waits for its turn.
    Queued,
    /// A task works on it.
    Running,
}

/// What a task of the supervisor ended with: the UID of its replication, and after which time to begin again.
type Ended = (String, anyhow::Result<Option<Duration>>);

/// Follows all replications.
pub struct Supervisor {
    context: Context,
    endings: Endings,
    entries: HashMap<String, Entry>,
    /// Entries that may not begin yet, the first one first.
    later: BTreeSet<(Instant, String)>,
    /// Entries that wait for a place among the runs.
    queue: VecDeque<String>,
    /// Entries that have ended and whose deletion waits to be dealt with.
    goodbyes: VecDeque<String>,
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
            later: BTreeSet::new(),
            queue: VecDeque::new(),
            goodbyes: VecDeque::new(),
            tasks: JoinSet::new(),
            listed: HashSet::new(),
        }
    }

    /// Follows all replications until the controller stops; then waits until every run has given writes back.
    pub async fn follow(mut self) {
        let api: Api<ConsistencyGroupReplication> = Api::all(self.context.client.clone());
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let (shutdown, places) = (self.context.shutdown.clone(), self.context.places.clone());
        loop {
            let next = self.later.first().map(|(at, _)| *at);
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = events.next() => match event {
                    Ok(event) => self.handle(event, Instant::now()),
                    Err(error) => tracing::warn!(%error, "replications cannot be watched; it is tried again"),
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended, Instant::now()),
                place = places.run(), if !self.queue.is_empty() => self.start_next(place),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            self.start_waiting(Instant::now());
        }
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a run ended early");
            }
        }
    }

    fn handle(&mut self, event: watcher::Event<ConsistencyGroupReplication>, now: Instant) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(object) => {
                self.listed.extend(object.uid());
                self.update(object, now);
            }
            watcher::Event::Apply(object) => self.update(object, now),
            watcher::Event::Delete(object) => self.gone(&object.uid().unwrap_or_default()),
            watcher::Event::InitDone => {
                // What a new list does not show was deleted while nobody watched.
                let missing: Vec<String> =
                    self.entries.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
                missing.iter().for_each(|uid| self.gone(uid));
            }
        }
    }

    fn update(&mut self, object: ConsistencyGroupReplication, now: Instant) {
        let uid = object.uid().unwrap_or_default();
        self.endings.remember(&object);
        let to_do = needs_work(&object);
        let deleting = object.metadata.deletion_timestamp.is_some();
        let object = Arc::new(object);
        if let Some(entry) = self.entries.get_mut(&uid) {
            if deleting && !entry.deletion_seen {
                // A deletion waits for no cool-down.
                entry.deletion_seen = true;
                entry.not_before = now;
            }
            entry.newest.send_replace(Some(object));
            if !to_do && entry.turn != Turn::Running {
                self.forget(&uid);
            }
        } else if to_do {
            let (newest, _) = watch::channel(Some(object));
            let entry =
                Entry { newest, turn: Turn::Idle, not_before: now, shown: false, deletion_seen: false, failures: 0 };
            self.entries.insert(uid.clone(), entry);
        }
        if to_do {
            self.enqueue(&uid, now);
        }
    }

    fn gone(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get(uid) {
            entry.newest.send_replace(None);
            if entry.turn != Turn::Running {
                self.forget(uid);
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        if let Some(Entry { turn: Turn::Later(at), .. }) = self.entries.remove(uid) {
            self.later.remove(&(at, uid.to_owned()));
        }
    }

    /// Puts an entry where it waits: for its time, or for its turn.
    fn enqueue(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match entry.turn {
            Turn::Queued | Turn::Running => return,
            Turn::Later(at) => drop(self.later.remove(&(at, uid.to_owned()))),
            Turn::Idle => {}
        }
        if entry.not_before > now {
            entry.turn = Turn::Later(entry.not_before);
            self.later.insert((entry.not_before, uid.to_owned()));
            return;
        }
        entry.turn = Turn::Queued;
        let only_deleted = entry.newest.borrow().as_ref().is_some_and(|object| has_ended(object));
        let queue = if only_deleted { &mut self.goodbyes } else { &mut self.queue };
        queue.push_back(uid.to_owned());
    }

    fn start_waiting(&mut self, now: Instant) {
        while let Some((at, uid)) = self.later.first().cloned()
            && at <= now
        {
            self.enqueue(&uid, now);
        }
        while !self.queue.is_empty()
            && let Some(place) = self.context.places.try_run()
        {
            self.start_next(place);
        }
        while !self.goodbyes.is_empty()
            && let Some(place) = self.context.places.try_goodbye()
            && let Some(uid) = self.goodbyes.pop_front()
        {
            self.start(uid, place);
        }
        for uid in self.queue.clone() {
            self.show_pending(&uid);
        }
    }

    /// Starts the next run. The place is given back when none waits any more.
    fn start_next(&mut self, place: Place) {
        if let Some(uid) = self.queue.pop_front() {
            self.start(uid, place);
        }
    }

    fn start(&mut self, uid: String, place: Place) {
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.turn = Turn::Running;
        entry.deletion_seen = false;
        let (context, object) = (self.context.clone(), entry.newest.subscribe());
        self.tasks.spawn(async move { (uid, contained(replicate(&context, object, place)).await) });
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
            leader_epoch: self.context.config.epoch,
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

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>, now: Instant) {
        let (uid, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a run ended early");
                return;
            }
        };
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.turn = Turn::Idle;
        let (again, failures) = match result {
            Ok(again) => (again, 0),
            Err(error) => {
                tracing::warn!(%uid, error = format!("{error:#}"), "a run could not go on and is tried again");
                let failures = entry.failures.saturating_add(1);
                (Some(pause(failures)), failures)
            }
        };
        entry.failures = failures;
        let newest = entry.newest.borrow().clone();
        // After success the watch will show the end; until then the newest object may be older than what the run wrote.
        match newest {
            Some(_) if entry.deletion_seen && failures == 0 => self.enqueue(&uid, now),
            Some(_) if again.is_some() => {
                entry.not_before = now + again.unwrap_or_default();
                self.enqueue(&uid, now);
            }
            Some(object) if needs_work(&object) => {}
            _ => self.forget(&uid),
        }
    }
}

/// Runs to the end, or to a panic, which is then a failure of this run alone.
async fn contained<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // What a run shares with others is whole after every step: maps behind locks, and channels.
    let ended = AssertUnwindSafe(run).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the run panicked; the log says where")))
}

/// How long to wait after so many failures, one after the other.
fn pause(failures: u32) -> Duration {
    API_RETRY_MIN.saturating_mul(1 << failures.min(10)).min(API_RETRY_MAX)
}

/// Whether a run is to be started: it has not ended, or it has and waits for its finalizer.
fn needs_work(object: &ConsistencyGroupReplication) -> bool {
    if object.metadata.deletion_timestamp.is_some() {
        return object.finalizers().iter().any(|one| one == labels::FINALIZER);
    }
    !has_ended(object)
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
