//! What the tests share. Nothing in it is a test: a test names what it expects, and this makes the place for it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod control_plane;
pub mod generated;
pub mod kernel;
pub mod versions;
