//! For tests on this machine's kernel: filesystems on loop images, processes, and the other end of an agent's session.
//!
//! Needs root, loop devices, util-linux, e2fsprogs, xfsprogs and btrfs-progs.

pub mod burdens;
pub mod controller;
pub mod looking;
pub mod roles;
pub mod slow;
pub mod stuck;
pub mod volume;
