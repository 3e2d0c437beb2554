//! Every reason for which the server turns an agent away, and the one place that makes gRPC statuses of them.

use tonic::Status;

use super::{SessionEnd, TooManySessions};
use crate::controller::identity::Unidentified;
use stillpoint_core::limits::{HELLO_TIMEOUT, REPORTS_PER_SECOND};

/// Why a session was not opened, or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request carries no bearer token.
    #[error("the request has no token: send it as `authorization: Bearer TOKEN`")]
    NoToken,
    /// The token does not identify an agent.
    #[error(transparent)]
    Unidentified(#[from] Unidentified),
    /// The API server gave no answer about the token.
    #[error("the API server could not be asked about the token ({0}): try again")]
    NotReviewed(String),
    /// There is no room.
    #[error(transparent)]
    TooManySessions(#[from] TooManySessions),
    /// The first message did not come.
    #[error("no Hello within {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// The first message was not Hello, or a later one was.
    #[error("Hello must be the first message of a session, and come once")]
    NotGreeted,
    /// Too many reports.
    #[error("the agent sends more than {REPORTS_PER_SECOND} reports per second")]
    Flood,
    /// The registry ended the session.
    #[error("{}", end_sentence(*.0))]
    Ended(SessionEnd),
}

fn end_sentence(end: SessionEnd) -> &'static str {
    match end {
        SessionEnd::Replaced => "the same pod opened another session",
        SessionEnd::QueueFull => "the agent does not take its commands",
        SessionEnd::Shutdown => "this controller is stopping: try again",
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let sentence = refusal.to_string();
        match refusal {
            Refusal::NoToken | Refusal::Unidentified(Unidentified::NotAuthenticated(_)) => {
                Self::unauthenticated(sentence)
            }
            Refusal::Unidentified(_) => Self::permission_denied(sentence),
            Refusal::NotReviewed(_) | Refusal::Ended(SessionEnd::Shutdown) => Self::unavailable(sentence),
            Refusal::TooManySessions(_) | Refusal::Flood | Refusal::Ended(SessionEnd::QueueFull) => {
                Self::resource_exhausted(sentence)
            }
            Refusal::Silent => Self::deadline_exceeded(sentence),
            Refusal::NotGreeted => Self::failed_precondition(sentence),
            Refusal::Ended(SessionEnd::Replaced) => Self::aborted(sentence),
        }
    }
}
