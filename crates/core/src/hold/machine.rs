//! The machine: what it keeps, what happens to it, and its limits.

use std::time::{Duration, Instant};

use super::attempt::{Attempt, End, Preparing, State, only};
use super::blockers::{
    freezer_lost, hold_too_long, look_never_ended, no_guardian, not_prepared, open_flush, pending, too_slow,
};
use super::ways_out::RESUMED_FROM_OUTSIDE;
use super::{Act, Action, Command, Event, Session, Ticket};
use crate::limits::UNQUIESCE_TIMEOUT;
use crate::locks::{Cost, Look};
use crate::wire;
use crate::wire::agent_message::Report;

/// The hold of one member. See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    /// Longest hold that is accepted.
    pub(super) ceiling: Duration,
    /// The highest epoch that commanded this member.
    pub(super) epoch: u64,
    pub(super) last_ticket: Ticket,
    /// The only outcome that is of interest; any other is late.
    pub(super) awaited: Option<Ticket>,
    pub(super) current: Option<Attempt>,
    /// How the last attempt ended, for a repeated Release.
    pub(super) ended: Option<Ended>,
    /// A newer attempt that begins when the present one is resumed.
    pub(super) next: Option<(Session, wire::Attempt, wire::Prepare)>,
    pub(super) actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ended {
    pub(super) attempt: wire::Attempt,
    pub(super) released: wire::Released,
}

impl Hold {
    /// A member that is asked nothing yet; it refuses holds longer than `ceiling`.
    pub fn new(ceiling: Duration) -> Self {
        Self {
            ceiling,
            epoch: 0,
            last_ticket: 0,
            awaited: None,
            current: None,
            ended: None,
            next: None,
            actions: Vec::new(),
        }
    }

    /// Whether nothing is going on: no descriptor held, no thaw owed.
    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.current.as_ref()?.due()
    }

    /// Takes what happened and says what to do. Time comes first: a limit that has passed counts before the event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.expire(now);
        match event {
            Event::Timeout => {}
            Event::Command(session, Command::Prepare(attempt, prepare)) => {
                self.prepare(session, attempt, *prepare, now)
            }
            Event::Command(session, Command::Suspend(attempt, round)) => self.suspend(session, attempt, round, now),
            Event::Command(session, Command::Release(attempt)) => self.release(session, attempt, now),
            Event::SessionLost(session) => self.session_lost(session, now),
            Event::Done(ticket, outcome) => {
                if self.awaited == Some(ticket) {
                    self.awaited = None;
                    self.done(outcome, now);
                }
            }
            Event::GuardianLost => self.guardian_lost(now),
            Event::FreezerLost => self.freezer_lost(now),
            Event::Shutdown => {
                self.next = None;
                self.stop(End::broken("the agent was told to stop"), now);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn session_lost(&mut self, session: Session, now: Instant) {
        if self.next.as_ref().is_some_and(|(next, ..)| *next == session) {
            self.next = None;
        }
        if self.current.as_ref().is_some_and(|current| current.session == session) {
            self.stop(End::broken("the session with the controller was lost"), now);
        }
    }

    fn guardian_lost(&mut self, now: Instant) {
        let Some(current) = &self.current else { return };
        let why = "the guardian went away";
        let end = match current.state {
            State::Prepared { .. } | State::Held { .. } => End::broken(why),
            State::Preparing { .. }
            | State::Approaching { .. }
            | State::Suspending { .. }
            | State::Confirming { .. }
            | State::Resuming { .. }
            | State::Settling { .. }
            | State::Unquiescing { .. } => End::failed(no_guardian(why)),
        };
        self.stop(end, now);
    }

    fn freezer_lost(&mut self, now: Instant) {
        let Some(current) = &self.current else { return };
        match current.state {
            State::Prepared { .. } => self.stop(End::broken("the freezer process ended"), now),
            State::Held { since } => self.settle(since, End::broken("the freezer process ended")),
            State::Preparing { .. } | State::Approaching { .. } | State::Unquiescing { .. } => {
                self.stop(End::failed(freezer_lost()), now);
            }
            State::Suspending { since, .. } | State::Confirming { since, .. } | State::Resuming { since, .. } => {
                self.settle(since, End::failed(freezer_lost()))
            }
            State::Settling { .. } => {}
        }
    }

    /// What the limits say at this time.
    fn expire(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        let Some(current) = &self.current else { return };
        let limit = current.hold_limit();
        match &current.state {
            State::Preparing { step: Preparing::Pause { .. }, by, .. } if now < *by => {
                self.step_preparing(Preparing::Look);
            }
            State::Preparing { step, seen, .. } => {
                let look = match step {
                    Preparing::Flush { number, since } => {
                        only(open_flush(*number, now.duration_since(*since), current.limit_of(Act::Flush)))
                    }
                    _ if seen.is_clean() => only(too_slow("getting ready", current.prepare_timeout())),
                    _ => seen.clone(),
                };
                self.stop(End::refused(true, look), now);
            }
            State::Prepared { .. } => {
                self.stop(End::broken("it was prepared, but nobody asked to suspend in time"), now);
            }
            State::Approaching { at, .. } => {
                let end = match current.act(*at) {
                    Some(act @ Act::Flush) => {
                        let limit = current.limit_of(act);
                        End::not_now(true, only(open_flush(1, limit, limit)))
                    }
                    Some(act @ Act::Look) => End::failed(look_never_ended(current.limit_of(act), current.look_cost)),
                    Some(act) => End::failed(too_slow(act.name(), current.limit_of(act))),
                    None => End::failed(not_prepared("it has no plan")),
                };
                self.stop(end, now);
            }
            State::Suspending { since, .. } => {
                self.settle(*since, End::broken("suspending writes was late, and nothing took it back"));
                self.say_pending(now);
            }
            State::Confirming { at, .. } => {
                let why = match current.act(*at) {
                    Some(Act::Look) => look_never_ended(limit, current.look_cost),
                    act => too_slow(act.map_or("suspending", Act::name), limit),
                };
                self.stop(End::not_now(true, only(why)), now);
            }
            State::Held { .. } => self.stop(End::broken(format!("the hold limit of {limit:?} was reached")), now),
            State::Resuming { since, .. } => self.settle(*since, End::broken(RESUMED_FROM_OUTSIDE)),
            State::Unquiescing { .. } => {
                let why = format!("the application did not say within {UNQUIESCE_TIMEOUT:?} that it goes on");
                self.unquiesced(Err(why), now);
            }
            State::Settling { .. } => {}
        }
    }

    pub(super) fn begin(&mut self, session: Session, attempt: wire::Attempt, prepare: wire::Prepare, now: Instant) {
        let asked = Duration::from_millis(prepare.hold_timeout_ms.into());
        if asked.is_zero() || asked > self.ceiling {
            let ceiling = self.ceiling;
            return self.refuse(session, attempt, 0, false, |_| hold_too_long(asked, ceiling));
        }
        self.ended = None;
        let by = now + Duration::from_millis(prepare.prepare_timeout_ms.into());
        let step = Preparing::Preflight;
        let state = State::Preparing { step, by, seen: Look::default(), said: Look::default(), flushed: false };
        let request = Box::new(prepare.clone());
        self.current = Some(Attempt {
            session,
            attempt,
            prepare,
            equipped: None,
            round: 0,
            look_cost: Cost::default(),
            limit_from: now,
            quiesced: false,
            said: None,
            state,
        });
        self.ask(|ticket| Action::Preflight(ticket, request));
    }

    /// Whoever waits for this round learns that it takes longer than any limit.
    fn say_pending(&mut self, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let (round, limit) = (current.round, current.suspend_limit());
        let State::Settling { since, late, .. } = &mut current.state else { return };
        *late = true;
        let (blockers, suspended_us) = (vec![pending(limit)], wire::micros(now.duration_since(*since)));
        self.say(|attempt| Report::Pending(wire::Pending { attempt, round, blockers, suspended_us }));
    }

    pub(super) fn say(&mut self, report: impl FnOnce(Option<wire::Attempt>) -> Report) {
        let Some(current) = &mut self.current else { return };
        let report = report(Some(current.attempt.clone()));
        current.said = Some(report.clone());
        self.actions.push(Action::Report(current.session, report));
    }

    pub(super) fn ask(&mut self, action: impl FnOnce(Ticket) -> Action) {
        self.last_ticket += 1;
        self.awaited = Some(self.last_ticket);
        self.actions.push(action(self.last_ticket));
    }
}
