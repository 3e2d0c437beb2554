//! Guards that can be taken away, each at its interface, to see that the judge notices.

use super::faults::Fault;

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
}

impl Break {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Guardian,
        Self::Deadline,
        Self::Epoch,
        Self::Ready,
        Self::Vote,
        Self::Release,
        Self::Recheck,
        Self::Cleanup,
    ];

    /// The faults that a guard is there for, where they are rare together.
    pub(super) fn faults(self) -> &'static [Fault] {
        match self {
            Self::Epoch => &[Fault::SessionStalls, Fault::ControllerKilled],
            Self::Recheck => &[Fault::ClaimMounted, Fault::WatchLags],
            Self::Guardian | Self::Deadline | Self::Ready | Self::Vote | Self::Release | Self::Cleanup => &[],
        }
    }
}
