//! The ways out: everything that ends a round or an attempt, and what is said then.

use std::time::{Duration, Instant};

use super::Action;
use super::attempt::{End, Refusal, State, Then};
use super::machine::{Ended, Hold};
use crate::limits::{THAW_TIMEOUT, UNQUIESCE_TIMEOUT};
use crate::locks::Look;
use crate::wire;
use crate::wire::agent_message::Report;

impl Hold {
    /// Begins what leads to `end`: at once if writes go on, else by resuming them.
    pub(super) fn stop(&mut self, end: End, now: Instant) {
        let Some(current) = &mut self.current else { return };
        match &mut current.state {
            State::Preparing { .. } | State::Prepared { .. } | State::Approaching { .. } => {
                self.awaited = None;
                self.finish(end, Duration::ZERO, now);
            }
            State::Suspending { end: waiting, .. }
            | State::Resuming { end: waiting, .. }
            | State::Settling { end: waiting, .. }
            | State::Unquiescing { end: waiting, .. } => {
                *waiting = Some(join(waiting.take(), end));
            }
            State::Confirming { since, .. } | State::Held { since } => {
                current.state = State::Resuming { since: *since, by: now + THAW_TIMEOUT, end: Some(end) };
                self.ask(Action::Resume);
            }
        }
    }

    /// The freezer cannot be relied on: resume from outside.
    pub(super) fn settle(&mut self, since: Instant, end: End) {
        let Some(current) = &mut self.current else { return };
        let end = join(current.take_end(), end);
        current.state = State::Settling { since, late: false, end: Some(end) };
        self.ask(Action::Settle);
    }

    /// Writes go on. An application that was asked to quiesce goes on too, whatever it had answered; then the end is said where
    /// somebody waits for it, and the member let go.
    pub(super) fn finish(&mut self, end: End, suspended: Duration, now: Instant) {
        let Some(current) = &mut self.current else { return };
        if std::mem::take(&mut current.quiesced) {
            current.state = State::Unquiescing { by: now + UNQUIESCE_TIMEOUT, suspended, end: Some(end) };
            // Nothing is owed for writes, and the guardian's deadline must not come meanwhile.
            self.actions.push(Action::Disarm);
            return self.ask(Action::Unquiesce);
        }
        let suspended_us = wire::micros(suspended);
        if let Some(Refusal { retryable, look: Look { blockers, more_blockers, .. } }) = end.refusal
            && !matches!(current.said, Some(Report::Ready(_)))
        {
            let round = current.round;
            self.say(|attempt| {
                Report::NotReady(wire::NotReady { attempt, round, retryable, blockers, more_blockers, suspended_us })
            });
        }
        let Some(current) = &mut self.current else { return };
        let released = match end.then {
            Then::Stay => {
                current.state = State::Prepared { until: now + current.prepare_timeout() };
                self.actions.extend([Action::Disarm, Action::Forget]);
                return;
            }
            Then::LetGo(reason) => wire::Released { attempt: None, unbroken: false, reason, suspended_us },
            Then::Answer { session, attempt, broken } => {
                let unbroken = broken.is_none();
                let reason = broken.unwrap_or_default();
                current.attempt = attempt.clone();
                let released = wire::Released { attempt: Some(attempt), unbroken, reason, suspended_us };
                self.actions.push(Action::Report(session, Report::Released(released.clone())));
                released
            }
        };
        self.actions.extend([Action::Forget, Action::Close]);
        self.ended = self.current.take().map(|current| Ended { attempt: current.attempt, released });
        if let Some((session, attempt, prepare)) = self.next.take() {
            self.begin(session, attempt, prepare, now);
        }
    }
}

/// The reason of a hold whose planned end did not come from the freezer.
pub(super) const RESUMED_FROM_OUTSIDE: &str = "the freezer did not resume writes, so they were resumed from outside it";

pub(super) fn join(earlier: Option<End>, later: End) -> End {
    match earlier {
        Some(earlier) => earlier.and(later),
        None => later,
    }
}
