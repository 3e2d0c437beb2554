//! The acts by which a method suspends writes, in the order that it gives them.

use std::time::Duration;

use crate::limits::{
    FREEZE_TIMEOUT, GUARDIAN_TIMEOUT, LOOK_TIMEOUT, QUIESCE_TIMEOUT, RECORD_TIMEOUT, SHORT_FLUSH_PART,
};

/// One act on the way to a hold. Before [`Act::Suspend`] writes go on, after it they are suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Bring the application to a point that it can be restored from. No method's: the machine puts it first.
    Quiesce,
    /// Write dirty pages back.
    Flush,
    /// Look for locks. What is not clean ends the round.
    Look,
    /// Write down what is about to be suspended.
    Record,
    /// Have the guardian promise to resume writes.
    Arm,
    /// Suspend writes.
    Suspend,
}

impl Act {
    /// How long it may take while writes go on, beside a hold of this length. Acts that suspend count against a hold, and never
    /// take longer than one; other members may hold already while this one flushes.
    pub(super) fn limit(self, hold: Duration) -> Duration {
        match self {
            Self::Quiesce => QUIESCE_TIMEOUT,
            Self::Flush => hold / SHORT_FLUSH_PART,
            Self::Look => LOOK_TIMEOUT,
            Self::Record => RECORD_TIMEOUT,
            Self::Arm => GUARDIAN_TIMEOUT,
            Self::Suspend => FREEZE_TIMEOUT.min(hold),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Quiesce => "quiescing the application",
            Self::Flush => "writing dirty pages back",
            Self::Look => "the look for locks",
            Self::Record => "recording what is to be suspended",
            Self::Arm => "arming the guardian",
            Self::Suspend => "suspending writes",
        }
    }
}

/// What a method does, act by act. The machine walks it, and keeps its promises whatever the method is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan(&'static [Act]);

impl Plan {
    /// Takes a plan that keeps the promises of a hold; in a constant, the compiler refuses any other.
    ///
    /// # Panics
    /// If it does not suspend exactly once, if it suspends without a record and an arming before, if it does not look both
    /// before and after it suspends, if it does anything but flush and look while writes are suspended, or if it quiesces.
    pub const fn of(acts: &'static [Act]) -> Self {
        let (mut recorded, mut armed, mut looked, mut suspended) = (false, false, false, false);
        let mut at = 0;
        while at < acts.len() {
            match acts[at] {
                Act::Quiesce => panic!("quiescing is not the method's"),
                Act::Flush => {}
                Act::Look => looked = true,
                Act::Record => recorded = true,
                Act::Arm => armed = true,
                Act::Suspend => {
                    assert!(recorded && armed, "what is not recorded and guarded must not be suspended");
                    assert!(looked, "a look comes before the suspension");
                    assert!(!suspended, "a plan suspends once");
                    suspended = true;
                    looked = false;
                }
            }
            let quick = matches!(acts[at], Act::Flush | Act::Look | Act::Suspend);
            assert!(!suspended || quick, "while writes are suspended, a plan only flushes and looks");
            at += 1;
        }
        assert!(suspended && looked, "a plan suspends, and looks after that");
        Self(acts)
    }

    /// The act at this place; `None` behind the last.
    pub(super) fn act(self, at: usize) -> Option<Act> {
        self.0.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_would_break_a_promise_is_none() {
        use Act::{Arm, Flush, Look, Quiesce, Record, Suspend};
        let plans: [(&'static [Act], bool); 10] = [
            (&[Flush, Look, Record, Arm, Suspend, Look], true),
            (&[Look, Record, Arm, Suspend, Flush, Look], true),
            (&[], false),
            (&[Look, Record, Quiesce, Arm, Suspend, Look], false),
            (&[Look, Record, Suspend, Look], false),
            (&[Look, Arm, Suspend, Look], false),
            (&[Record, Arm, Suspend, Look], false),
            (&[Look, Record, Arm, Suspend], false),
            (&[Look, Record, Arm, Suspend, Arm, Suspend, Look], false),
            (&[Look, Record, Arm, Suspend, Record, Look], false),
        ];
        for (acts, right) in plans {
            assert_eq!(std::panic::catch_unwind(|| Plan::of(acts)).is_ok(), right, "{acts:?}");
        }
    }
}
