//! Every decision of Stillpoint, without IO and without a clock.
//!
//! What happened and the time go in, what is to be done comes out; the binary's `src/` carries it out. Cargo holds the line:
//! this crate has no dependency that could do IO, and its `clippy.toml` forbids the standard library's.
//!
//! [`run`] decides about one replication, [`replica`] how replicas are asked for and judged, [`hold`] about one member at its
//! agent and its guardian, [`wire`] is what the two say to each other, and [`limits`] bounds it all.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests begin at some moment"))]

pub mod blocker;
pub mod calls;
pub mod devices;
pub mod hold;
pub mod kernels;
pub mod limits;
pub mod locks;
pub mod pauses;
pub mod replica;
pub mod run;
pub mod text;
pub mod wire;
