//! A look for locks, as an agent does it.

use std::path::Path;

use stillpoint::agent::dataset;
use stillpoint::agent::locks::look;
use stillpoint_core::locks::{Look, Suspension};
use stillpoint_core::wire::Blocker;

/// Looks for locks on the filesystem that is mounted here.
pub fn look_at(path: &Path, when: Suspension) -> Look {
    let dataset = dataset::open(path).expect("the volume is mounted");
    look(&dataset, &[], when)
}

/// The one blocker that a look has found.
pub fn only(look: Look) -> Blocker {
    assert_eq!((look.blockers.len(), look.more_blockers), (1, 0), "{look:?}");
    look.blockers.into_iter().next().unwrap()
}
