//! The pauses between tries of a request to the API server that must succeed at last. Pure.

use std::time::Duration;

use crate::limits::{API_RETRY_MAX, API_RETRY_MIN};

/// The pauses of one request: [`API_RETRY_MIN`] before the second try, then always twice the one before, up to
/// [`API_RETRY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(API_RETRY_MIN)
    }
}

impl Pauses {
    /// Whether there was none yet.
    pub fn is_first(&self) -> bool {
        self.0 == API_RETRY_MIN
    }

    /// The pause before the next try.
    pub fn take(&mut self) -> Duration {
        let longer = (self.0 * 2).min(API_RETRY_MAX);
        std::mem::replace(&mut self.0, longer)
    }
}
