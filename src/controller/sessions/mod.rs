//! The agents' sessions: who is connected, and how commands and reports travel.
//!
//! `registry` routes between runs and sessions and does no IO.

mod registry;

pub use registry::{AgentEvent, Attachment, SendError, Session, SessionEnd, Sessions, TooManySessions};
