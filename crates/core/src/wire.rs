//! What controller and agents say to each other: messages generated from `proto/agent.proto`.

#![allow(missing_docs, reason = "documented in proto/agent.proto")]

include!(concat!(env!("OUT_DIR"), "/stillpoint.agent.v1alpha1.rs"));

/// A time as messages have it: in whole microseconds, at most [`u64::MAX`] of them.
pub fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
