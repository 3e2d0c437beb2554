//! Simulation of whole groups: the controller's production decisions and the production holds in one process, in virtual time,
//! with faults at every step. A seed says everything; the same seed is the same story.

mod api;
mod application;
mod breaks;
mod driving;
mod faults;
mod judge;
mod leaders;
mod nodes;
mod processes;
mod queue;
mod removals;
pub mod report;
mod sessions;
mod setting;
mod telling;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use stillpoint_api::{Mode, Phase};

pub use breaks::Break;
pub use faults::Fault;
pub use judge::Violation;

use faults::KINDS;
use world::World;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What was asked for.
    pub mode: Mode,
    /// The last phase; `None`: the object was deleted before there was one.
    pub phase: Option<Phase>,
    /// The reason of its condition `Ready`.
    pub reason: String,
}

impl Ending {
    fn gone(mode: Mode) -> Self {
        Self { mode, phase: None, reason: "Deleted".to_owned() }
    }
}

/// What happened in one seed.
#[derive(Clone, Debug)]
pub struct Story {
    /// Steps.
    pub steps: u64,
    /// How often each fault came, in the order of [`Fault::ALL`].
    pub faults: [u64; KINDS],
    /// How the run ended.
    pub ending: Ending,
    /// The longest suspension.
    pub longest: Duration,
    /// The hold limit.
    pub limit: Duration,
    /// Virtual time.
    pub lasted: Duration,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The last steps.
    pub trace: Vec<String>,
}

/// Tells the story of a seed, with the last `trace` steps. A panic is a violation.
pub fn tell(seed: u64, broken: Option<Break>, trace: usize) -> Story {
    let told = catch_unwind(AssertUnwindSafe(|| World::new(seed, broken, trace).run()));
    told.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let what = text.unwrap_or_else(|| "of a kind that says nothing".to_owned());
        Story {
            steps: 0,
            faults: [0; KINDS],
            ending: Ending::gone(Mode::Replicate),
            longest: Duration::ZERO,
            limit: Duration::MAX,
            lasted: Duration::ZERO,
            violation: Some(Violation { promise: "no panic", what, at: Duration::ZERO }),
            trace: Vec::new(),
        }
    })
}
