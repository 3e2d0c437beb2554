//! Whose turn it is: which replications are driven now, which wait for a place, for their time or for news. Pure.
//!
//! Whoever needs agents has a place among the runs; what only waits for its uploads, and what only cleans up after an ended
//! run, takes none from those.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stillpoint_api::{Phase, PhaseEntry, ReplicationStatus};

use super::conditions;
use super::driver::Over;
use super::state::Moment;
use super::stub::Stub;
use crate::limits::{API_RETRY_MAX, API_RETRY_MIN, CLEAN_UP_RETRY_MAX, MAX_GOODBYES, MAX_UPLOADS};

/// A replication that is worked on, or is to be.
#[derive(Clone, Debug)]
struct Entry {
    newest: Arc<Stub>,
    turn: Turn,
    /// A cool-down, or a pause after a failure, lasts until then.
    not_before: Duration,
    /// That it waits was said.
    shown: bool,
    /// Why it could not be driven, where that is to be said.
    trouble: Option<String>,
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
        }
    }

    /// An object is there, as it is now.
    pub fn update(&mut self, object: Arc<Stub>, now: Duration) {
        let (uid, to_do, deleting) = (object.uid.clone(), object.needs_work(), object.deleting);
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
                trouble: None,
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
    pub fn start(&mut self, now: Duration) -> Option<Arc<Stub>> {
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

    /// Who waits, for a place or because it could not be driven, and has no status that says so, with that status. Given once.
    pub fn waits(&mut self, epoch: u64, now: Moment) -> Option<(Arc<Stub>, ReplicationStatus)> {
        while let Some(uid) = self.unsaid.pop_front() {
            let waits = |entry: &&mut Entry| match entry.turn {
                Turn::Queued => !entry.shown,
                Turn::Later(_) => !entry.shown && entry.trouble.is_some(),
                Turn::Idle | Turn::Driven(_) => false,
            };
            let waits = self.entries.get_mut(&uid).filter(waits);
            let Some(entry) = waits else { continue };
            entry.shown = true;
            if entry.newest.progress.is_none() {
                let object = Arc::clone(&entry.newest);
                let message = match &entry.trouble {
                    Some(why) => conditions::tried_again(why),
                    None => format!("{} replications run already; this one waits for its turn", self.max_runs),
                };
                let status = waiting_status(&object, &message, epoch, now);
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
        // The run says so itself, unless it cannot even read its object; what it said is seen before it fails a second time.
        if let Over::Failed(why) = over
            && entry.failures > 1
            && entry.newest.progress.is_none()
            && entry.trouble.as_ref() != Some(why)
        {
            entry.trouble = Some(why.clone());
            entry.shown = false;
            self.unsaid.push_back(uid.to_owned());
        }
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
            None if there && entry.newest.needs_work() => {}
            _ => self.forget(uid),
        }
    }

    fn begin(&mut self, uid: &str, place: Place) -> Option<Arc<Stub>> {
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
        if entry.newest.has_ended() {
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
fn waiting_status(object: &Stub, message: &str, epoch: u64, now: Moment) -> ReplicationStatus {
    let generation = object.generation;
    ReplicationStatus {
        phase: Some(Phase::Pending),
        phases: vec![PhaseEntry { phase: Phase::Pending, started_at: now.micro_time() }],
        observed_generation: generation,
        leader_epoch: epoch,
        conditions: conditions::waiting(generation, message, &[], now),
        ..ReplicationStatus::default()
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
