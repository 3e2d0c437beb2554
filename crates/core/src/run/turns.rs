//! Whose turn it is: which replications are driven now, which wait for a place, for their time or for news. Pure.
//!
//! Whoever needs agents has a place among the runs; what only waits for its uploads, and what only cleans up after an ended
//! run, takes none from those.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use stillpoint_api::{ConsistencyGroupReplication, Phase, PhaseEntry, ReplicationStatus};

use super::conditions;
use super::driver::{Over, has_ended, needs_work};
use super::state::Moment;
use crate::limits::{API_RETRY_MAX, API_RETRY_MIN, CLEAN_UP_RETRY_MAX, MAX_GOODBYES, MAX_UPLOADS};

type Object = Arc<ConsistencyGroupReplication>;

/// A replication that is worked on, or is to be.
#[derive(Clone, Debug)]
struct Entry {
    newest: Object,
    turn: Turn,
    /// A cool-down, or a pause after a failure, lasts until then.
    not_before: Duration,
    /// That it waits was said.
    shown: bool,
    /// Its deletion was seen since it was started, which may have looked before.
    deletion_seen: bool,
    /// Failures, one after the other.
    failures: u32,
}

/// What an entry is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing is to be done before its watch says something new.
    Idle,
    /// It may not begin before this.
    Later(Duration),
    /// It waits for its turn.
    Queued,
    /// It is driven, and has this place.
    Driven(Place),
}

/// Where something that is driven has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Run,
    Upload,
    Goodbye,
}

/// All replications. Times are on the monotonic clock.
#[derive(Clone, Debug)]
pub struct Turns {
    /// Places among the runs.
    max_runs: usize,
    runs: usize,
    uploads: usize,
    goodbyes: usize,
    entries: HashMap<String, Entry>,
    /// Entries that may not begin yet, the first one first.
    later: BTreeSet<(Duration, String)>,
    /// Entries that wait for a place among the runs.
    queue: VecDeque<String>,
    /// Entries that have ended and whose deletion waits to be dealt with.
    parting: VecDeque<String>,
    /// Entries of the queue of which it was not said yet that they wait.
    unsaid: VecDeque<String>,
    /// UIDs that the list in progress has shown so far.
    listed: HashSet<String>,
}

impl Turns {
    /// With places for so many runs, [`MAX_UPLOADS`] and [`MAX_GOODBYES`].
    pub fn new(max_runs: usize) -> Self {
        Self {
            max_runs,
            runs: 0,
            uploads: 0,
            goodbyes: 0,
            entries: HashMap::new(),
            later: BTreeSet::new(),
            queue: VecDeque::new(),
            parting: VecDeque::new(),
            unsaid: VecDeque::new(),
            listed: HashSet::new(),
        }
    }

    /// A list of all objects begins.
    pub fn list_begins(&mut self) {
        self.listed.clear();
    }

    /// The list shows an object.
    pub fn listed(&mut self, object: Object, now: Duration) {
        self.listed.extend(object.uid());
        self.update(object, now);
    }

    /// The list is complete: gives those that are driven and were deleted while nobody watched.
    pub fn list_ends(&mut self) -> Vec<String> {
        let missing: Vec<String> = self.entries.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
        missing.into_iter().filter(|uid| self.gone(uid)).collect()
    }

    /// An object is there, as it is now.
    pub fn update(&mut self, object: Object, now: Duration) {
        let uid = object.uid().unwrap_or_default();
        let to_do = needs_work(&object);
        let deleting = object.metadata.deletion_timestamp.is_some();
        if let Some(entry) = self.entries.get_mut(&uid) {
            if deleting && !entry.deletion_seen {
                // A deletion waits for no cool-down.
                entry.deletion_seen = true;
                entry.not_before = now;
            }
            entry.newest = object;
            if !to_do && !matches!(entry.turn, Turn::Driven(_)) {
                self.forget(&uid);
            }
        } else if to_do {
            let entry = Entry {
                newest: object,
                turn: Turn::Idle,
                not_before: now,
                shown: false,
                deletion_seen: false,
                failures: 0,
            };
            self.entries.insert(uid.clone(), entry);
        }
        if to_do {
            self.enqueue(&uid, now);
        }
    }

    /// An object is gone. Says whether it is driven.
    pub fn gone(&mut self, uid: &str) -> bool {
        let driven = self.entries.get(uid).is_some_and(|entry| matches!(entry.turn, Turn::Driven(_)));
        if !driven {
            self.forget(uid);
        }
        driven
    }

    /// Who begins now, if anybody does. To be asked again until nobody does.
    pub fn start(&mut self, now: Duration) -> Option<Object> {
        while let Some((at, uid)) = self.later.first().cloned()
            && at <= now
        {
            self.enqueue(&uid, now);
        }
        if self.runs < self.max_runs
            && let Some(uid) = self.queue.pop_front()
        {
            return self.begin(&uid, Place::Run);
        }
        if self.goodbyes < MAX_GOODBYES
            && let Some(uid) = self.parting.pop_front()
        {
            return self.begin(&uid, Place::Goodbye);
        }
        None
    }

    /// Who waits for a place and has no status that says so, with that status. Given once.
    pub fn waits(&mut self, epoch: u64, now: Moment) -> Option<(Object, ReplicationStatus)> {
        while let Some(uid) = self.unsaid.pop_front() {
            let waits = self.entries.get_mut(&uid).filter(|entry| entry.turn == Turn::Queued && !entry.shown);
            let Some(entry) = waits else { continue };
            entry.shown = true;
            if entry.newest.status.is_none() {
                let object = Arc::clone(&entry.newest);
                let status = waiting_status(&object, self.max_runs, epoch, now);
                return Some((object, status));
            }
        }
        None
    }

    /// When [`Turns::start`] has something to give without news, if everything else stays.
    pub fn wake_at(&self) -> Option<Duration> {
        self.later.first().map(|(at, _)| *at)
    }

    /// One that is driven needs no agent any more: its place among the runs goes to the next, if there is one for an upload.
    pub fn step_aside(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.turn == Turn::Driven(Place::Run) && self.uploads < MAX_UPLOADS {
            entry.turn = Turn::Driven(Place::Upload);
            self.runs -= 1;
            self.uploads += 1;
        }
    }

    /// One that was driven is over; `there`: the object is, as far as is known.
    pub fn ended(&mut self, uid: &str, over: &Over, there: bool, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Turn::Driven(place) = std::mem::replace(&mut entry.turn, Turn::Idle) else { return };
        match place {
            Place::Run => self.runs -= 1,
            Place::Upload => self.uploads -= 1,
            Place::Goodbye => self.goodbyes -= 1,
        }
        let failed = !matches!(over, Over::Ended | Over::Later(_));
        entry.failures = if failed { entry.failures.saturating_add(1) } else { 0 };
        let again = match over {
            Over::Ended => None,
            Over::Later(after) => Some(*after),
            Over::Failed(_) | Over::Outranked(_) => Some(pause(entry.failures, API_RETRY_MAX)),
            Over::Left(_) => Some(pause(entry.failures, CLEAN_UP_RETRY_MAX)),
        };
        // After success the watch will show the end; until then the newest object may be older than what was written.
        match again {
            _ if there && entry.deletion_seen && entry.failures == 0 => self.enqueue(uid, now),
            Some(after) if there => {
                entry.not_before = now + after;
                self.enqueue(uid, now);
            }
            None if there && needs_work(&entry.newest) => {}
            _ => self.forget(uid),
        }
    }

    fn begin(&mut self, uid: &str, place: Place) -> Option<Object> {
        // Whoever is forgotten has left its queue.
        let entry = self.entries.get_mut(uid)?;
        entry.turn = Turn::Driven(place);
        entry.deletion_seen = false;
        match place {
            Place::Run => self.runs += 1,
            Place::Upload => self.uploads += 1,
            Place::Goodbye => self.goodbyes += 1,
        }
        Some(Arc::clone(&entry.newest))
    }

    fn forget(&mut self, uid: &str) {
        match self.entries.remove(uid).map(|entry| entry.turn) {
            Some(Turn::Later(at)) => drop(self.later.remove(&(at, uid.to_owned()))),
            Some(Turn::Queued) => {
                self.queue.retain(|one| one != uid);
                self.parting.retain(|one| one != uid);
            }
            Some(Turn::Idle | Turn::Driven(_)) | None => {}
        }
    }

    /// Puts an entry where it waits: for its time, or for its turn.
    fn enqueue(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match entry.turn {
            Turn::Queued | Turn::Driven(_) => return,
            Turn::Later(at) => drop(self.later.remove(&(at, uid.to_owned()))),
            Turn::Idle => {}
        }
        if entry.not_before > now {
            entry.turn = Turn::Later(entry.not_before);
            self.later.insert((entry.not_before, uid.to_owned()));
            return;
        }
        entry.turn = Turn::Queued;
        if has_ended(&entry.newest) {
            self.parting.push_back(uid.to_owned());
        } else {
            self.queue.push_back(uid.to_owned());
            if !entry.shown {
                self.unsaid.push_back(uid.to_owned());
            }
        }
    }
}

/// How long to wait after so many failures, one after the other.
fn pause(failures: u32, longest: Duration) -> Duration {
    API_RETRY_MIN.saturating_mul(1 << failures.min(10)).min(longest)
}

/// The status of one that waits for its turn.
fn waiting_status(object: &ConsistencyGroupReplication, max_runs: usize, epoch: u64, now: Moment) -> ReplicationStatus {
    let generation = object.metadata.generation;
    let message = format!("{max_runs} replications run already; this one waits for its turn");
    ReplicationStatus {
        phase: Some(Phase::Pending),
        phases: vec![PhaseEntry { phase: Phase::Pending, started_at: now.micro_time() }],
        observed_generation: generation,
        leader_epoch: epoch,
        conditions: conditions::waiting(generation, &message, &[], now),
        ..ReplicationStatus::default()
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
