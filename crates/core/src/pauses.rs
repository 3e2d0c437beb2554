//! Growing pauses between tries. Pure.

use std::time::Duration;

use crate::limits::{API_RETRY_MAX, API_RETRY_MIN};

/// The pauses between tries of one thing: the first one is the shortest, then always twice the one before, up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Default for Pauses {
    /// Those of a request to the API server that must succeed at last.
    fn default() -> Self {
        Self::between(API_RETRY_MIN, API_RETRY_MAX)
    }
}

impl Pauses {
    /// Pauses from the shortest to the longest.
    pub const fn between(min: Duration, max: Duration) -> Self {
        Self { next: min, min, max }
    }

    /// Those of a request to the API server, of which none is longer than this.
    pub const fn up_to(longest: Duration) -> Self {
        Self::between(API_RETRY_MIN, longest)
    }

    /// Whether there was none yet.
    pub fn is_first(&self) -> bool {
        self.next == self.min
    }

    /// The pause before the next try.
    pub fn take(&mut self) -> Duration {
        let longer = (self.next * 2).min(self.max);
        std::mem::replace(&mut self.next, longer)
    }
}
