//! The way in: what comes of every action that was asked for, and which is asked for next.

use std::time::{Duration, Instant};

use super::attempt::{Attempt, End, Preparing, State, only, say_the_same};
use super::blockers::{look_too_costly, not_recorded, slow_flush, was_pending};
use super::machine::Hold;
use super::ways_out::{RESUMED_FROM_OUTSIDE, join};
use super::{Act, Action, Equipped, Outcome, Refused, Resumed};
use crate::limits::{FIRST_FREEZE_PART, LOCK_POLL};
use crate::locks::{Look, Suspension};
use crate::wire;
use crate::wire::agent_message::Report;

impl Hold {
    /// The action that is awaited has ended so. Its ticket says that it was asked for in this state; an outcome that does not
    /// fit is none of ours, and changes nothing.
    pub(super) fn done(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Preflighted(preflighted) => self.preflighted(preflighted, now),
            Outcome::Quiesced(Ok(())) | Outcome::Recorded(Ok(())) | Outcome::Armed => self.go_on(now),
            Outcome::Flushed(Ok(())) => self.flushed(now),
            Outcome::Quiesced(Err(Refused { blocker, retryable })) => {
                self.stop(End::not_now(retryable, only(*blocker)), now);
            }
            Outcome::Flushed(Err(Refused { blocker, retryable })) => {
                self.stop(End::refused(retryable, only(*blocker)), now);
            }
            Outcome::Recorded(Err(why)) => self.stop(End::failed(not_recorded(&why)), now),
            Outcome::Looked(look) => self.looked(look, now),
            Outcome::Suspended(suspended) => self.suspended(suspended, now),
            Outcome::Resumed(resumed) => self.resumed(resumed, now),
            Outcome::Settled => self.settled(now),
            Outcome::Unquiesced(unquiesced) => self.unquiesced(unquiesced, now),
        }
    }

    fn preflighted(&mut self, preflighted: Result<Equipped, Vec<wire::Blocker>>, now: Instant) {
        let Some(current) = &mut self.current else { return };
        match preflighted {
            Ok(equipped) => {
                current.equipped = Some(equipped);
                self.step_preparing(Preparing::Look);
            }
            Err(blockers) => self.stop(End::refused(false, Look { blockers, ..Look::default() }), now),
        }
    }

    /// While the member prepares, one flush follows the other until one was short: what is dirty then is what was written
    /// meanwhile. In a round there is no second one, since others may stand suspended.
    fn flushed(&mut self, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let limit = current.limit_of(Act::Flush);
        let State::Preparing { step: Preparing::Flush { number, since }, seen, flushed, .. } = &mut current.state
        else {
            return self.go_on(now);
        };
        let (number, took) = (*number, now.duration_since(*since));
        *flushed = took <= limit;
        if *flushed {
            return self.go_on(now);
        }
        let blocker = slow_flush(number, took, limit);
        *seen = only(blocker.clone());
        self.say(|attempt| Report::Waiting(wire::Waiting { attempt, blockers: vec![blocker], more_blockers: 0 }));
        self.step_preparing(Preparing::Flush { number: number + 1, since: now });
    }

    /// The act that was awaited is done: the next one.
    fn go_on(&mut self, now: Instant) {
        let Some(current) = &self.current else { return };
        match current.state {
            State::Preparing { .. } => self.step_preparing(Preparing::Look),
            State::Approaching { at, .. } | State::Confirming { at, .. } => self.walk(at + 1, now),
            State::Prepared { .. }
            | State::Suspending { .. }
            | State::Held { .. }
            | State::Resuming { .. }
            | State::Settling { .. }
            | State::Unquiescing { .. } => {}
        }
    }

    fn looked(&mut self, mut look: Look, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let writes_go_on = matches!(current.state, State::Preparing { .. } | State::Approaching { .. });
        if writes_go_on {
            current.look_cost = look.cost;
            let room = current.look_limit();
            if look.is_clean() && look.cost.took > room {
                look.blockers.push(look_too_costly(look.cost, room));
            }
        }
        match current.state {
            State::Preparing { .. } => self.looked_while_preparing(look, now),
            _ if look.is_clean() => self.go_on(now),
            _ => self.stop(End::not_now(true, look), now),
        }
    }

    fn looked_while_preparing(&mut self, look: Look, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let State::Preparing { step, seen, said, flushed, .. } = &mut current.state else { return };
        if look.is_clean() && !*flushed {
            *seen = look;
            return self.step_preparing(Preparing::Flush { number: 1, since: now });
        }
        if look.is_clean() {
            current.state = State::Prepared { until: now + current.prepare_timeout() };
            let filesystem = current.filesystem().to_owned();
            let protection = current.equipped.as_ref().map_or(wire::Protection::Unspecified, |it| it.protection).into();
            self.say(|attempt| Report::Prepared(wire::Prepared { attempt, filesystem, protection }));
            return;
        }
        *step = Preparing::Pause { until: now + LOCK_POLL };
        *seen = look.clone();
        if !say_the_same(&look, said) {
            *said = look.clone();
            self.say(|attempt| {
                Report::Waiting(wire::Waiting { attempt, blockers: look.blockers, more_blockers: look.more_blockers })
            });
        }
    }

    pub(super) fn step_preparing(&mut self, next: Preparing) {
        let Some(Attempt { state: State::Preparing { step, .. }, .. }) = &mut self.current else { return };
        *step = next;
        match next {
            Preparing::Flush { .. } => self.ask(Action::Flush),
            Preparing::Look => self.ask(|ticket| Action::Look(ticket, Suspension::Writable)),
            Preparing::Preflight | Preparing::Pause { .. } => {}
        }
    }

    /// Asks for the act at this place of the plan; behind the last one, the member holds.
    pub(super) fn walk(&mut self, at: usize, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let since = match current.state {
            State::Confirming { since, .. } => Some(since),
            _ => None,
        };
        let (act, limit, intent) = (current.act(at), current.hold_limit(), current.intent(at));
        let suspend = current.suspend_limit();
        // From the asking on: one that fails or does not answer may have quiesced all the same.
        current.quiesced |= act == Some(Act::Quiesce);
        if act == Some(Act::Arm) {
            current.limit_from = now;
        }
        current.state = match (act, since) {
            (None, since) => return self.hold(since.unwrap_or(now), now),
            (Some(_), Some(since)) => State::Confirming { at, since },
            (Some(Act::Suspend), None) => State::Suspending { at, since: now, by: now + suspend, end: None },
            (Some(act), None) => State::Approaching { at, by: now + act.limit(limit) },
        };
        let left = (current.limit_from + limit).saturating_duration_since(now);
        if act == Some(Act::Look) && since.is_some() && current.look_cost.took > left {
            let why = look_too_costly(current.look_cost, left);
            return self.stop(End::not_now(true, only(why)), now);
        }
        let when = if since.is_some() { Suspension::Suspended } else { Suspension::Writable };
        match act {
            Some(Act::Quiesce) => self.ask(Action::Quiesce),
            Some(Act::Flush) => self.ask(Action::Flush),
            Some(Act::Look) => self.ask(|ticket| Action::Look(ticket, when)),
            Some(Act::Record) => self.ask(|ticket| Action::Record(ticket, intent)),
            Some(Act::Arm) => self.ask(|ticket| Action::Arm(ticket, limit)),
            Some(Act::Suspend) => self.ask(|ticket| Action::Suspend(ticket, suspend / FIRST_FREEZE_PART)),
            None => {}
        }
    }

    fn suspended(&mut self, suspended: Result<Duration, Refused>, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let State::Suspending { at, since: asked, end, .. } = &mut current.state else { return };
        let (at, asked, end) = (*at, *asked, end.take());
        match suspended {
            Ok(already) => {
                let since = now.checked_sub(already).map_or(asked, |since| since.max(asked));
                current.state = State::Confirming { at, since };
                match end {
                    Some(end) => self.stop(end, now),
                    None => self.walk(at + 1, now),
                }
            }
            // Nothing of ours is suspended, and what somebody else suspended must not be resumed.
            Err(Refused { blocker, retryable }) => {
                self.nothing_is_owed(now);
                // A method may have suspended for a moment before it gave up.
                let end = join(end, End::not_now(retryable, only(*blocker)));
                self.finish(end, now.duration_since(asked), now);
            }
        }
    }

    /// Writes go on, and the guardian owes nothing until the next arming.
    fn nothing_is_owed(&mut self, now: Instant) {
        self.actions.push(Action::Disarm);
        let Some(current) = &mut self.current else { return };
        current.state = State::Prepared { until: now + current.prepare_timeout() };
    }

    fn hold(&mut self, since: Instant, now: Instant) {
        let Some(current) = &mut self.current else { return };
        current.state = State::Held { since };
        let (round, suspended_us) = (current.round, wire::micros(now.duration_since(current.limit_from)));
        self.say(|attempt| Report::Ready(wire::Ready { attempt, round, suspended_us }));
    }

    fn resumed(&mut self, resumed: Resumed, now: Instant) {
        let Some(Attempt { state: State::Resuming { since, end, .. }, .. }) = &mut self.current else { return };
        let since = *since;
        let broken = match resumed {
            Resumed::Ended => None,
            Resumed::Broken(why) => Some(why),
            Resumed::Failed(why) => return self.settle(since, End::broken(why)),
        };
        let Some(end) = end.take() else { return };
        let end = broken.into_iter().fold(end, |end, why| end.broken_by(&why));
        self.finish(end, now.duration_since(since), now);
    }

    /// What the application said, or that it said nothing in time. A hold in which it did not stay quiesced is not what was
    /// asked for.
    pub(super) fn unquiesced(&mut self, unquiesced: Result<(), String>, now: Instant) {
        let Some(Attempt { state: State::Unquiescing { suspended, end, .. }, .. }) = &mut self.current else { return };
        let (suspended, Some(mut end)) = (*suspended, end.take()) else { return };
        if let Err(why) = unquiesced {
            end = end.broken_by(&why);
        }
        self.finish(end, suspended, now);
    }

    fn settled(&mut self, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let limit = current.suspend_limit();
        let State::Settling { since, late, end } = &mut current.state else { return };
        let (suspended, late, Some(end)) = (now.duration_since(*since), *late, end.take()) else { return };
        let mut end = end.broken_by(RESUMED_FROM_OUTSIDE).without_freezer();
        if late {
            end = End::failed(was_pending(limit, suspended)).and(end);
        }
        self.finish(end, suspended, now);
    }
}
