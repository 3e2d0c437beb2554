//! Going through all states, and what was found.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Bounds, Group, POSSIBLE, PROMISES, Promise};

/// What was found.
pub struct Findings {
    /// Different states, of which those that differ only in the members' order count once.
    pub states: usize,
    /// Steps from one state to another, or to one that was known.
    pub steps: usize,
    /// The longest way that was needed to come to a state.
    pub depth: usize,
    /// Different node sides.
    pub nodes: usize,
    /// Different leaders.
    pub leaders: usize,
    /// How long it took.
    pub took: Duration,
    /// Promises that are broken, and a way to where they are.
    pub broken: Vec<(Promise, Vec<String>)>,
    /// What should be possible, and whether it was seen.
    pub seen: Vec<(&'static str, bool)>,
}

impl Findings {
    /// Whether every promise holds in every state, and the model shows what it should.
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty() && self.seen.iter().all(|(_, seen)| *seen)
    }
}

/// Goes through all states within these bounds; stops early when a promise is broken.
///
/// # Panics
/// When the bounds do not fit into the model.
pub fn check(bounds: Bounds, threads: usize) -> Findings {
    check_until(bounds, threads, HasDiscoveries::AnyFailures)
}

/// The same until this was found.
///
/// # Panics
/// When the bounds do not fit into the model.
pub(super) fn check_until(bounds: Bounds, threads: usize, enough: HasDiscoveries) -> Findings {
    let begun = Instant::now();
    let checker = Group::new(bounds).checker().threads(threads).finish_when(enough);
    let checker = checker.spawn_bfs().join();
    let mut found = checker.discoveries();
    let group = checker.model();
    let (nodes, leaders) = group.parts();
    Findings {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        nodes,
        leaders,
        took: begun.elapsed(),
        seen: POSSIBLE.iter().map(|(name, _)| (*name, found.contains_key(name))).collect(),
        broken: PROMISES
            .iter()
            .filter_map(|promise| Some((*promise, group.tell_path(found.remove(promise.name)?))))
            .collect(),
    }
}
