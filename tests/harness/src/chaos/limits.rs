//! Every bound of the fault injection.

use std::time::Duration;

use stillpoint_core::limits::{GUARDIAN_GRACE, THAW_TIMEOUT};

/// `holdTimeout` of every run.
pub const HOLD: Duration = Duration::from_secs(3);
/// `prepareTimeout` of every run: long enough for an agent that was killed to be back.
pub const PREPARE: Duration = Duration::from_secs(15);
/// What a busy machine may add to a stall: the disk under the volume, and every process that has to get a turn.
pub const SCHEDULING: Duration = Duration::from_secs(1);
/// The longest that one append may take, whatever breaks: the hold, the guardian's later deadline behind the agent's, one thaw
/// that has to be repeated from outside, and [`SCHEDULING`].
pub const STALL: Duration = HOLD.saturating_add(GUARDIAN_GRACE).saturating_add(THAW_TIMEOUT).saturating_add(SCHEDULING);
/// How long a fault that can be undone lasts: longer than [`STALL`], so that writes must come back in spite of it.
pub const OUTAGE: Duration = STALL.saturating_add(Duration::from_millis(300));
/// How long a leader is stopped so that another one leads meanwhile: longer than its lease.
pub const DEPOSED: Duration = Duration::from_secs(21);
/// How long the storage takes to begin a cut, where the moment of the fault needs it.
pub const CUT_DELAY: &str = "1200ms";
/// Until a run has come to the moment of its fault.
pub const MOMENT: Duration = Duration::from_secs(30);
/// Until a run has ended, counted from the end of the fault.
pub const END: Duration = Duration::from_secs(60);
/// Until every dataset has taken a new write, counted from the end of the fault.
pub const WRITES: Duration = Duration::from_secs(30);
/// Until everything that was broken runs again.
pub const RECOVERY: Duration = Duration::from_secs(120);
/// Until the replicas of runs that are not done are gone. The snapshot sidecar may first have to look again (after 15 s).
pub const LEFTOVERS: Duration = Duration::from_secs(90);
/// Until a removed run is gone, with everything that belongs to it.
pub const REMOVAL: Duration = Duration::from_secs(60);
/// Until the guard has undone a fault; starting an API server takes it a few seconds.
pub const UNDO: Duration = Duration::from_secs(90);
/// How much later than planned the guard undoes a fault by itself.
pub const GUARD_PATIENCE: Duration = Duration::from_secs(20);
/// One question to a pod of the application, which answers at once unless it is stopped.
pub const QUESTION: Duration = Duration::from_secs(2);
/// Pause between two questions.
pub const PAUSE: Duration = Duration::from_millis(50);
/// Runs that are judged together.
pub const BATCH: usize = 10;
/// New records that prove that every dataset takes writes: one may have been half written when the counting began.
pub const FRESH_RECORDS: u64 = 3;
/// How often a fault is tried that comes too late for its run.
pub const ATTEMPTS: usize = 3;
/// Of so many faults one may not be made in three tries: on a busy machine a run can be quicker than the fault that is aimed at
/// it. That says nothing about Stillpoint; the report counts it.
pub const MISSED_ONE_IN: usize = 20;
