//! The hold of one member: from the first question to the release, as a state machine without IO.
//!
//! ```text
//! Idle ─Prepare─▶ Preparing ─clean─▶ Prepared ─Suspend─▶ Suspending ─clean─▶ Held ─Release─▶ Resuming ─▶ Idle
//!                     │ never clean      ▲                    │ not clean      │ limit, lost session, lost guardian
//!                     ▼                  └────── resumed ─────┘                ▼
//!                   Idle                                                    Resuming ─▶ Idle
//! ```
//!
//! [`Hold::handle`] takes what happened and the time and says what to do; [`Hold::poll_timeout`] says when it wants to be
//! called again. The caller carries out the actions and reports the [`Outcome`] of each that has a [`Ticket`].
//!
//! How writes are suspended is the method's: the [`Plan`] that the preflight brings says in which order the machine asks for
//! its acts.
//!
//! Invariants:
//! - `Suspend` is asked for only after the guardian has acknowledged `Arm`, and only between a `Record` that succeeded and
//!   the `Forget` that follows it.
//! - From `Suspend` on, there is always a deadline or a resumption under way until writes are known to go on.
//! - `Ready` is said only while suspended by us, after a clean look before and a clean look after.
//! - `Released{unbroken}` is said only if the suspension lasted from `Ready` to a planned `Resume` that ended it.
//! - Between `Quiesce` and `Unquiesce` the application is recorded as quiesced. Every way out goes by `Unquiesce`, once, after
//!   writes go on and before anything is forgotten.
//! - A suspension of somebody else is refused by the method, reported, and never undone.

mod attempt;
mod blockers;
mod commands;
pub mod guard;
mod machine;
mod outcomes;
mod plan;
#[cfg(test)]
mod tests;
mod ways_out;

use std::time::Duration;

pub use blockers::{is_slow_suspension, no_guardian, not_recorded};
pub use machine::Hold;
pub use plan::{Act, Plan};

use crate::locks::{Look, Suspension};
use crate::wire;
use crate::wire::agent_message::Report;

/// Names one session of this agent with a controller.
pub type Session = u64;

/// Ties an [`Outcome`] to the action that asked for it, so that a late one cannot be taken for another.
pub type Ticket = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A controller commands.
    Command(Session, Command),
    /// A session ended, and with it everything that it commanded.
    SessionLost(Session),
    /// An action is done.
    Done(Ticket, Outcome),
    /// The guardian's end of the socket closed: nobody else would resume writes.
    GuardianLost,
    /// The freezer process ended without being asked to.
    FreezerLost,
    /// The agent is told to stop.
    Shutdown,
    /// [`Hold::poll_timeout`] has come.
    Timeout,
}

/// A command, with its attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Look, and get everything ready.
    Prepare(wire::Attempt, Box<wire::Prepare>),
    /// Suspend writes; the number is the round.
    Suspend(wire::Attempt, u32),
    /// Resume, whatever the state.
    Release(wire::Attempt),
}

impl Command {
    /// The attempt that it belongs to.
    pub fn attempt(&self) -> &wire::Attempt {
        match self {
            Self::Prepare(attempt, _) | Self::Suspend(attempt, _) | Self::Release(attempt) => attempt,
        }
    }
}

/// What to do. Those with a ticket must be answered by [`Event::Done`], once; the others need no answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open and check the dataset, start the freezer, hand both to the guardian.
    Preflight(Ticket, Box<wire::Prepare>),
    /// Bring the application to a point that it can be restored from.
    Quiesce(Ticket),
    /// Let the application go on, whatever came of [`Self::Quiesce`]; one that has not come back is given up.
    Unquiesce(Ticket),
    /// Write dirty pages back.
    Flush(Ticket),
    /// Look for locks.
    Look(Ticket, Suspension),
    /// Write down, off the dataset, what is about to be done: whoever comes after this agent undoes nothing else.
    Record(Ticket, Intent),
    /// Tell the guardian to resume writes after this time unless disarmed.
    Arm(Ticket, Duration),
    /// Suspend writes, unless this time has passed before the suspension that lasts has begun.
    Suspend(Ticket, Duration),
    /// Resume writes.
    Resume(Ticket),
    /// Kill the freezer and resume until nothing of it can suspend any more (see `stillpoint::undo::until_settled`).
    Settle(Ticket),
    /// Tell the guardian that nothing is owed.
    Disarm,
    /// Nothing will be suspended in this round any more, and nothing is owed: what was recorded is void.
    Forget,
    /// Disarm, and let go of the dataset, the freezer and the guardian.
    Close,
    /// Tell the controller.
    Report(Session, Report),
}

/// What a preflight found and got ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Equipped {
    /// The filesystem's type.
    pub filesystem: String,
    /// What gives writes back if the agent dies.
    pub protection: wire::Protection,
    /// How its method suspends writes.
    pub plan: Plan,
    /// Whether its application is quiesced before that.
    pub quiesces: bool,
}

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Quiesce the application; writes go on.
    Quiesce,
    /// Suspend writes.
    Suspend,
}

/// Why a method did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Says why, and what to do.
    pub blocker: Box<wire::Blocker>,
    /// Whether another round may go better.
    pub retryable: bool,
}

impl Refused {
    /// A refusal.
    pub fn new(blocker: wire::Blocker, retryable: bool) -> Self {
        Self { blocker: Box::new(blocker), retryable }
    }
}

/// What came of resuming writes; the sentences are the method's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resumed {
    /// Writes had been suspended until then, and go on.
    Ended,
    /// Writes went on already, for this reason.
    Broken(String),
    /// Nobody can say whether writes go on.
    Failed(String),
}

/// What an undo found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WasSuspended {
    /// Writes were suspended, and go on.
    Yes,
    /// Writes went on already: somebody else resumed them, or nobody had suspended them.
    No,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Preflight: what was found, or why the member cannot be held.
    Preflighted(Result<Equipped, Vec<wire::Blocker>>),
    /// The application is quiesced, or may be: it is told to go on in any case.
    Quiesced(Result<(), Refused>),
    /// The application goes on, and had stayed quiesced until then; or a sentence that says why not.
    Unquiesced(Result<(), String>),
    /// The flush.
    Flushed(Result<(), Refused>),
    /// What stands in the way.
    Looked(Look),
    /// What is about to be suspended is written down, or why it is not.
    Recorded(Result<(), String>),
    /// The guardian acknowledged. One that does not is lost ([`Event::GuardianLost`]) or late.
    Armed,
    /// Writes are suspended, and had been for so long when the method said so; or nothing of ours is.
    Suspended(Result<Duration, Refused>),
    /// What came of resuming.
    Resumed(Resumed),
    /// Nothing can suspend any more.
    Settled,
}
