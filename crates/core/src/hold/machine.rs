//! The transitions.

use std::time::{Duration, Instant};

use rustix::io::{Errno, Result as KernelResult};

use super::blockers::{flush_failed, freeze_refused, freezer_lost, hold_too_long, no_guardian, not_recorded, too_slow};
use super::run::{End, Preparing, Refusal, Run, State, Suspending, Then, only, say_the_same};
use super::{Action, Command, Event, Outcome, Session, Ticket};
use crate::limits::{LOCK_POLL, THAW_TIMEOUT};
use crate::locks::{Look, Suspension};
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
    pub(super) run: Option<Run>,
    /// How the last run ended, for a repeated Release.
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
            run: None,
            ended: None,
            next: None,
            actions: Vec::new(),
        }
    }

    /// Whether nothing is going on: no descriptor held, no thaw owed.
    pub fn is_idle(&self) -> bool {
        self.run.is_none()
    }

    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.run.as_ref()?.due()
    }

    /// Takes what happened and says what to do. Time comes first: a limit that has passed counts before the event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.expire(now);
        match event {
            Event::Timeout => {}
            Event::Command(session, Command::Prepare(attempt, prepare)) => self.prepare(session, attempt, prepare, now),
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
        if self.run.as_ref().is_some_and(|run| run.session == session) {
            self.stop(End::broken("the session with the controller was lost"), now);
        }
    }

    fn guardian_lost(&mut self, now: Instant) {
        let Some(run) = &self.run else { return };
        let why = "the guardian went away";
        let end = match run.state {
            State::Prepared { .. } | State::Held { .. } => End::broken(why),
            State::Preparing { .. }
            | State::Suspending { .. }
            | State::Warming { .. }
            | State::Freezing { .. }
            | State::Rechecking { .. }
            | State::Thawing { .. }
            | State::Settling { .. } => End::failed(no_guardian(why)),
        };
        self.stop(end, now);
    }

    fn freezer_lost(&mut self, now: Instant) {
        let Some(run) = &self.run else { return };
        match run.state {
            State::Prepared { .. } => self.stop(End::broken("the freezer process ended"), now),
            State::Held { since } => self.settle(since, End::broken("the freezer process ended")),
            State::Preparing { .. } | State::Suspending { .. } => self.stop(End::failed(freezer_lost()), now),
            State::Warming { since, .. }
            | State::Freezing { since, .. }
            | State::Rechecking { since }
            | State::Thawing { since, .. } => self.settle(since, End::failed(freezer_lost())),
            State::Settling { .. } => {}
        }
    }

    /// What the limits say at this time.
    fn expire(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        let Some(run) = &self.run else { return };
        let limit = run.hold_limit();
        match &run.state {
            State::Preparing { step: Preparing::Pause { .. }, by, .. } if now < *by => {
                self.step_preparing(Preparing::Look);
            }
            State::Preparing { seen, .. } => {
                let look =
                    if seen.is_clean() { only(too_slow("getting ready", run.prepare_timeout())) } else { seen.clone() };
                self.stop(End::refused(true, look), now);
            }
            State::Prepared { .. } => {
                self.stop(End::broken("it was prepared, but nobody asked to suspend in time"), now);
            }
            State::Suspending { step, .. } => {
                let why = too_slow(step.name(), step.limit());
                self.stop(End::failed(why), now);
            }
            State::Warming { since, .. } | State::Freezing { since, .. } => {
                self.settle(*since, End::failed(too_slow("the freeze", run.freeze_limit())));
            }
            State::Rechecking { .. } => self.stop(End::not_now(true, only(too_slow("the second look", limit))), now),
            State::Held { .. } => self.stop(End::broken(format!("the hold limit of {limit:?} was reached")), now),
            State::Thawing { since, .. } => self.settle(*since, End::broken(THAWED_FROM_OUTSIDE)),
            State::Settling { .. } => {}
        }
    }

    fn done(&mut self, outcome: Outcome, now: Instant) {
        let Some(run) = &mut self.run else { return };
        match (&mut run.state, outcome) {
            (State::Preparing { step: Preparing::Preflight, .. }, Outcome::Preflighted(Ok(equipped))) => {
                run.equipped = Some(equipped);
                self.step_preparing(Preparing::Flush);
            }
            (State::Preparing { .. }, Outcome::Preflighted(Err(blockers))) => {
                let look = Look { blockers, ..Look::default() };
                self.stop(End::refused(false, look), now);
            }
            (State::Preparing { step: Preparing::Flush, .. }, Outcome::Flushed(Ok(()))) => {
                self.step_preparing(Preparing::Look);
            }
            (State::Preparing { .. } | State::Suspending { .. }, Outcome::Flushed(Err(errno))) => {
                self.stop(End::failed(flush_failed(errno)), now);
            }
            (State::Preparing { .. }, Outcome::Looked(look)) => self.looked_while_preparing(look, now),
            (State::Suspending { step: Suspending::Flush, .. }, Outcome::Flushed(Ok(()))) => {
                self.step_suspending(Suspending::Look, now);
            }
            (State::Suspending { step: Suspending::ArmForWarming, .. }, Outcome::Armed) => {
                run.state = State::Warming { since: now, by: now + run.freeze_limit(), end: None };
                self.ask(Action::Warm);
            }
            (State::Warming { end, .. }, Outcome::Warmed(warmed)) => {
                let end = end.take();
                self.warmed(warmed, end, now);
            }
            (State::Suspending { step: Suspending::Look, .. }, Outcome::Looked(look)) => {
                if look.is_clean() {
                    self.step_suspending(Suspending::Record, now);
                } else {
                    self.stop(End::not_now(true, look), now);
                }
            }
            (State::Suspending { step: Suspending::Record, .. }, Outcome::Recorded(recorded)) => match recorded {
                Ok(()) => self.step_suspending(Suspending::ArmForWarming, now),
                Err(why) => self.stop(End::failed(not_recorded(&why)), now),
            },
            (State::Suspending { step: Suspending::ArmForHold, .. }, Outcome::Armed) => {
                run.state = State::Freezing { since: now, by: now + run.freeze_limit(), end: None };
                self.ask(Action::Freeze);
            }
            (State::Freezing { since, end, .. }, Outcome::Frozen(frozen)) => {
                let (since, end) = (*since, end.take());
                self.frozen(frozen, since, end, now);
            }
            (State::Rechecking { since }, Outcome::Looked(look)) => {
                let since = *since;
                if look.is_clean() {
                    self.hold(since, now);
                } else {
                    self.stop(End::not_now(true, look), now);
                }
            }
            (State::Thawing { since, .. }, Outcome::Thawed(thawed)) => {
                let since = *since;
                self.thawed(thawed, since, now);
            }
            (State::Settling { since, end }, Outcome::Settled) => {
                let (since, end) = (*since, end.take());
                if let Some(end) = end {
                    self.finish(end.broken_by(THAWED_FROM_OUTSIDE).without_freezer(), now.duration_since(since), now);
                }
            }
            // Not reachable: the ticket says that the outcome answers the action of this state.
            (
                State::Preparing { .. }
                | State::Prepared { .. }
                | State::Suspending { .. }
                | State::Warming { .. }
                | State::Freezing { .. }
                | State::Rechecking { .. }
                | State::Held { .. }
                | State::Thawing { .. }
                | State::Settling { .. },
                _,
            ) => {}
        }
    }

    fn looked_while_preparing(&mut self, look: Look, now: Instant) {
        let Some(run) = &mut self.run else { return };
        let State::Preparing { step, seen, .. } = &mut run.state else { return };
        if look.is_clean() {
            run.state = State::Prepared { until: now + run.prepare_timeout() };
            let filesystem = run.filesystem().to_owned();
            let protection = run.equipped.as_ref().map_or(wire::Protection::Unspecified, |it| it.protection).into();
            self.say(|attempt| Report::Prepared(wire::Prepared { attempt, filesystem, protection }));
            return;
        }
        *step = Preparing::Pause { until: now + LOCK_POLL };
        let news = !say_the_same(&look, seen);
        *seen = look.clone();
        if news {
            self.say(|attempt| {
                Report::Waiting(wire::Waiting { attempt, blockers: look.blockers, more_blockers: look.more_blockers })
            });
        }
    }

    fn warmed(&mut self, warmed: KernelResult<()>, end: Option<End>, now: Instant) {
        // No thaw is owed until the next arming. That follows at once: the warmth lasts for milliseconds.
        self.actions.push(Action::Disarm);
        let Some(run) = &mut self.run else { return };
        run.state = State::Prepared { until: now + run.prepare_timeout() };
        match (end, warmed) {
            (end, Err(errno)) => self.refused(errno, end, now),
            (Some(end), Ok(())) => self.stop(end, now),
            (None, Ok(())) => self.step_suspending(Suspending::ArmForHold, now),
        }
    }

    fn frozen(&mut self, frozen: KernelResult<()>, since: Instant, end: Option<End>, now: Instant) {
        let Some(run) = &mut self.run else { return };
        match frozen {
            Ok(()) => {
                run.state = State::Rechecking { since };
                match end {
                    Some(end) => self.stop(end, now),
                    None => self.ask(|ticket| Action::Look(ticket, Suspension::Suspended)),
                }
            }
            Err(errno) => {
                // Nothing of ours is frozen, and what somebody else froze must not be thawed.
                self.actions.push(Action::Disarm);
                run.state = State::Prepared { until: now + run.prepare_timeout() };
                self.refused(errno, end, now);
            }
        }
    }

    /// The kernel did not freeze; `end` is what was decided meanwhile.
    fn refused(&mut self, errno: Errno, end: Option<End>, now: Instant) {
        let Some(run) = &self.run else { return };
        let (why, retryable) = freeze_refused(errno, run.filesystem());
        self.stop(join(end, End::not_now(retryable, only(why))), now);
    }

    fn hold(&mut self, since: Instant, now: Instant) {
        let Some(run) = &mut self.run else { return };
        run.state = State::Held { since };
        let (round, suspended_us) = (run.round, micros(now.duration_since(since)));
        self.say(|attempt| Report::Ready(wire::Ready { attempt, round, suspended_us }));
    }

    fn thawed(&mut self, thawed: KernelResult<()>, since: Instant, now: Instant) {
        match thawed {
            Ok(()) | Err(Errno::INVAL) => {
                let Some(mut end) = self.run.as_mut().and_then(Run::take_end) else { return };
                if thawed.is_err() {
                    end = end.broken_by("somebody else thawed the filesystem during the hold");
                }
                self.finish(end, now.duration_since(since), now);
            }
            Err(errno) => self.settle(since, End::broken(format!("the thaw failed: {errno}"))),
        }
    }

    /// Begins what leads to `end`: at once if writes go on, else by way of a thaw.
    pub(super) fn stop(&mut self, end: End, now: Instant) {
        let Some(run) = &mut self.run else { return };
        match &mut run.state {
            State::Preparing { .. } | State::Prepared { .. } | State::Suspending { .. } => {
                self.awaited = None;
                self.finish(end, Duration::ZERO, now);
            }
            State::Warming { end: waiting, .. } | State::Freezing { end: waiting, .. } => {
                *waiting = Some(join(waiting.take(), end));
            }
            State::Rechecking { since } | State::Held { since } => {
                run.state = State::Thawing { since: *since, by: now + THAW_TIMEOUT, end: Some(end) };
                self.ask(Action::Thaw);
            }
            State::Thawing { end: waiting, .. } | State::Settling { end: waiting, .. } => {
                *waiting = Some(join(waiting.take(), end));
            }
        }
    }

    /// The freezer cannot be relied on: thaw from outside.
    fn settle(&mut self, since: Instant, end: End) {
        let Some(run) = &mut self.run else { return };
        let end = join(run.take_end(), end);
        run.state = State::Settling { since, end: Some(end) };
        self.ask(Action::Settle);
    }

    /// Writes go on. Says so where somebody waits for it, then lets go.
    fn finish(&mut self, end: End, suspended: Duration, now: Instant) {
        let Some(run) = &mut self.run else { return };
        let suspended_us = micros(suspended);
        if let Some(Refusal { retryable, look: Look { blockers, more_blockers } }) = end.refusal
            && !matches!(run.said, Some(Report::Ready(_)))
        {
            // Who prepares again after a round still waits for the answer to Prepare.
            let round = if matches!(run.state, State::Preparing { .. }) { 0 } else { run.round };
            self.say(|attempt| Report::NotReady(wire::NotReady { attempt, round, retryable, blockers, more_blockers }));
        }
        let Some(run) = &mut self.run else { return };
        let released = match end.then {
            Then::Stay => {
                run.state = State::Prepared { until: now + run.prepare_timeout() };
                self.actions.extend([Action::Disarm, Action::Forget]);
                return;
            }
            Then::LetGo(reason) => wire::Released { attempt: None, unbroken: false, reason, suspended_us },
            Then::Answer { session, attempt, broken } => {
                let unbroken = broken.is_none();
                let reason = broken.unwrap_or_default();
                run.attempt = attempt.clone();
                let released = wire::Released { attempt: Some(attempt), unbroken, reason, suspended_us };
                self.actions.push(Action::Report(session, Report::Released(released.clone())));
                released
            }
        };
        self.actions.extend([Action::Forget, Action::Close]);
        self.ended = self.run.take().map(|run| Ended { attempt: run.attempt, released });
        if let Some((session, attempt, prepare)) = self.next.take() {
            self.begin(session, attempt, prepare, now);
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
        let state = State::Preparing { step: Preparing::Preflight, by, seen: Look::default() };
        let request = Box::new(prepare.clone());
        self.run = Some(Run { session, attempt, prepare, equipped: None, round: 0, said: None, state });
        self.ask(|ticket| Action::Preflight(ticket, request));
    }

    pub(super) fn step_preparing(&mut self, next: Preparing) {
        let Some(Run { state: State::Preparing { step, .. }, .. }) = &mut self.run else { return };
        *step = next;
        match next {
            Preparing::Flush => self.ask(Action::Flush),
            Preparing::Look => self.ask(|ticket| Action::Look(ticket, Suspension::Writable)),
            Preparing::Preflight | Preparing::Pause { .. } => {}
        }
    }

    pub(super) fn step_suspending(&mut self, step: Suspending, now: Instant) {
        let Some(run) = &mut self.run else { return };
        run.state = State::Suspending { step, by: now + step.limit() };
        let (warming, holding) = (run.freeze_limit(), run.hold_limit());
        match step {
            Suspending::Flush => self.ask(Action::Flush),
            Suspending::ArmForWarming => self.ask(|ticket| Action::Arm(ticket, warming)),
            Suspending::Look => self.ask(|ticket| Action::Look(ticket, Suspension::Writable)),
            Suspending::Record => self.ask(Action::Record),
            Suspending::ArmForHold => self.ask(|ticket| Action::Arm(ticket, holding)),
        }
    }

    fn say(&mut self, report: impl FnOnce(Option<wire::Attempt>) -> Report) {
        let Some(run) = &mut self.run else { return };
        let report = report(Some(run.attempt.clone()));
        run.said = Some(report.clone());
        self.actions.push(Action::Report(run.session, report));
    }

    fn ask(&mut self, action: impl FnOnce(Ticket) -> Action) {
        self.last_ticket += 1;
        self.awaited = Some(self.last_ticket);
        self.actions.push(action(self.last_ticket));
    }
}

/// The reason of a hold whose planned thaw did not come from the freezer.
const THAWED_FROM_OUTSIDE: &str = "the freezer did not thaw, so the filesystem was thawed from outside it";

fn join(earlier: Option<End>, later: End) -> End {
    match earlier {
        Some(earlier) => earlier.and(later),
        None => later,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
