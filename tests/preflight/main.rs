//! What an agent finds out before it suspends: whether it may freeze a dataset, and who holds locks on it. On real
//! filesystems, with real processes; needs root, loop devices, util-linux, e2fsprogs, xfsprogs and btrfs-progs.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod blindness;
mod exclusive;
mod locks;
mod node;

use support::kernel::{looking, roles, volume};

/// Not a test by itself: the tests start this binary again with `ROLE` set.
#[test]
fn role() {
    roles::play();
}
