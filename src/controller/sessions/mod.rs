//! The agents' sessions: who is connected, and how commands and reports travel.

mod registry;

pub use registry::{AgentEvent, Attachment, SendError, Session, SessionEnd, Sessions, TooManySessions};
