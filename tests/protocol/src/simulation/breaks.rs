//! Guards that can be taken away, each at its interface, to see that the judge notices.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use stillpoint_api::{Phase, Retry};
use stillpoint_core::run::effect::Input;

use super::faults::Fault;
use crate::cluster::Object;

/// A guard that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Break {
    /// The guardian's acknowledgement comes without the promise behind it.
    Guardian,
    /// Neither agents nor guardians notice that a deadline has come.
    Deadline,
    /// Commands of an older leader carry the newest epoch.
    Epoch,
    /// A member that is not ready is reported as ready.
    Ready,
    /// A broken hold is reported as unbroken.
    Vote,
    /// Release goes only to members that have answered the command before.
    Release,
    /// The pods are not listed anew before a cut of an unmounted member counts.
    Recheck,
    /// A deletion of replicas is said to be complete and deletes nothing.
    Cleanup,
    /// The status of an earlier leader is said to be taken over, and is not.
    Claim,
    /// Who reads a status after a conflict finds its own epoch in it.
    Conflict,
    /// A leader is always sure that it still leads.
    Tenure,
    /// Replicas that turn up too late are not swept.
    Sweep,
    /// A cool-down is not waited for, and who reads a status finds in it that it is over.
    CoolDown,
    /// Who reads a spec finds one attempt more in it.
    Limit,
    /// Who reads the status of an attempt that is under way finds one that waits.
    UnderWay,
    /// Who reads the status of a run that waits for its next attempt finds the last one under way.
    Waiting,
}

impl Break {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Guardian,
        Self::Deadline,
        Self::Epoch,
        Self::Ready,
        Self::Vote,
        Self::Release,
        Self::Recheck,
        Self::Cleanup,
        Self::Claim,
        Self::Conflict,
        Self::Tenure,
        Self::Sweep,
        Self::CoolDown,
        Self::Limit,
        Self::UnderWay,
        Self::Waiting,
    ];

    /// The faults that a guard is there for, where they are rare together.
    pub(super) fn faults(self) -> &'static [Fault] {
        match self {
            Self::Epoch => &[Fault::SessionStalls, Fault::ControllerKilled],
            Self::Recheck => &[Fault::ClaimMounted, Fault::WatchLags],
            Self::Claim => &[Fault::ApiSlow, Fault::ControllerKilled],
            Self::Conflict => &[Fault::ApiSlow, Fault::ControllerPaused],
            Self::Tenure => &[Fault::ControllerPaused, Fault::LockTaken],
            Self::Sweep => &[Fault::ApiSlow, Fault::ControllerKilled],
            Self::UnderWay => &[Fault::ControllerKilled],
            Self::CoolDown | Self::Limit | Self::Waiting => &[Fault::AgentKilled, Fault::SessionCut],
            Self::Guardian | Self::Deadline | Self::Ready | Self::Vote | Self::Release | Self::Cleanup => &[],
        }
    }

    /// What a driver of this leader is told without the guard. `attempts`: an attempt is under way in it.
    pub(super) fn spoil(self, input: &mut Input, attempts: bool, epoch: u64) {
        match (self, input) {
            (Self::Conflict, Input::Object(Ok(Some(object)))) if attempts => {
                if let Some(status) = &mut object.status {
                    status.leader_epoch = epoch;
                }
            }
            (_, Input::Object(Ok(Some(object))) | Input::Stored(Ok(object))) if !attempts => {
                self.misread(object, epoch)
            }
            _ => {}
        }
    }

    /// The object as a driver takes it up that has taken it over.
    fn misread(self, object: &mut Object, epoch: u64) {
        let Some(status) = object.status.as_mut().filter(|status| status.leader_epoch == epoch) else { return };
        match self {
            Self::CoolDown => {
                status.next_attempt_at = status.next_attempt_at.as_ref().map(|_| MicroTime(Timestamp::UNIX_EPOCH));
            }
            Self::Limit => object.spec.retry = object.spec.retry.map(|retry| Retry { limit: retry.limit + 1, ..retry }),
            Self::UnderWay if matches!(status.phase, Some(Phase::Checking | Phase::Ready | Phase::Replicating)) => {
                status.phase = Some(Phase::Pending);
            }
            Self::Waiting if status.phase == Some(Phase::Pending) && status.next_attempt_at.is_some() => {
                status.phase = Some(Phase::Checking);
            }
            _ => {}
        }
    }
}
