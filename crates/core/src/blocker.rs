//! Blockers as the agent words them: a reason for programs and a sentence for people.

use crate::limits::MAX_MESSAGE_CHARS;
use crate::text::printable;
use crate::wire::Blocker;

/// A process holds a lock on the dataset.
pub const LOCK_HELD: &str = "LockHeld";
/// The agent cannot see what it would have to see to answer "clean".
pub const BLIND: &str = "Blind";
/// The agent lacks a capability that it needs.
pub const MISSING_CAPABILITY: &str = "MissingCapability";
/// The dataset's filesystem cannot be frozen.
pub const CANNOT_FREEZE: &str = "CannotFreeze";
/// The dataset's filesystem holds more than the dataset.
pub const NOT_EXCLUSIVE: &str = "NotExclusive";
/// The claim is not mounted where the agent was told, or cannot be opened there.
pub const NOT_MOUNTED: &str = "NotMounted";

/// A blocker without a process or a lock. The message is made fit for a status: printable and bounded.
pub fn blocker(reason: &str, message: &str) -> Blocker {
    Blocker { reason: reason.to_owned(), message: printable(message, MAX_MESSAGE_CHARS), ..Blocker::default() }
}
