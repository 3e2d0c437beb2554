//! A model checker over the production state machines: it goes through every state that a group can come into, within bounds.
//!
//! **What is checked.** Of every state, and of every step into one, [`Promise`]s: those of the architecture, and that every run
//! ends.
//!
//! **Time.** Clocks stand still, except that a deadline that runs may come at any time; what comes with it is told the time
//! that it was due. No clock of one process is compared with another's, so every order of deadlines and events is covered,
//! also orders that no real clocks could give. A deadline that comes before everything under way has arrived counts as a
//! fault; when nothing is under way, time passes for nothing.
//!
//! **The network.** A session delivers in order, as TCP does; it can break at any time, which each side notices when it
//! likes, and until then reads what is under way. Commands of an old leader arrive after those of a new one, through another
//! session. As faults, a command may arrive twice or overtake another.
//!
//! **Faults** are counted, and a run has at most [`Bounds::faults`] of them: see [`Fault`]. Agents and guardians that died may
//! start again at any time or never; a lock that was taken may be dropped at any time or never.
//!
//! **Retry and deletion** are no faults: within [`Bounds::retry`] an attempt that has failed is followed by another one, and
//! within [`Bounds::deletion`] somebody deletes the object, at any step or never. A cool-down may be over at once.
//!
//! **Excluded.** Where an agent dies together with its freezer, and the guardian of its node dies too, all in one hold, nobody is
//! left on the node who could thaw: only a process there can. No protocol of such processes can do better than to write down
//! beforehand what is frozen, for the process that starts next; so much is checked, and that the run ends once an agent has
//! started again. It takes two faults. And where somebody else freezes a member just before we do, while our own freeze is being
//! given up: the kernel does not tell whose freeze a thaw has ended. Whoever stops at the first thaw that found something may leave
//! our freeze behind, whoever goes on ends somebody else's; so a foreign freeze comes with no other fault here. Nor does a takeover from a leader that believes
//! in itself: an agent that was restarted has forgotten the newer epoch and would obey it. In production a leader acts only
//! while nobody else can lead, which is left out here and covered by the simulation.
//!
//! **Left out.** What a guardian notes for its successor; more than two attempts; members that nobody mounts; pods that move. And
//! somebody who thaws *and* freezes again within one hold: the kernel does not tell that from a hold that
//! was not broken.

mod check;
mod leaders;
mod members;
mod pool;
mod promises;
mod state;
mod steps;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Arc;
use std::time::Duration;

pub use check::{Findings, check};
pub use promises::{POSSIBLE, PROMISES, Promise};
pub use state::{Broken, Life, State};
pub use steps::{Fault, Step};

use leaders::Leaders;
use members::Members;
use state::{MAX_LEADERS, MAX_MEMBERS};

/// How far to look.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Members, at most three.
    pub members: usize,
    /// Leaders, one after the other or at the same time; at most two.
    pub leaders: usize,
    /// Faults in one run.
    pub faults: u8,
    /// Whether a run that has failed is tried once more.
    pub retry: bool,
    /// Whether the object may be deleted, at any step.
    pub deletion: bool,
    /// A member's time to become ready. It bounds the rounds: the pauses between them must fit into it.
    pub prepare_timeout: Duration,
    /// The longest hold.
    pub hold_timeout: Duration,
    /// A guard of the protocol that is taken out.
    pub without: Option<Without>,
}

/// A guard of the protocol, taken out at its interface. The state machines stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Without {
    /// Agents are told `Armed` although no guardian has heard.
    AcknowledgedGuardian,
    /// Commands of an older leader look like the newest one's.
    EpochCheck,
    /// Every Released says unbroken.
    ReleaseVote,
    /// Only members that have answered are told to release.
    AskBeforeRelease,
}

/// The model.
pub struct Group {
    /// How far to look.
    pub bounds: Bounds,
    members: Arc<Members>,
    leaders: Leaders,
    /// States from which the run is known to end.
    ending: promises::Ending,
}

impl Group {
    /// A group within these bounds.
    ///
    /// # Panics
    /// When the bounds ask for more members or leaders than there is room for, or for none.
    pub fn new(bounds: Bounds) -> Self {
        assert!((1..=MAX_MEMBERS).contains(&bounds.members), "one to {MAX_MEMBERS} members");
        assert!((1..=MAX_LEADERS).contains(&bounds.leaders), "one to {MAX_LEADERS} leaders");
        let members = Arc::new(Members::new(bounds.without));
        let leaders = Leaders::new(&bounds, Arc::clone(&members));
        Self { bounds, members, leaders, ending: promises::Ending::default() }
    }

    /// How many different node sides and leaders were met.
    pub fn parts(&self) -> (usize, usize) {
        (self.members.len(), self.leaders.len())
    }
}
