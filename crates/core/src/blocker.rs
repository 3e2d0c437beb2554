//! Blockers as the agent words them: a reason for programs and a sentence for people.

use stillpoint_api::Reason;

use crate::limits::MAX_MESSAGE_CHARS;
use crate::text::printable;
use crate::wire::Blocker;

/// A blocker without a process or a lock. The message is made fit for a status: printable and bounded.
pub fn blocker(reason: Reason, message: &str) -> Blocker {
    Blocker { reason: reason.into(), message: printable(message, MAX_MESSAGE_CHARS), ..Blocker::default() }
}
