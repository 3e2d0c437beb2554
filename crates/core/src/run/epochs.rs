//! Which leader outranks which. Pure.

use k8s_openapi::jiff::Timestamp;

use crate::limits::{CLOCK_SKEW, FIRST_EPOCH};

/// The highest epoch that any leader can have: the first of a new Lease is the seconds since 2025, and a turn takes more than one.
/// A clock may be off. What is higher was written by no leader.
pub fn highest_possible(wall: Timestamp) -> u64 {
    u64::try_from(wall.as_second() - FIRST_EPOCH).unwrap_or_default() + CLOCK_SKEW.as_secs()
}

/// Whether an epoch is that of a newer leader than the one of `own`.
pub fn outranks(epoch: u64, own: u64, wall: Timestamp) -> bool {
    epoch > own && epoch <= highest_possible(wall)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_epoch_that_no_leader_can_have_outranks_nobody() {
        let wall = Timestamp::from_second(FIRST_EPOCH + 1_000).unwrap();
        let highest = highest_possible(wall);
        for (epoch, own, newer) in [
            (4, 5, false),
            (5, 5, false),
            (6, 5, true),
            (1_000, 5, true),
            (highest, 5, true),
            (highest + 1, 5, false),
            (9_000_000_000, 5, false),
            (u64::MAX, 5, false),
        ] {
            assert_eq!(outranks(epoch, own, wall), newer, "{epoch} over {own}");
        }
    }
}
