//! When a thaw is owed: the guardian's decision about one member, as a state machine without IO.
//!
//! ```text
//! Idle ──Arm──▶ Armed ──deadline, end of the connection, nonsense──▶ Over: thaw
//!   ▲─Disarm──────┘
//!   └──end of the connection, nonsense──▶ Over: nothing is owed
//! ```
//!
//! From Arm on there is a deadline, or a thaw is owed, until Disarm. The deadline only ever comes nearer: no agent can
//! make a freeze last longer than it first said.

use std::time::{Duration, Instant};

use crate::limits::{GUARDIAN_GRACE, MAX_HOLD};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent may freeze from now on.
    Arm {
        /// Comes back in [`Step::Promise`].
        ticket: u64,
        /// How long writes may stay suspended; counts for at most [`MAX_HOLD`].
        limit: Duration,
    },
    /// The agent says that no thaw is owed.
    Disarm,
    /// The agent said what cannot be understood, or not here: it can be relied on no more.
    Nonsense,
    /// The connection ended, and so did the agent.
    Closed,
    /// [`Watch::poll_timeout`] may have come.
    Timeout,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Wait for what comes next.
    Wait,
    /// Tell the agent that the thaw is promised.
    Promise {
        /// Of the Arm that this answers.
        ticket: u64,
    },
    /// End the connection and thaw; the watch is over.
    Thaw(Reason),
    /// End the connection; the watch is over, and nothing is owed.
    Leave,
}

/// Why a thaw is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent did not disarm in time.
    DeadlinePassed,
    /// The agent is gone.
    AgentGone,
    /// The agent speaks nonsense.
    AgentUnreliable,
}

impl Reason {
    /// Half a sentence, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::DeadlinePassed => "its deadline has passed",
            Self::AgentGone => "its agent is gone",
            Self::AgentUnreliable => "its agent cannot be understood",
        }
    }
}

/// The watch over one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum State {
    #[default]
    Idle,
    Armed {
        deadline: Instant,
    },
    Over {
        owed: bool,
    },
}

impl Watch {
    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Armed { deadline } => Some(deadline),
            State::Idle | State::Over { .. } => None,
        }
    }

    /// Whether a thaw is owed, now or at the deadline.
    pub fn owes(&self) -> bool {
        match self.state {
            State::Armed { .. } => true,
            State::Over { owed } => owed,
            State::Idle => false,
        }
    }

    /// Takes what happened and says what to do. A deadline that has passed counts before the event, unless that is a Disarm:
    /// then nothing is frozen that could be thawed in the agent's place.
    pub fn handle(&mut self, event: Event, now: Instant) -> Step {
        match (&self.state, event) {
            (State::Over { .. }, _) => Step::Wait,
            (State::Idle | State::Armed { .. }, Event::Disarm) => {
                self.state = State::Idle;
                Step::Wait
            }
            (State::Armed { deadline }, _) if now >= *deadline => self.thaw(Reason::DeadlinePassed),
            (State::Armed { .. }, Event::Nonsense) => self.thaw(Reason::AgentUnreliable),
            (State::Armed { .. }, Event::Closed) => self.thaw(Reason::AgentGone),
            (State::Armed { deadline }, Event::Arm { ticket, limit }) => {
                let deadline = (*deadline).min(due(limit, now));
                self.state = State::Armed { deadline };
                Step::Promise { ticket }
            }
            (State::Idle, Event::Arm { ticket, limit }) => {
                self.state = State::Armed { deadline: due(limit, now) };
                Step::Promise { ticket }
            }
            (State::Idle, Event::Nonsense | Event::Closed) => {
                self.state = State::Over { owed: false };
                Step::Leave
            }
            (State::Idle | State::Armed { .. }, Event::Timeout) => Step::Wait,
        }
    }

    fn thaw(&mut self, reason: Reason) -> Step {
        self.state = State::Over { owed: true };
        Step::Thaw(reason)
    }
}

fn due(limit: Duration, now: Instant) -> Instant {
    now + limit.min(MAX_HOLD) + GUARDIAN_GRACE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const ARM: Event = Event::Arm { ticket: 7, limit: LIMIT };
    const PROMISE: Step = Step::Promise { ticket: 7 };

    #[test]
    fn every_event_in_every_state() {
        let idle = [
            (ARM, PROMISE, true),
            (Event::Disarm, Step::Wait, false),
            (Event::Nonsense, Step::Leave, false),
            (Event::Closed, Step::Leave, false),
            (Event::Timeout, Step::Wait, false),
        ];
        let armed = [
            (ARM, PROMISE, true),
            (Event::Disarm, Step::Wait, false),
            (Event::Nonsense, Step::Thaw(Reason::AgentUnreliable), true),
            (Event::Closed, Step::Thaw(Reason::AgentGone), true),
            (Event::Timeout, Step::Wait, true),
        ];
        let overdue = [
            (ARM, Step::Thaw(Reason::DeadlinePassed), true),
            (Event::Disarm, Step::Wait, false),
            (Event::Nonsense, Step::Thaw(Reason::DeadlinePassed), true),
            (Event::Closed, Step::Thaw(Reason::DeadlinePassed), true),
            (Event::Timeout, Step::Thaw(Reason::DeadlinePassed), true),
        ];
        let begun = Instant::now();
        let deadline = begun + LIMIT + GUARDIAN_GRACE;
        for (state, table, arm_first, now) in [
            ("idle", idle, false, begun),
            ("armed", armed, true, deadline - Duration::from_nanos(1)),
            ("overdue", overdue, true, deadline),
        ] {
            for (event, step, owes) in table {
                let mut watch = Watch::default();
                if arm_first {
                    watch.handle(ARM, begun);
                    assert_eq!(watch.poll_timeout(), Some(deadline));
                }
                assert_eq!(watch.handle(event.clone(), now), step, "{event:?} when {state}");
                assert_eq!(watch.owes(), owes, "{event:?} when {state}");
            }
        }
    }

    #[test]
    fn no_agent_is_trusted_for_longer_than_the_longest_hold() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        watch.handle(Event::Arm { ticket: 1, limit: Duration::MAX }, now);
        assert_eq!(watch.poll_timeout(), Some(now + MAX_HOLD + GUARDIAN_GRACE));
    }

    #[test]
    fn what_is_over_stays_over() {
        let now = Instant::now();
        for (armed, owes) in [(true, true), (false, false)] {
            let mut watch = Watch::default();
            if armed {
                watch.handle(ARM, now);
            }
            watch.handle(Event::Closed, now);
            for event in [ARM, Event::Disarm, Event::Nonsense, Event::Closed, Event::Timeout] {
                assert_eq!(watch.handle(event, now + LIMIT * 10), Step::Wait);
                assert_eq!((watch.owes(), watch.poll_timeout()), (owes, None));
            }
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (any::<u64>(), 0..90_000_u64).prop_map(|(ticket, ms)| {
                Event::Arm { ticket, limit: Duration::from_millis(ms) }
            }),
            2 => Just(Event::Disarm),
            1 => Just(Event::Nonsense),
            1 => Just(Event::Closed),
            4 => Just(Event::Timeout),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn from_arm_to_disarm_there_is_a_deadline_or_a_thaw_is_owed(
            events in prop::collection::vec((event(), 0..30_000_u64), 1..60)
        ) {
            let (mut watch, mut now) = (Watch::default(), Instant::now());
            // When the agent was first allowed to freeze, and for how long at most.
            let mut allowed: Option<Instant> = None;
            for (event, wait_ms) in events {
                now += Duration::from_millis(wait_ms);
                let over = watch.owes() && watch.poll_timeout().is_none();
                let step = watch.handle(event.clone(), now);
                match (&event, &step) {
                    _ if over => prop_assert_eq!(&step, &Step::Wait),
                    (Event::Disarm, _) => allowed = None,
                    (Event::Arm { limit, .. }, Step::Promise { .. }) => {
                        let until = now + (*limit).min(MAX_HOLD) + GUARDIAN_GRACE;
                        allowed = Some(allowed.map_or(until, |earlier| earlier.min(until)));
                    }
                    _ => {}
                }
                prop_assert_eq!(watch.owes(), allowed.is_some());
                if let Some(allowed) = allowed {
                    let thawing = watch.poll_timeout().is_none();
                    prop_assert!(thawing || watch.poll_timeout() == Some(allowed));
                    prop_assert!(thawing || now < allowed || matches!(event, Event::Arm { .. }), "overdue");
                }
            }
        }
    }
}
