//! For how long each blocker has been seen.

use std::collections::HashMap;
use std::time::Instant;

use stillpoint_core::wire::Blocker;

/// Remembers since when each blocker of the latest look has been seen, look after look without a gap. Holds no more than
/// that look listed.
#[derive(Debug, Default)]
pub struct Sightings {
    since: HashMap<Blocker, Instant>,
}

impl Sightings {
    /// Takes the blockers of a look that was made at `now`, and sets `seen_us` of each: 0 for a new one.
    ///
    /// A lock that was dropped and taken again between two looks counts as seen throughout.
    pub fn record(&mut self, blockers: &mut [Blocker], now: Instant) {
        let before = std::mem::take(&mut self.since);
        for blocker in blockers {
            blocker.seen_us = 0;
            let since = before.get(blocker).copied().unwrap_or(now);
            self.since.insert(blocker.clone(), since);
            let seen = now.saturating_duration_since(since).as_micros();
            blocker.seen_us = u64::try_from(seen).unwrap_or(u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counts_from_the_first_look_and_forgets_at_the_first_gap() {
        let held = |pid| Blocker { reason: "LockHeld".into(), pid, ..Blocker::default() };
        let start = Instant::now();
        let mut sightings = Sightings::default();
        let mut seen = |pids: &[i32], after_ms| {
            let mut blockers: Vec<Blocker> = pids.iter().map(|&pid| held(pid)).collect();
            sightings.record(&mut blockers, start + Duration::from_millis(after_ms));
            blockers.iter().map(|blocker| blocker.seen_us).collect::<Vec<_>>()
        };
        assert_eq!(seen(&[1, 2], 0), [0, 0]);
        assert_eq!(seen(&[1], 50), [50_000]);
        assert_eq!(seen(&[1, 2], 70), [70_000, 0]);
        assert!(seen(&[], 80).is_empty());
        assert_eq!(seen(&[1], 90), [0]);
    }
}
