//! How many reports a session may send: a token bucket.

use std::time::{Duration, Instant};

/// A token bucket. The clock is passed in.
#[derive(Debug)]
pub struct Allowance {
    left: u32,
    burst: u32,
    per_second: u32,
    /// Until when refilling is accounted for.
    filled: Instant,
}

impl Allowance {
    /// A full bucket of `burst` that refills with `per_second`, which must not be zero.
    pub fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { left: burst, burst, per_second, filled: now }
    }

    /// Takes one, if one is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / self.per_second;
        let refill = now.saturating_duration_since(self.filled).as_nanos() / interval.as_nanos();
        let refill = u32::try_from(refill).unwrap_or(u32::MAX);
        // Whole intervals only, so that no part of one is lost; a bucket that overflows needs no such care.
        self.filled = self.filled.checked_add(interval.saturating_mul(refill)).unwrap_or(now).min(now);
        self.left = self.left.saturating_add(refill).min(self.burst);
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_counts() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, 4, start);
        let taken = |allowance: &mut Allowance, at| (0..100).filter(|_| allowance.take(start + at)).count();
        assert_eq!(taken(&mut allowance, Duration::ZERO), 10);
        assert_eq!(taken(&mut allowance, Duration::from_millis(249)), 0);
        assert_eq!(taken(&mut allowance, Duration::from_millis(250)), 1);
        assert_eq!(taken(&mut allowance, Duration::from_millis(1_250)), 4);
        assert_eq!(taken(&mut allowance, Duration::from_secs(3_600)), 10);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_refills_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut allowance = Allowance::new(1, 4, start);
        assert!(allowance.take(start));
        assert!(!allowance.take(start));
        assert!(!allowance.take(start - Duration::from_secs(5)));
    }
}
