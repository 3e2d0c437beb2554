//! The agents' sessions: who is connected, and how commands and reports travel.
//!
//! A connection comes in through `listener` (TCP, TLS, bounds) to `server` (gRPC, authentication, one conversation per
//! stream), which opens a session in `registry`: there runs and sessions meet, without IO. `refusal` holds every reason
//! to turn an agent away.

mod allowance;
mod listener;
mod refusal;
mod registry;
mod server;

pub use registry::{AgentEvent, Attachment, SendError, Session, SessionEnd, Sessions, TooManySessions};
pub use server::{Config, serve};

#[cfg(test)]
mod tests;
