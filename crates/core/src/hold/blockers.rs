//! The sentences for what stands in a hold's way.

use std::time::Duration;
use stillpoint_api::Reason;

use crate::blocker::blocker;
use crate::wire;

pub(super) fn stale(epoch: u64, number: u32) -> wire::Blocker {
    let message = format!(
        "the agent has already been commanded by epoch {epoch}, attempt {number}; this older command is refused"
    );
    wire::Blocker { epoch, ..blocker(Reason::StaleAttempt, &message) }
}

pub(super) fn held_by_another(replication: &str) -> wire::Blocker {
    blocker(
        Reason::HeldByAnother,
        &format!("the replication with UID {replication} is using this volume; wait until it has ended"),
    )
}

pub(super) fn not_prepared(why: &str) -> wire::Blocker {
    blocker(
        Reason::NotPrepared,
        &format!("the agent has nothing prepared for this attempt: {why}; a new attempt begins afresh"),
    )
}

pub(super) fn hold_too_long(asked: Duration, ceiling: Duration) -> wire::Blocker {
    blocker(
        Reason::HoldTimeoutRefused,
        &format!(
            "a hold of {asked:?} was asked for; this agent allows more than 0s and at most {ceiling:?} (--max-hold)"
        ),
    )
}

/// The guardian cannot be relied on.
pub fn no_guardian(why: &str) -> wire::Blocker {
    blocker(
        Reason::NoGuardian,
        &format!(
            "nobody would give the writes back if this agent died ({why}); check the DaemonSet stillpoint-guardian on \
             this node, or the guardian beside the agent"
        ),
    )
}

/// What is about to be suspended cannot be written down.
pub fn not_recorded(why: &str) -> wire::Blocker {
    blocker(
        Reason::NotRecorded,
        &format!(
            "if this agent and the guardian both died, the next agent would not know what to give back: what is to be \
             frozen cannot be written to --record-dir ({why}); mount an emptyDir with medium Memory there"
        ),
    )
}

pub(super) fn freezer_lost() -> wire::Blocker {
    blocker(
        Reason::FreezerLost,
        "the agent's freezer process ended; a new attempt starts another (was it killed for memory?)",
    )
}

pub(super) fn too_slow(what: &str, limit: Duration) -> wire::Blocker {
    blocker(Reason::TooSlow, &format!("{what} did not end within {limit:?}; writes go on; check the volume's storage"))
}
