//! One attempt of one member, and where it stands.

use std::time::{Duration, Instant};

use super::{Act, Equipped, Intent, Session};
use crate::limits::{LOOK_PARTS, MAX_BLOCKERS, SEEN_AGAIN};
use crate::locks::{Cost, Look};
use crate::wire;
use crate::wire::agent_message::Report;

/// One attempt, from Prepare on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    /// Where the last command came from, and where answers go.
    pub session: Session,
    pub attempt: wire::Attempt,
    pub prepare: wire::Prepare,
    /// What the preflight found; none before it has come back.
    pub equipped: Option<Equipped>,
    pub round: u32,
    /// What the latest look cost while writes went on.
    pub look_cost: Cost,
    /// From when on the hold's limit counts: the guardian was asked to be armed, before anything is suspended. So the agent's
    /// own deadline comes before the guardian's.
    pub limit_from: Instant,
    /// The application was asked to quiesce, and not to go on since, whatever it answered.
    pub quiesced: bool,
    /// What was said last, for a repeated command.
    pub said: Option<Report>,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Writes go on. It looks, flushes when nothing stands in the way (what does may hold up a flush too, and has a name), and
    /// looks again.
    Preparing { step: Preparing, by: Instant, seen: Look, said: Look, flushed: bool },
    /// Writes go on; let go at `until` if nobody asks.
    Prepared { until: Instant },
    /// Writes go on: the acts of the plan before it suspends. `at` is the place in the plan.
    Approaching { at: usize, by: Instant },
    /// The method suspends. An end that comes meanwhile waits for its answer: a refusal means that nothing is ours.
    Suspending { at: usize, since: Instant, by: Instant, end: Option<End> },
    /// Writes are suspended: the acts of the plan after that.
    Confirming { at: usize, since: Instant },
    /// Writes are suspended, and Ready was said.
    Held { since: Instant },
    /// The method resumes.
    Resuming { since: Instant, by: Instant, end: Option<End> },
    /// The freezer did not answer and is killed; resumed from outside until nothing can suspend any more.
    /// `late`: it had not suspended within its limit, and was said to be pending.
    Settling { since: Instant, late: bool, end: Option<End> },
    /// Writes go on, after this time without; the application is told to go on too.
    Unquiescing { by: Instant, suspended: Duration, end: Option<End> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Preparing {
    Preflight,
    /// Repeated until one is short: it counts from 1.
    Flush {
        number: u32,
        since: Instant,
    },
    Look,
    Pause {
        until: Instant,
    },
}

/// What is said and done once writes go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct End {
    /// Answers the round, unless Ready already has.
    pub refusal: Option<Refusal>,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusal {
    pub retryable: bool,
    pub look: Look,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// Stay prepared for another round.
    Stay,
    /// Nobody waits for an answer now; remember the reason for Release.
    LetGo(String),
    /// Answer this Release.
    Answer { session: Session, attempt: wire::Attempt, broken: Option<String> },
}

impl Attempt {
    /// The filesystem's type, as far as it is known.
    pub fn filesystem(&self) -> &str {
        self.equipped.as_ref().map_or("", |it| &it.filesystem)
    }

    pub fn hold_limit(&self) -> Duration {
        Duration::from_millis(self.prepare.hold_timeout_ms.into())
    }

    /// How much of a hold a look may take.
    pub fn look_limit(&self) -> Duration {
        self.hold_limit() / LOOK_PARTS
    }

    /// How long a suspension may take to come about: writes may wait meanwhile, so never longer than a hold.
    pub fn suspend_limit(&self) -> Duration {
        self.limit_of(Act::Suspend)
    }

    pub fn limit_of(&self, act: Act) -> Duration {
        act.limit(self.hold_limit())
    }

    /// The act at this place; `None` behind the last. Before the method's plan comes the quiescing, recorded, if there is any.
    pub fn act(&self, at: usize) -> Option<Act> {
        let equipped = self.equipped.as_ref()?;
        let first: &[Act] = if equipped.quiesces { &[Act::Record, Act::Quiesce] } else { &[] };
        first.get(at).copied().or_else(|| equipped.plan.act(at.checked_sub(first.len())?))
    }

    /// What is recorded at this place.
    pub fn intent(&self, at: usize) -> Intent {
        if self.act(at + 1) == Some(Act::Quiesce) { Intent::Quiesce } else { Intent::Suspend }
    }

    pub fn prepare_timeout(&self) -> Duration {
        Duration::from_millis(self.prepare.prepare_timeout_ms.into())
    }

    /// When the present state has lasted long enough.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Preparing { step: Preparing::Pause { until }, by, .. } => Some(until.min(by)),
            State::Preparing { by, .. }
            | State::Approaching { by, .. }
            | State::Suspending { by, .. }
            | State::Resuming { by, .. }
            | State::Unquiescing { by, .. } => Some(by),
            State::Prepared { until } => Some(until),
            State::Confirming { .. } | State::Held { .. } => Some(self.limit_from + self.hold_limit()),
            State::Settling { .. } => None,
        }
    }

    /// What should follow once writes go on, if that was decided.
    pub fn take_end(&mut self) -> Option<End> {
        match &mut self.state {
            State::Suspending { end, .. }
            | State::Resuming { end, .. }
            | State::Settling { end, .. }
            | State::Unquiescing { end, .. } => end.take(),
            State::Preparing { .. }
            | State::Prepared { .. }
            | State::Approaching { .. }
            | State::Confirming { .. }
            | State::Held { .. } => None,
        }
    }
}

impl End {
    /// Not now: another round may go better.
    pub fn not_now(retryable: bool, look: Look) -> Self {
        Self { refusal: Some(Refusal { retryable, look }), then: Then::Stay }
    }

    /// For good: what is needed for another round is gone, or time is up.
    pub fn refused(retryable: bool, look: Look) -> Self {
        Self { refusal: Some(Refusal { retryable, look }), then: Then::LetGo("it was not ready".to_owned()) }
    }

    /// For good, for this reason alone.
    pub fn failed(why: wire::Blocker) -> Self {
        Self::refused(false, only(why))
    }

    pub fn broken(why: impl Into<String>) -> Self {
        Self { refusal: None, then: Then::LetGo(why.into()) }
    }

    pub fn release(session: Session, attempt: wire::Attempt, broken: Option<String>) -> Self {
        Self { refusal: None, then: Then::Answer { session, attempt, broken } }
    }

    /// The first reason counts; a Release is always answered, and what stood in the way is named before that.
    pub fn and(self, later: Self) -> Self {
        let refusal = match (self.refusal, later.refusal) {
            (Some(earlier), Some(later)) => Some(earlier.and(later)),
            (earlier, later) => earlier.or(later),
        };
        let then = match (self.then, later.then) {
            (Then::Stay, later) => later,
            (Then::LetGo(why), Then::Answer { session, attempt, .. }) => {
                Then::Answer { session, attempt, broken: Some(why) }
            }
            (Then::Answer { broken, .. }, Then::Answer { session, attempt, .. }) => {
                Then::Answer { session, attempt, broken }
            }
            (earlier @ (Then::LetGo(_) | Then::Answer { .. }), _) => earlier,
        };
        Self { refusal, then }
    }

    pub fn broken_by(mut self, why: &str) -> Self {
        if let Then::Answer { broken, .. } = &mut self.then {
            broken.get_or_insert_with(|| why.to_owned());
        }
        self
    }

    pub fn without_freezer(mut self) -> Self {
        if let Some(refusal) = &mut self.refusal {
            refusal.retryable = false;
        }
        if self.then == Then::Stay {
            self.then = Then::LetGo("it was not ready".to_owned());
        }
        self
    }
}

impl Refusal {
    fn and(mut self, later: Self) -> Self {
        let room = MAX_BLOCKERS.saturating_sub(self.look.blockers.len());
        let beyond = later.look.blockers.len().saturating_sub(room);
        self.look.blockers.extend(later.look.blockers.into_iter().take(room));
        let beyond = u32::try_from(beyond).unwrap_or(u32::MAX).saturating_add(later.look.more_blockers);
        self.look.more_blockers = self.look.more_blockers.saturating_add(beyond);
        Self { retryable: self.retryable && later.retryable, look: self.look }
    }
}

/// A look that found this alone.
pub(super) fn only(blocker: wire::Blocker) -> Look {
    Look { blockers: vec![blocker], ..Look::default() }
}

/// Whether a look says what the one that was reported said; for how long it has been so counts when that has grown enough.
pub(super) fn say_the_same(look: &Look, said: &Look) -> bool {
    let same = |(one, other): (&wire::Blocker, &wire::Blocker)| {
        let timeless = wire::Blocker { seen_us: other.seen_us, ..one.clone() };
        let next = (other.seen_us + other.seen_us / 4).max(wire::micros(SEEN_AGAIN));
        timeless == *other && one.seen_us < next
    };
    look.more_blockers == said.more_blockers
        && look.blockers.len() == said.blockers.len()
        && look.blockers.iter().zip(&said.blockers).all(same)
}
