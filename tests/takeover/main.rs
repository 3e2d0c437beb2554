//! Two controllers as processes of their own against a real API server: what the second one makes of what the first one leaves,
//! when that is killed, and when it is stopped and goes on after it was replaced. `make control-plane` runs these tests.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

mod grants;
mod leaders;
mod lost_answers;
mod processes;
mod proxy;
mod spoiled;

use support::control_plane::{agents, fixture, objects, snapshots, stages};
