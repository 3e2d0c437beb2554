//! The commands: whose they are, and what they begin or end.

use std::time::Instant;

use super::attempt::{End, Refusal, State, Then, only};
use super::blockers::{held_by_another, not_prepared, stale};
use super::machine::{Ended, Hold};
use super::{Action, Session};
use crate::wire;
use crate::wire::agent_message::Report;

/// How a command's attempt relates to what this member is doing.
enum Standing {
    Older,
    Current,
    Newer,
    Another,
    Free,
}

impl Hold {
    pub(super) fn prepare(&mut self, session: Session, attempt: wire::Attempt, prepare: wire::Prepare, now: Instant) {
        match self.admit(&attempt) {
            Standing::Older => self.refuse(session, attempt, 0, false, |hold| hold.stale_blocker()),
            Standing::Another => self.refuse(session, attempt, 0, true, Self::another_blocker),
            Standing::Current => self.repeat(session, attempt, 0),
            Standing::Newer => {
                let why = format!("attempt {} began", attempt.number);
                self.next = Some((session, attempt, prepare));
                self.stop(End::broken(why), now);
            }
            Standing::Free => self.begin(session, attempt, prepare, now),
        }
    }

    pub(super) fn suspend(&mut self, session: Session, attempt: wire::Attempt, round: u32, now: Instant) {
        match self.admit(&attempt) {
            Standing::Older => return self.refuse(session, attempt, round, false, |hold| hold.stale_blocker()),
            Standing::Another => return self.refuse(session, attempt, round, true, Self::another_blocker),
            Standing::Newer | Standing::Free => {
                return self.refuse(session, attempt, round, false, |hold| {
                    not_prepared(hold.ended.as_ref().map_or("it never was", |ended| &ended.released.reason))
                });
            }
            Standing::Current => {}
        }
        let Some(current) = &mut self.current else { return };
        match current.state {
            State::Preparing { .. } => {
                self.refuse(session, attempt, round, true, |_| not_prepared("it is still preparing"));
            }
            State::Prepared { .. } if round > current.round => {
                current.session = session;
                current.attempt = attempt;
                current.round = round;
                current.said = None;
                self.walk(0, now);
            }
            State::Prepared { .. }
            | State::Approaching { .. }
            | State::Suspending { .. }
            | State::Confirming { .. }
            | State::Held { .. }
            | State::Resuming { .. }
            | State::Settling { .. }
            | State::Unquiescing { .. } => self.repeat(session, attempt, round),
        }
    }

    pub(super) fn release(&mut self, session: Session, attempt: wire::Attempt, now: Instant) {
        let answer = match self.admit(&attempt) {
            Standing::Current | Standing::Newer => {
                let broken = (!self.holds_for(&attempt)).then(|| "this attempt held nothing".to_owned());
                return self.stop(End::release(session, attempt, broken), now);
            }
            Standing::Older => self.remembered(&attempt).unwrap_or_else(|| nothing_held("a newer attempt has begun")),
            Standing::Another | Standing::Free => {
                self.remembered(&attempt).unwrap_or_else(|| nothing_held("this attempt held nothing"))
            }
        };
        let released = wire::Released { attempt: Some(attempt), ..answer };
        self.actions.push(Action::Report(session, Report::Released(released)));
    }

    /// Tells how a command stands, and remembers the highest epoch.
    fn admit(&mut self, attempt: &wire::Attempt) -> Standing {
        use std::cmp::Ordering::{Equal, Greater, Less};
        if attempt.epoch < self.epoch {
            return Standing::Older;
        }
        self.epoch = attempt.epoch;
        match (&self.current, &self.ended) {
            (Some(current), _) if current.attempt.replication_uid != attempt.replication_uid => Standing::Another,
            (Some(current), _) => match attempt.number.cmp(&current.attempt.number) {
                Less => Standing::Older,
                Equal => Standing::Current,
                Greater => Standing::Newer,
            },
            (None, Some(Ended { attempt: last, .. }))
                if last.replication_uid == attempt.replication_uid && attempt.number < last.number =>
            {
                Standing::Older
            }
            (None, _) => Standing::Free,
        }
    }

    fn holds_for(&self, attempt: &wire::Attempt) -> bool {
        self.current.as_ref().is_some_and(|current| {
            matches!(current.state, State::Held { .. }) && current.attempt.number == attempt.number
        })
    }

    /// The answer to a repeated Release. A leader whose place was taken is not told what its successor was: it may have cut
    /// after that release.
    fn remembered(&self, attempt: &wire::Attempt) -> Option<wire::Released> {
        self.ended
            .as_ref()
            .filter(|ended| {
                ended.attempt.replication_uid == attempt.replication_uid
                    && ended.attempt.number == attempt.number
                    && ended.attempt.epoch <= attempt.epoch
            })
            .map(|ended| ended.released.clone())
    }

    /// The same command again: the same answer, to whoever asks now. If there is none yet, it will come.
    ///
    /// But Ready is true only while the hold lasts. Whoever asks again when it has been broken is refused once writes go on;
    /// whoever released it is answered by Released. The round is that of the command, 0 of a Prepare.
    fn repeat(&mut self, session: Session, attempt: wire::Attempt, round: u32) {
        let Some(current) = &mut self.current else { return };
        current.session = session;
        current.attempt = attempt;
        let ready = matches!(current.said, Some(Report::Ready(_)));
        match &mut current.state {
            State::Resuming { end, .. } | State::Settling { end, .. } | State::Unquiescing { end, .. } if ready => {
                if let Some(End { then: Then::LetGo(why), refusal }) = end {
                    refusal.get_or_insert_with(|| Refusal { retryable: false, look: only(not_prepared(why)) });
                    current.said = None;
                    current.round = round;
                }
            }
            _ => {
                if let Some(said) = current.said.clone() {
                    self.actions.push(Action::Report(session, said));
                }
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        session: Session,
        attempt: wire::Attempt,
        round: u32,
        retryable: bool,
        why: impl FnOnce(&Self) -> wire::Blocker,
    ) {
        let blockers = vec![why(self)];
        let report = wire::NotReady { attempt: Some(attempt), round, retryable, blockers, ..wire::NotReady::default() };
        self.actions.push(Action::Report(session, Report::NotReady(report)));
    }

    fn stale_blocker(&self) -> wire::Blocker {
        let current = self.current.as_ref().map(|current| &current.attempt);
        let number = current.or(self.ended.as_ref().map(|ended| &ended.attempt)).map_or(0, |attempt| attempt.number);
        stale(self.epoch, number)
    }

    fn another_blocker(&self) -> wire::Blocker {
        held_by_another(self.current.as_ref().map_or("", |current| &current.attempt.replication_uid))
    }
}

fn nothing_held(reason: &str) -> wire::Released {
    wire::Released { attempt: None, unbroken: false, reason: reason.to_owned(), suspended_us: 0 }
}
