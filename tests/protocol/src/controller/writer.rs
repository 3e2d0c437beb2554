//! The writer of a run's status, as `status` of the controller has it: in order, one request at a time, of one phase only the
//! newest, again and again until it is stored.

use std::collections::VecDeque;
use std::time::Duration;

use stillpoint_api::{Phase, ReplicationStatus};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, STATUS_INTERVAL, STATUS_QUEUE};

use super::{Object, Output, Refused};

/// Why a status was not stored, as far as the writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    /// The API server refused.
    Refused(Refused),
    /// There was no answer, or an error that says nothing: it may have been stored.
    Unknown,
}

/// The writer.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: VecDeque<ReplicationStatus>,
    newest: Option<ReplicationStatus>,
    closed: bool,
    /// The object as it was read or written last.
    object: Object,
    /// What was stored last, and when.
    last: Option<(Option<Phase>, Duration)>,
    state: State,
    pause: Duration,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing to write.
    Idle,
    /// An update of the same phase waits for its turn.
    Spacing { status: ReplicationStatus, until: Duration },
    /// To be written now.
    Due { status: ReplicationStatus },
    /// A request is under way.
    Putting { status: ReplicationStatus },
    /// Somebody wrote in between: the object is to be read.
    Conflict { status: ReplicationStatus },
    /// The object is being read after a conflict.
    Getting { status: ReplicationStatus },
    /// A request failed.
    Pausing { status: ReplicationStatus, until: Duration },
    /// It must not be written any more.
    Stopped,
}

impl Writer {
    /// A writer for the object as it was read.
    pub fn new(object: Object) -> Self {
        Self {
            queue: VecDeque::new(),
            newest: None,
            closed: false,
            object,
            last: None,
            state: State::Idle,
            pause: API_RETRY_MIN,
        }
    }

    /// Queues a status.
    pub fn push(&mut self, status: ReplicationStatus) {
        if self.newest.as_ref() == Some(&status) {
            return;
        }
        let same_phase = self.queue.back().is_some_and(|last| last.phase == status.phase);
        if same_phase || self.queue.len() >= STATUS_QUEUE {
            self.queue.pop_back();
        }
        self.newest = Some(status.clone());
        self.queue.push_back(status);
    }

    /// No more will come: what waits is written, and then it is over.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether any status was stored.
    pub fn has_written(&self) -> bool {
        self.last.is_some()
    }

    /// Whether nothing will be written any more.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Idle => self.closed && self.queue.is_empty(),
            State::Stopped => true,
            State::Spacing { .. }
            | State::Due { .. }
            | State::Putting { .. }
            | State::Conflict { .. }
            | State::Getting { .. }
            | State::Pausing { .. } => false,
        }
    }

    /// When it goes on by itself.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Spacing { until, .. } | State::Pausing { until, .. } => Some(until),
            State::Idle
            | State::Due { .. }
            | State::Putting { .. }
            | State::Conflict { .. }
            | State::Getting { .. }
            | State::Stopped => None,
        }
    }

    /// Goes on as far as it can; gives the next request.
    pub fn step(&mut self, now: Duration) -> Option<Output> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => {
                    let status = self.queue.pop_front()?;
                    match self.last {
                        Some((phase, at)) if phase == status.phase => {
                            State::Spacing { status, until: at + STATUS_INTERVAL }
                        }
                        _ => self.due(status),
                    }
                }
                State::Spacing { status, until } => {
                    let phase = status.phase;
                    let later = self.queue.iter().any(|waiting| waiting.phase != phase);
                    if later {
                        // What it tells is told by the next one too.
                        State::Idle
                    } else if self.closed || now >= until {
                        self.due(status)
                    } else {
                        self.state = State::Spacing { status, until };
                        return None;
                    }
                }
                State::Pausing { status, until } if now >= until => State::Due { status },
                State::Due { status } => {
                    let status = self.newer(status.phase).unwrap_or(status);
                    let output = Output::PutStatus { version: self.object.version, status: Box::new(status.clone()) };
                    self.state = State::Putting { status };
                    return Some(output);
                }
                State::Conflict { status } => {
                    self.state = State::Getting { status };
                    return Some(Output::GetObject);
                }
                waiting @ (State::Putting { .. } | State::Getting { .. } | State::Pausing { .. } | State::Stopped) => {
                    self.state = waiting;
                    return None;
                }
            };
        }
    }

    /// How a request to write ended; [`Writer::step`] goes on from there.
    pub fn put(&mut self, result: Result<Object, PutError>, now: Duration) {
        let State::Putting { status } = std::mem::replace(&mut self.state, State::Idle) else { return };
        match result {
            Ok(object) => {
                self.last = Some((object.status.as_ref().and_then(|status| status.phase), now));
                self.object = object;
            }
            Err(PutError::Refused(Refused::NotFound)) => self.state = State::Stopped,
            Err(PutError::Refused(Refused::Conflict)) => self.state = State::Conflict { status },
            Err(PutError::Unknown) => self.pause(status, now),
        }
    }

    /// The object as it is after a conflict.
    pub fn read(&mut self, result: Result<Option<Object>, ()>, now: Duration) {
        let State::Getting { status } = std::mem::replace(&mut self.state, State::Idle) else { return };
        match result {
            Ok(Some(current)) => {
                let stored = current.status.as_ref().and_then(|status| status.phase);
                if stored.is_some_and(Phase::is_final) && stored != status.phase {
                    self.state = State::Stopped;
                    return;
                }
                self.object = Object { status: self.object.status.take(), ..current };
                self.state = State::Due { status };
            }
            Ok(None) => self.state = State::Stopped,
            Err(()) => self.pause(status, now),
        }
    }

    fn due(&mut self, status: ReplicationStatus) -> State {
        self.pause = API_RETRY_MIN;
        State::Due { status }
    }

    fn pause(&mut self, status: ReplicationStatus, now: Duration) {
        self.state = State::Pausing { status, until: now + self.pause };
        self.pause = (self.pause * 2).min(API_RETRY_MAX);
    }

    /// A newer status of the same phase, if one waits.
    fn newer(&mut self, phase: Option<Phase>) -> Option<ReplicationStatus> {
        if self.queue.front()?.phase == phase { self.queue.pop_front() } else { None }
    }
}
