//! The kernel's filesystem freeze as a method: see [`crate::fsfreeze`].

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use stillpoint_api::Reason;

use rustix::io::{Errno, Result};

use super::{Handles, Left, Method};
use crate::agent::Reach;
use crate::agent::dataset::{self, Dataset};
use crate::fsfreeze::freeze;
use crate::undo::{self, Undo};
use stillpoint_core::blocker::blocker;
use stillpoint_core::hold::{Act, Plan, Refused, WasSuspended};
use stillpoint_core::limits::MAX_GUARDED;
use stillpoint_core::wire;

/// Flushes while writes go on; again after the look, so that what a freeze would have to wait for is not older than an arming.
const PLAN: Plan = Plan::of(&[Act::Flush, Act::Look, Act::Record, Act::Flush, Act::Arm, Act::Suspend, Act::Look]);

/// Freezes the filesystem of the dataset, which must hold nothing else.
pub struct FilesystemFreeze;

impl Method for FilesystemFreeze {
    fn name(&self) -> &'static str {
        "FilesystemFreeze"
    }

    fn open(&self, order: &wire::Prepare) -> std::result::Result<Handles, Vec<wire::Blocker>> {
        let dataset = dataset::find(order).map_err(|why| vec![why])?;
        dataset::exclusive(&dataset)?;
        let handle = dataset.root.try_clone().map_err(|error| {
            vec![blocker(Reason::NotMounted, &format!("the agent cannot keep {:?} open: {error}", dataset.mount_path))]
        })?;
        Ok(Handles { dataset, handle })
    }

    fn plan(&self) -> Plan {
        PLAN
    }

    /// Freezes, thaws, and freezes again: the first one pays for the RCU grace periods of a cold freeze (the superblock's
    /// semaphores stay in their slow mode for a grace period, kernel/rcu/sync.c), so that the one that lasts is short. In one
    /// go, because with many members on a node the warmth does not last until an agent's next order.
    fn suspend(&self, handle: BorrowedFd<'_>, within: Duration) -> Result<Instant> {
        let asked = Instant::now();
        freeze(handle)?;
        match undo::for_certain(self.undo(), handle)? {
            WasSuspended::Yes => {}
            WasSuspended::No => return Err(Errno::INVAL),
        }
        let begun = Instant::now();
        // The first freeze was pending behind a writer: nobody waits for the second any more.
        if begun.duration_since(asked) >= within {
            return Err(Errno::TIME);
        }
        freeze(handle)?;
        Ok(begun)
    }

    fn refused(&self, act: Act, errno: Errno, dataset: &Dataset) -> Refused {
        match act {
            Act::Flush => Refused::new(flush_failed(errno), false),
            Act::Quiesce | Act::Look | Act::Record | Act::Arm | Act::Suspend => {
                freeze_refused(errno, &dataset.filesystem)
            }
        }
    }

    fn undo(&self) -> Undo {
        Undo::Thaw
    }

    fn may_be_left(&self, reach: Reach) -> Vec<Left> {
        let left = |dataset: Dataset| Left { what: dataset.mount_path.display().to_string(), handle: dataset.root };
        dataset::candidates(reach).into_iter().take(MAX_GUARDED).map(left).collect()
    }
}

fn flush_failed(errno: Errno) -> wire::Blocker {
    blocker(
        Reason::FlushFailed,
        &format!("writing dirty pages back (syncfs) failed: {errno}; check the volume's storage"),
    )
}

/// Why a freeze was refused, and whether asking again may help.
fn freeze_refused(errno: Errno, filesystem: &str) -> Refused {
    let (blocker, retryable) = match errno {
        Errno::BUSY => (
            blocker(
                Reason::AlreadyFrozen,
                "somebody else has frozen this filesystem (another backup or snapshot tool, or `fsfreeze`); it is left \
                 frozen, since only its owner knows when to thaw it",
            ),
            true,
        ),
        Errno::OPNOTSUPP | Errno::NOTTY => (
            blocker(
                Reason::CannotFreeze,
                &format!("a {filesystem} filesystem cannot be frozen; use ext4, xfs or btrfs for this volume"),
            ),
            false,
        ),
        Errno::PERM => (
            blocker(
                Reason::MissingCapability,
                "the agent's container may not freeze: give it the capability SYS_ADMIN, and no user namespace",
            ),
            false,
        ),
        Errno::TIME => (
            blocker(
                Reason::TooSlow,
                "a first, short freeze took so long that the one to hold was not begun; writes waited meanwhile, and go on now; \
                 check the volume's storage, and what writes so much",
            ),
            true,
        ),
        other => {
            (blocker(Reason::FreezeFailed, &format!("freezing the {filesystem} filesystem failed: {other}")), false)
        }
    };
    Refused::new(blocker, retryable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_named() {
        for (errno, reason, retryable) in [
            (Errno::BUSY, "AlreadyFrozen", true),
            (Errno::OPNOTSUPP, "CannotFreeze", false),
            (Errno::PERM, "MissingCapability", false),
            (Errno::TIME, "TooSlow", true),
            (Errno::IO, "FreezeFailed", false),
        ] {
            let refused = freeze_refused(errno, "ext4");
            assert_eq!((refused.blocker.reason.as_str(), refused.retryable), (reason, retryable));
        }
        assert_eq!(flush_failed(Errno::IO).reason, "FlushFailed");
    }
}
