//! The writer of one status: in order, one request at a time, of one phase only the newest, again and again until it is stored.
//! A queue between planner and writer never holds up a hold. Pure.
//!
//! A status is replaced whole, with the resource version that was read (an update, not server-side apply), and carries the
//! epoch of the leader that wrote it. Whoever wrote in between is noticed: a controller that has lost its leadership finds a
//! higher epoch than its own, and writes no more.

use std::collections::VecDeque;
use std::time::Duration;

use kube::ResourceExt;
use stillpoint_api::{ConsistencyGroupReplication, Phase, ReplicationStatus};

use super::effect::{Effect, Refused};
use super::happened::Happened;
use crate::limits::{STATUS_INTERVAL, STATUS_QUEUE};
use crate::pauses::Pauses;

/// What a writer asks of the API server. One at a time.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Replace the status; [`Writer::stored`] takes the answer.
    Put(Box<ConsistencyGroupReplication>),
    /// Read the object after a conflict; [`Writer::read`] takes the answer.
    Get,
}

impl From<Write> for Effect {
    fn from(write: Write) -> Self {
        match write {
            Write::Put(object) => Self::PutStatus(object),
            Write::Get => Self::GetObject,
        }
    }
}

/// Why a run must not write its status any more, and so must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A leader of this higher epoch works on the object.
    Overtaken(u64),
    /// Somebody else changed the status; what is stored is to be read anew.
    Changed,
}

/// The writer.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Statuses that wait. Of one phase only the newest waits, so that there are never more than phases.
    queue: VecDeque<Item>,
    newest: Option<ReplicationStatus>,
    closed: bool,
    /// The object as it was read or written last.
    object: ConsistencyGroupReplication,
    /// The phase that was stored last, and when.
    last: Option<(Option<Phase>, Duration)>,
    state: State,
    /// The pauses before a request is made again.
    pauses: Pauses,
}

/// A status, and what it shows for the first time: that is told when it is stored.
#[derive(Clone, Debug)]
struct Item {
    status: ReplicationStatus,
    happened: Vec<Happened>,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing to write.
    Idle,
    /// An update of the same phase waits for its turn.
    Spacing { item: Item, until: Duration },
    /// To be written.
    Due { item: Item, at: Duration },
    /// A request is under way.
    Putting { item: Item },
    /// Somebody wrote in between: the object is to be read.
    Conflict { item: Item, at: Duration },
    /// The object is being read after a conflict.
    Getting { item: Item },
    /// There is no such object any more.
    Gone,
    /// The status is somebody else's.
    Lost(Lost),
}

impl Writer {
    /// A writer for the object as it was read.
    pub fn new(object: ConsistencyGroupReplication) -> Self {
        Self {
            queue: VecDeque::new(),
            newest: None,
            closed: false,
            object,
            last: None,
            state: State::Idle,
            pauses: Pauses::default(),
        }
    }

    /// Queues a status, and what it shows for the first time.
    pub fn push(&mut self, status: ReplicationStatus, mut happened: Vec<Happened>) {
        if self.newest.as_ref() == Some(&status) && happened.is_empty() {
            return;
        }
        let same_phase = self.queue.back().is_some_and(|last| last.status.phase == status.phase);
        if (same_phase || self.queue.len() >= STATUS_QUEUE)
            && let Some(replaced) = self.queue.pop_back()
        {
            happened.splice(0..0, replaced.happened);
        }
        self.newest = Some(status.clone());
        self.queue.push_back(Item { status, happened });
    }

    /// No more will come: what waits is written, and then it is over.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// What waits is not written. A request that is under way may still take effect.
    pub fn discard(&mut self) {
        self.queue.clear();
        if matches!(self.state, State::Spacing { .. } | State::Due { .. }) {
            self.state = State::Idle;
        }
    }

    /// Whether any status was stored.
    pub fn has_written(&self) -> bool {
        self.last.is_some()
    }

    /// The object as it is stored, as far as is known.
    pub fn object(&self) -> &ConsistencyGroupReplication {
        &self.object
    }

    /// Why nothing may be written any more, if that is so.
    pub fn lost(&self) -> Option<Lost> {
        match self.state {
            State::Lost(lost) => Some(lost),
            _ => None,
        }
    }

    /// Whether nothing will be written any more.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Idle => self.closed && self.queue.is_empty(),
            State::Gone | State::Lost(_) => true,
            State::Spacing { .. }
            | State::Due { .. }
            | State::Putting { .. }
            | State::Conflict { .. }
            | State::Getting { .. } => false,
        }
    }

    /// When, on the monotonic clock, [`Writer::step`] goes on without news.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Spacing { until: at, .. } | State::Due { at, .. } | State::Conflict { at, .. } => Some(at),
            State::Idle | State::Putting { .. } | State::Getting { .. } | State::Gone | State::Lost(_) => None,
        }
    }

    /// Goes on as far as it can; gives the next request.
    pub fn step(&mut self, now: Duration) -> Option<Write> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => {
                    let item = self.queue.pop_front()?;
                    self.pauses = Pauses::default();
                    match self.last {
                        Some((phase, at)) if phase == item.status.phase => {
                            State::Spacing { item, until: at + STATUS_INTERVAL }
                        }
                        _ => State::Due { item, at: now },
                    }
                }
                // What it tells is told by the next one too, and requests during a hold are few.
                State::Spacing { item, .. } if self.has_later(item.status.phase) => {
                    if let Some(next) = self.queue.front_mut() {
                        next.happened.splice(0..0, item.happened);
                    }
                    State::Idle
                }
                State::Spacing { item, until } if self.closed || now >= until => State::Due { item, at: now },
                State::Due { item, at } if now >= at => {
                    let item = self.newest_of_its_phase(item);
                    let status = Some(item.status.clone());
                    self.state = State::Putting { item };
                    return Some(Write::Put(Box::new(ConsistencyGroupReplication { status, ..self.object.clone() })));
                }
                State::Conflict { item, at } if now >= at => {
                    self.state = State::Getting { item };
                    return Some(Write::Get);
                }
                waiting => {
                    self.state = waiting;
                    return None;
                }
            };
        }
    }

    /// How [`Write::Put`] ended; [`Writer::step`] goes on from there. Gives what the status shows for the first time, once it is
    /// stored.
    pub fn stored(&mut self, result: Result<ConsistencyGroupReplication, Refused>, now: Duration) -> Vec<Happened> {
        let State::Putting { item } = std::mem::replace(&mut self.state, State::Idle) else { return Vec::new() };
        match result {
            Ok(object) => {
                self.last = Some((object.status.as_ref().and_then(|status| status.phase), now));
                self.object = object;
                return item.happened;
            }
            Err(Refused::NotFound) => self.state = State::Gone,
            Err(Refused::Conflict) => {
                // The first is looked into at once; who meets one after the other lets the others write.
                let first = self.pauses.is_first();
                let pause = self.pauses.take();
                let at = if first { now } else { now + pause };
                self.state = State::Conflict { item, at };
            }
            Err(Refused::Trouble(_)) => self.pause(item, now),
        }
        Vec::new()
    }

    /// The object as it is after a conflict.
    pub fn read(&mut self, result: Result<Option<ConsistencyGroupReplication>, Refused>, now: Duration) {
        let State::Getting { item } = std::mem::replace(&mut self.state, State::Idle) else { return };
        match result {
            Ok(Some(current)) if current.uid() == self.object.uid() => {
                if let Some(lost) = lost(self.object.status.as_ref(), &item.status, current.status.as_ref()) {
                    self.state = State::Lost(lost);
                    return;
                }
                // What was stored when the statuses were made stays what later ones are compared with.
                self.object.metadata = current.metadata;
                self.state = State::Due { item, at: now };
            }
            Ok(_) => self.state = State::Gone,
            Err(_) => self.pause(item, now),
        }
    }

    fn pause(&mut self, item: Item, now: Duration) {
        self.state = State::Due { item, at: now + self.pauses.take() };
    }

    /// A newer status of the same phase in its place, if one waits.
    fn newest_of_its_phase(&mut self, item: Item) -> Item {
        let waits = self.queue.front().is_some_and(|waiting| waiting.status.phase == item.status.phase);
        let newer = if waits { self.queue.pop_front() } else { None };
        match newer {
            Some(Item { status, happened }) => Item { status, happened: [item.happened, happened].concat() },
            None => item,
        }
    }

    /// Whether a status of a later phase waits.
    fn has_later(&self, phase: Option<Phase>) -> bool {
        self.queue.iter().any(|waiting| waiting.status.phase != phase)
    }
}

/// Whether what is stored now is somebody else's, so that nothing may be written over it. `before` was stored when `ours` was
/// made, and what is stored may be ours too: a write whose answer was lost.
///
/// A status of an older leader is read anew, because nobody has seen yet what it says; it may be the end of the run.
fn lost(
    before: Option<&ReplicationStatus>,
    ours: &ReplicationStatus,
    stored: Option<&ReplicationStatus>,
) -> Option<Lost> {
    let epoch = |status: Option<&ReplicationStatus>| status.map_or(0, |status| status.leader_epoch);
    let phase = stored.and_then(|status| status.phase);
    if epoch(stored) > ours.leader_epoch {
        return Some(Lost::Overtaken(epoch(stored)));
    }
    let not_ours = epoch(stored) < ours.leader_epoch && stored != before;
    // Final phases are never left.
    let ended_otherwise = phase.is_some_and(Phase::is_final) && phase != ours.phase;
    (not_ours || ended_otherwise).then_some(Lost::Changed)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
