//! Methods: ways to suspend writes. One file each, and one line in [`METHODS`].
//!
//! What a method does on the dataset runs in the [freezer](super::freezer), which may hang; what undoes it is an
//! [`Undo`], which the guardian and the agents to come can do without the method.

mod filesystem_freeze;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::syncfs;
use rustix::io::{Errno, Result};

use super::Reach;
use super::dataset::Dataset;
use crate::undo::Undo;
use stillpoint_core::hold::{Act, Plan, Refused};
use stillpoint_core::wire;

/// One way to suspend writes.
pub trait Method: Sync {
    /// Its name in the API and in orders.
    fn name(&self) -> &'static str;

    /// Checks that the member can be suspended so, and opens all that suspending and its undo need. Writes go on. May block.
    ///
    /// # Errors
    /// All that stands in the way.
    fn open(&self, order: &wire::Prepare) -> std::result::Result<Handles, Vec<wire::Blocker>>;

    /// Its acts, in their order.
    fn plan(&self) -> Plan;

    /// Writes dirty pages of the dataset back. Runs in the freezer.
    ///
    /// # Errors
    /// The kernel's.
    fn flush(&self, root: BorrowedFd<'_>) -> Result<()> {
        syncfs(root)
    }

    /// Suspends writes, and says when the suspension that lasts began. Runs in the freezer.
    ///
    /// # Errors
    /// `ETIME`: it could not begin `within` this time. The kernel's: nothing of ours is suspended, and what somebody else suspended stays so.
    fn suspend(&self, handle: BorrowedFd<'_>, within: Duration) -> Result<Instant>;

    /// Says what it means that an act failed so.
    fn refused(&self, act: Act, errno: Errno, dataset: &Dataset) -> Refused;

    /// What resumes writes, given the handle.
    fn undo(&self) -> Undo;

    /// What agents of this reach that were here before may have left suspended by this method, as far as can be seen: a guardian is
    /// shown it, which knows what is owed.
    fn may_be_left(&self, reach: Reach) -> Vec<Left>;
}

/// What a method needs, from Prepare to the end.
pub struct Handles {
    /// The dataset, pinned.
    pub dataset: Dataset,
    /// What is given to [`Method::suspend`] and to its [`Undo`].
    pub handle: OwnedFd,
}

/// What may have been left suspended.
pub struct Left {
    /// For people.
    pub what: String,
    /// Of the undo.
    pub handle: OwnedFd,
}

/// The methods of this agent. The first is meant where none is named.
pub static METHODS: &[&dyn Method] = &[&filesystem_freeze::FilesystemFreeze];

/// The method of this name; of none, the first.
pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().find(|method| name.is_empty() || method.name() == name).copied()
}
