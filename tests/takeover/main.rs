//! Two controllers as processes of their own against a real API server: what the second one makes of what the first one leaves,
//! when that is killed, and when it is stopped and goes on after it was replaced. `make control-plane` runs these tests.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]
#![allow(dead_code, reason = "what is shared with the control plane tests is not all used here")]

#[path = "../control_plane/agents.rs"]
mod agents;
#[path = "../control_plane/fixture.rs"]
mod fixture;
#[path = "../control_plane/objects.rs"]
mod objects;
mod processes;
mod proxy;
#[path = "../control_plane/snapshots.rs"]
mod snapshots;
#[path = "../control_plane/stages.rs"]
mod stages;

mod leaders;
mod lost_answers;
