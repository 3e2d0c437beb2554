//! What a fault came to.

use std::fmt;
use std::time::Duration;

use stillpoint_api::{Consistency, MemberState, Phase, ReplicationStatus};

use super::limits::STALL;
use super::plan::Case;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wrong {
    /// A cut of a run that is `Done` shows a state that never was, or a run says `Done` and cannot show its cut.
    Torn,
    /// A dataset did not take writes again.
    Suspended,
    /// An append took longer than [`STALL`].
    TooLong,
    /// A snapshot or its content was left behind by a run that is not `Done`, or by one that was removed.
    Left,
    /// A run did not end, or did not go away.
    Stuck,
}

/// Everything that must never happen.
pub const WRONGS: [Wrong; 5] = [Wrong::Torn, Wrong::Suspended, Wrong::TooLong, Wrong::Left, Wrong::Stuck];

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Torn => "torn",
            Self::Suspended => "suspended",
            Self::TooLong => "too long",
            Self::Left => "left behind",
            Self::Stuck => "stuck",
        })
    }
}

/// What one fault came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its number in the plan, from 1.
    pub number: usize,
    /// The fault.
    pub case: Case,
    /// The claim of the member that it hit, if it hits one.
    pub member: Option<String>,
    /// Name of the run.
    pub run: String,
    /// The phase that was last seen before the fault.
    pub before: Option<Phase>,
    /// The status in which the run ended, if it did.
    pub status: Option<ReplicationStatus>,
    /// The longest append of each member that could be asked.
    pub stalls: Vec<Duration>,
    /// How long it took until every dataset had taken new writes, counted from the end of the fault.
    pub writes_after: Option<Duration>,
    /// How long all of it took.
    pub took: Duration,
    /// What must never happen, and did, with a sentence about it.
    pub wrongs: Vec<(Wrong, String)>,
}

impl Outcome {
    /// The phase in which the run ended.
    pub fn phase(&self) -> Option<Phase> {
        self.status.as_ref()?.phase
    }

    /// The reason of its condition `Ready`.
    pub fn reason(&self) -> &str {
        let conditions = self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().find(|condition| condition.type_ == "Ready").map_or("", |condition| &condition.reason)
    }

    /// The longest append of all members.
    pub fn longest(&self) -> Option<Duration> {
        self.stalls.iter().max().copied()
    }

    /// Notes what the status and the stalls say against the promises.
    pub fn judge(&mut self) {
        if let Some(longest) = self.longest().filter(|longest| *longest > STALL) {
            self.wrongs.push((Wrong::TooLong, format!("an append took {longest:?}, the bound is {STALL:?}")));
        }
        if let Some(status) = &self.status {
            let lies = lies(status);
            self.wrongs.extend(lies.into_iter().map(|lie| (Wrong::Torn, lie)));
        }
    }
}

/// What a final status says that cannot be true together.
fn lies(status: &ReplicationStatus) -> Vec<String> {
    let done = status.phase == Some(Phase::Done);
    let mut lies = Vec::new();
    if status.ready_to_use != done {
        lies.push(format!("the run is {:?} and readyToUse is {}", status.phase, status.ready_to_use));
    }
    if status.consistency != done.then_some(Consistency::Crash) {
        lies.push(format!("the run is {:?} and its consistency is {:?}", status.phase, status.consistency));
    }
    let broken = status.members.iter().filter(|member| done && member.state != MemberState::Released);
    lies.extend(broken.map(|member| {
        format!("the run is Done and member {} is {:?}", member.persistent_volume_claim.name, member.state)
    }));
    lies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::kind::{Kind, Moment, Victim};

    fn outcome(status: ReplicationStatus, stall: Duration) -> Outcome {
        let case = Case { kind: Kind::Kill(Victim::Agent), moment: Moment::Held, seed: 1 };
        let mut outcome = Outcome {
            number: 1,
            case,
            member: None,
            run: String::new(),
            before: None,
            status: Some(status),
            stalls: vec![Duration::ZERO, stall],
            writes_after: None,
            took: Duration::ZERO,
            wrongs: Vec::new(),
        };
        outcome.judge();
        outcome
    }

    #[test]
    fn a_true_status_and_a_short_stall_are_right() {
        let done = ReplicationStatus {
            phase: Some(Phase::Done),
            ready_to_use: true,
            consistency: Some(Consistency::Crash),
            ..Default::default()
        };
        assert!(outcome(done.clone(), STALL).wrongs.is_empty());
        assert!(
            outcome(ReplicationStatus { phase: Some(Phase::Failed), ..Default::default() }, STALL).wrongs.is_empty()
        );
        let lie = ReplicationStatus { phase: Some(Phase::Failed), ..done };
        assert_eq!(outcome(lie, STALL).wrongs.len(), 2);
    }

    #[test]
    fn a_long_stall_is_wrong() {
        let long = outcome(ReplicationStatus::default(), STALL + Duration::from_millis(1));
        assert_eq!(long.wrongs[0].0, Wrong::TooLong);
    }
}
