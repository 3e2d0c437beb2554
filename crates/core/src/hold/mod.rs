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
//! Invariants:
//! - `Warm` and `Freeze` are asked for only after the guardian has acknowledged `Arm`, and only between a `Record` that
//!   succeeded and the `Forget` that follows it.
//! - From `Freeze` on, there is always a deadline or a thaw under way until the filesystem is known to be thawed.
//! - `Ready` is said only while frozen by us, after a clean look before and a clean look after.
//! - `Released{unbroken}` is said only if the freeze lasted from `Ready` to a planned thaw that answered OK.
//! - A freeze of somebody else (`EBUSY`) is reported and never thawed.

mod blockers;
mod commands;
pub mod guard;
mod machine;
mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustix::io::Errno;

pub use blockers::{no_guardian, not_recorded};
pub use machine::Hold;

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
    /// The guardian's end of the socket closed: nobody else would thaw.
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
    Prepare(wire::Attempt, wire::Prepare),
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
    /// Write dirty pages back while writes go on (syncfs(2)).
    Flush(Ticket),
    /// Look for locks.
    Look(Ticket, Suspension),
    /// Write down, off the dataset, what is about to be frozen: whoever comes after this agent thaws nothing else.
    Record(Ticket),
    /// Tell the guardian to thaw after this time unless disarmed.
    Arm(Ticket, Duration),
    /// Freeze and thaw at once. It pays for the RCU grace periods of a cold freeze, so that the freeze that follows within
    /// milliseconds is short.
    Warm(Ticket),
    /// Suspend writes.
    Freeze(Ticket),
    /// Resume writes.
    Thaw(Ticket),
    /// Kill the freezer and thaw until nothing can freeze any more (see [``stillpoint::fsfreeze::thaw_until_settled`]).
    Settle(Ticket),
    /// Tell the guardian that no thaw is owed.
    Disarm,
    /// Nothing will be frozen in this round any more, and no thaw is owed: what was recorded is void.
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
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Preflight: what was found, or why the member cannot be held.
    Preflighted(Result<Equipped, Vec<wire::Blocker>>),
    /// The flush.
    Flushed(Result<(), Errno>),
    /// What stands in the way.
    Looked(Look),
    /// What is about to be frozen is written down, or why it is not.
    Recorded(Result<(), String>),
    /// The guardian acknowledged. One that does not is lost ([`Event::GuardianLost`]) or late.
    Armed,
    /// The freeze-and-thaw.
    Warmed(Result<(), Errno>),
    /// The freeze.
    Frozen(Result<(), Errno>),
    /// The thaw.
    Thawed(Result<(), Errno>),
    /// Nothing can freeze any more.
    Settled,
}
