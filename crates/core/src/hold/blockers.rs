//! The sentences for what stands in a hold's way.

use std::time::Duration;
use stillpoint_api::Reason;

use crate::blocker::blocker;
use crate::limits::SHORT_FLUSH_PART;
use crate::locks::Cost;
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

/// Said while the kernel waits.
pub(super) fn pending(limit: Duration) -> wire::Blocker {
    blocker(
        Reason::SuspensionPending,
        &format!(
            "suspending writes has not ended within {limit:?}, because something on the volume does not come to its end, and \
             the kernel takes this back for nobody: writes may wait until then, and go on at once after it. Check the volume's \
             storage, and what runs on it"
        ),
    )
}

/// Said when it is over.
pub(super) fn was_pending(limit: Duration, suspended: Duration) -> wire::Blocker {
    blocker(
        Reason::SuspensionPending,
        &format!(
            "suspending writes was given up after {limit:?}, but the kernel takes this back for nobody: writes may have waited \
             {suspended:.1?}; they go on now. Check the volume's storage, and what ran on it"
        ),
    )
}

/// So much was dirty that a freeze would have to wait for it.
pub(super) fn slow_flush(number: u32, took: Duration, allowed: Duration) -> wire::Blocker {
    flush_too_slow(&format!("flush {number} took {took:.1?}"), allowed)
}

/// The same, of one that has not come back.
pub(super) fn open_flush(number: u32, after: Duration, allowed: Duration) -> wire::Blocker {
    flush_too_slow(&format!("flush {number} had not ended after {after:.1?}"), allowed)
}

fn flush_too_slow(what: &str, allowed: Duration) -> wire::Blocker {
    blocker(
        Reason::TooSlow,
        &format!(
            "writing dirty pages back (syncfs): {what}, and at most {allowed:.1?} are allowed (a {SHORT_FLUSH_PART}th of \
             holdTimeout) before writes are suspended, which would wait for the pages that are left; writes go on. Check what \
             writes so much, and the volume's storage, or raise holdTimeout"
        ),
    )
}

pub(super) fn too_slow(what: &str, limit: Duration) -> wire::Blocker {
    blocker(Reason::TooSlow, &format!("{what} did not end within {limit:?}; writes go on; check the volume's storage"))
}

/// A look like the latest one is not begun while writes are suspended: `room` is what there is for it.
pub(super) fn look_too_costly(cost: Cost, room: Duration) -> wire::Blocker {
    let Cost { took, .. } = cost;
    let message = format!(
        "a look for locks takes {took:.1?}, and this hold has room for {room:.1?} of it, in which all would wait: {}",
        what_helps(cost)
    );
    blocker(Reason::TooSlow, &message)
}

pub(super) fn look_never_ended(limit: Duration, latest: Cost) -> wire::Blocker {
    let message = format!("the look for locks did not end within {limit:?}: {}", what_helps(latest));
    blocker(Reason::TooSlow, &message)
}

fn what_helps(cost: Cost) -> String {
    let held_up = cost.throttled;
    if held_up.is_zero() {
        return "see how many processes and descriptors the pod has, and whether the node's CPUs are busy".to_owned();
    }
    format!("the CPU limit of the agent's container held it up for {held_up:.1?}; raise that limit")
}
