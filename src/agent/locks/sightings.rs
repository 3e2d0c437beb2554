//! For how long each blocker has been seen.

use std::collections::HashMap;
use std::time::Instant;

use stillpoint_api::Reason;
use stillpoint_core::limits::{KEPT_LOCK, MAX_MESSAGE_CHARS};
use stillpoint_core::text::printable;
use stillpoint_core::wire::{Blocker, micros};

/// Remembers since when each blocker of the latest look has been seen, look after look without a gap. Holds no more than
/// that look listed.
#[derive(Debug, Default)]
pub struct Sightings {
    since: HashMap<Blocker, Instant>,
}

impl Sightings {
    /// Takes the blockers of a look that was made at `now`, and sets `seen_us` of each: 0 for a new one. Of a lock that stays,
    /// the message says that it may do so for good.
    ///
    /// A lock that was dropped and taken again between two looks counts as seen throughout.
    pub fn record(&mut self, blockers: &mut [Blocker], now: Instant) {
        let before = std::mem::take(&mut self.since);
        for blocker in blockers {
            let identity = identity(blocker);
            let since = before.get(&identity).copied().unwrap_or(now);
            self.since.insert(identity, since);
            let seen = now.saturating_duration_since(since);
            blocker.seen_us = micros(seen);
            if blocker.reason == Reason::LockHeld.as_str() && seen >= KEPT_LOCK {
                blocker.message = kept(&blocker.message);
            }
        }
    }
}

/// What makes a blocker the same one in the next look. Of a lock not the message, which also tells how many others its process
/// has.
fn identity(blocker: &Blocker) -> Blocker {
    let mut identity = Blocker { seen_us: 0, ..blocker.clone() };
    if identity.lock.is_some() {
        identity.message.clear();
    }
    identity
}

fn kept(message: &str) -> String {
    let hint = format!(
        "; every look has seen it for more than {KEPT_LOCK:?}: if the application keeps it as long as it runs, waiting is useless"
    );
    printable(message, MAX_MESSAGE_CHARS - hint.chars().count()) + &hint
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

    #[test]
    fn a_lock_that_stays_is_said_to_whatever_else_its_process_holds() {
        let held = |message: &str| {
            let lock = Some(stillpoint_core::wire::Lock::default());
            Blocker { reason: "LockHeld".into(), pid: 1, lock, message: message.into(), ..Blocker::default() }
        };
        let start = Instant::now();
        let mut sightings = Sightings::default();
        let mut message = |message: &str, after| {
            let mut blockers = [held(message)];
            sightings.record(&mut blockers, start + after);
            blockers[0].message.clone()
        };
        assert_eq!(message("a", Duration::ZERO), "a");
        assert_eq!(message("a", KEPT_LOCK - Duration::from_millis(1)), "a");
        let kept = message("a, and 1 more lock", KEPT_LOCK);
        assert!(kept.starts_with("a, and 1 more lock; every look has seen it for more than 5s: "), "{kept}");
        let long = message(&"x".repeat(MAX_MESSAGE_CHARS), KEPT_LOCK);
        assert!(long.chars().count() <= MAX_MESSAGE_CHARS && long.ends_with("waiting is useless"), "{long}");
    }
}
