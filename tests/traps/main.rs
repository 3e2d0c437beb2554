//! The traps of suspending writes on Linux, each with a test that Stillpoint survives it: the production code, most of it as
//! real processes, on real filesystems.
//!
//! |  # | file            | the trap |
//! |----|-----------------|----------|
//! |  1 | `deaths.rs`     | A freeze that waits for a stuck writer cannot be killed or thawed, and completes after its caller was killed |
//! |  2 | `deaths.rs`     | A frozen filesystem has no owner: whoever was to thaw it can be killed or stopped |
//! |  3 | `mounts.rs`     | A frozen filesystem can be unmounted, lazily too; mounted again, it is still frozen |
//! |  4 | `strangers.rs`  | Anybody may have frozen it first (`EBUSY`), and anybody may thaw it (`EINVAL` for us) |
//! |  5 | `looks.rs`      | A btrfs subvolume has a device of its own by stat(2), and inode numbers repeat across subvolumes |
//! |  6 | `looks.rs`      | From a sibling pid namespace, POSIX locks and flocks are absent, and an OFD lock has no holder |
//! |  7 | `looks.rs`      | OFD locks have no pid; a flock outlives its locker, and with a mapping even its descriptor |
//! |  8 | `looks.rs`      | Reading much of `/proc/PID` waits for a process that waits for the thaw |
//! |  9 | `looks.rs`      | Locks come and go while writes are suspended: half a record may show before the freeze only, or after it only |
//! | 10 | `cgroups.rs`    | A frozen cgroup stops whoever was to thaw, and is never `frozen` while a writer waits for the thaw |
//! | 11 | `exclusive.rs`  | The filesystem may be more than the volume: the node's root, a subPath, an overlay's upper layer, a loop image |
//! | 12 | `databases.rs`  | PostgreSQL keeps no lock in mid-transaction, and etcd keeps two kinds for life |
//! | 13 | `writers.rs`    | A clone or a btrfs snapshot is a write: it waits for the thaw |
//! | 14 | `looks.rs`      | Without SYS_PTRACE, other users' descriptors are hidden |
//! | 1, too | `waits.rs`   | What a freeze would wait for is seen before: a long call, a scrub, a balance |
//! | 15 | `writers.rs`    | A write that nobody waits for any more is carried out after the thaw |
//!
//! Needs root, loop devices, and Debian's packages that `tests/cluster/cluster build` installs. Before a pod of a test is
//! made, a process outside of it is told to thaw its filesystems (`support::kernel::volume`).

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cgroups;
mod databases;
mod deaths;
mod exclusive;
mod looks;
mod mounts;
mod scene;
mod strangers;
mod waits;
mod writers;

use support::kernel::{controller, looking, roles, slow, stuck, volume};

/// Not a test by itself: the tests start this binary again with `ROLE` set.
#[test]
fn role() {
    roles::play();
}
