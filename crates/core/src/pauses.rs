//! The pauses between tries of a request to the API server that must succeed at last. Pure.

use std::time::Duration;

use crate::limits::{API_RETRY_MAX, API_RETRY_MIN};

/// The pauses of one request: [`API_RETRY_MIN`] before the second try, then always twice the one before, up to
/// [`API_RETRY_MAX`], or another longest one.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self::up_to(API_RETRY_MAX)
    }
}

impl Pauses {
    /// Pauses of which none is longer than this.
    pub fn up_to(longest: Duration) -> Self {
        Self { next: API_RETRY_MIN, longest }
    }

    /// Whether there was none yet.
    pub fn is_first(&self) -> bool {
        self.next == API_RETRY_MIN
    }

    /// The pause before the next try.
    pub fn take(&mut self) -> Duration {
        let longer = (self.next * 2).min(self.longest);
        std::mem::replace(&mut self.next, longer)
    }
}
