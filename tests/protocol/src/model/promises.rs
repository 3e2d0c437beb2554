//! What must be true of every state.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use stateright::Property;
use stillpoint_api::Phase;

use super::Group;
use super::state::{Broken, Leads, Life, Replica, State};
use super::steps::Step;

/// A promise, and what is checked of it.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// Its name here.
    pub name: &'static str,
    /// What is checked, as a sentence.
    pub says: &'static str,
    condition: fn(&Group, &State) -> bool,
}

/// Everything that is checked of every state.
pub const PROMISES: [Promise; 11] = [
    Promise {
        name: "P1 ready before the cut",
        says: "when replicas are asked for, every agent has said Ready for this leader, attempt and round",
        condition: |_, state| state.broken != Some(Broken::CutBeforeReady),
    },
    Promise {
        name: "P2 everybody asked is resumed",
        says: "when every run is over and nothing is under way, nothing is frozen by us, without the help of a deadline",
        condition: |group, state| !group.is_quiet(state) || !group.all_over(state) || !group.any_frozen(state),
    },
    Promise {
        name: "P2 nothing is kept",
        says: "when a run has ended without a group, or is gone, and nothing is under way, there is no replica; nor is one of an \
               attempt that failed",
        condition: |group, state| {
            let void = group.is_void(state) || state.object == Life::Gone;
            let over = group.has_ended(state) && group.all_over(state) && group.is_led(state);
            let none = state.replicas.iter().all(|replica| *replica == Replica::Nothing);
            !over || !group.is_quiet(state) || ((!void || none) && !state.old.contains(&true))
        },
    },
    Promise {
        name: "P8 swept before it goes",
        says: "the finalizer comes off an object that is being deleted only after its replicas were removed",
        condition: |_, state| state.broken != Some(Broken::LeftBehind),
    },
    Promise {
        name: "P8 nobody is held when it is tried again",
        says: "when another attempt is declared, the one before holds nobody any more",
        condition: |_, state| state.broken != Some(Broken::RetriedInHold),
    },
    Promise {
        name: "P2 who was dismissed stays so",
        says: "an agent that has answered the newest leader's release of a run that is given up never freezes for it again",
        condition: |group, state| group.dismissed_stay(state),
    },
    Promise {
        name: "P3 a thaw is certain",
        says: "while a filesystem is frozen by us, an agent, a guardian or a freezer lives that will thaw without being asked; or, \
               after the two faults that are excluded, the agent that starts next will",
        condition: |group, state| group.every(state, |view| view.certain || group.is_left_to_the_next_agent(view)),
    },
    Promise {
        name: "P4 unbroken is true",
        says: "an agent says unbroken only of a freeze that stood from its Ready to the planned thaw",
        condition: |group, state| group.every(state, |view| view.node.witness().lied.is_none()),
    },
    Promise {
        name: "P4 Done is proven",
        says: "when Done is stored, every member has held from Ready to release, and all was cut while all held",
        condition: |_, state| state.broken != Some(Broken::DoneUnproven),
    },
    Promise {
        name: "P4 Done stays",
        says: "while Done is stored, every replica is there",
        condition: |group, state| {
            group.phase(state) != Some(Phase::Done)
                || state.object != Life::There
                || state.replicas[..group.bounds.members].iter().all(|replica| group.is_kept(*replica))
        },
    },
    Promise {
        name: "every run ends",
        says: "from every state, without another fault, restart or dropped lock, the run comes to its end and everybody to rest",
        condition: |group, state| group.ends(state),
    },
];

/// Something that a state of the group shows.
type Shows = fn(&Group, &State) -> bool;

/// What must be possible, or the model is empty.
pub const POSSIBLE: [(&str, Shows); 4] = [
    ("Done is reached", |group, state| group.phase(state) == Some(Phase::Done)),
    ("a run is given up", |group, state| group.is_void(state)),
    ("a second attempt is done", |group, state| {
        !group.bounds.retry || (state.attempt > 1 && group.phase(state) == Some(Phase::Done))
    }),
    ("a deleted object goes", |group, state| !group.bounds.deletion || state.object == Life::Gone),
];

/// All properties for the checker.
pub fn properties() -> Vec<Property<Group>> {
    let always = PROMISES.iter().map(|promise| Property::always(promise.name, promise.condition));
    always.chain(POSSIBLE.iter().map(|(name, condition)| Property::sometimes(name, *condition))).collect()
}

/// States from which the run is known to end.
pub struct Ending {
    shards: Vec<Mutex<HashSet<u64>>>,
    hasher: RandomState,
}

impl Default for Ending {
    fn default() -> Self {
        Self { shards: (0..64).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Ending {
    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        let index = usize::try_from(hash).unwrap_or_default() % self.shards.len();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More steps than any run takes to end without a fault; a chain that is longer goes round in circles.
const LONGEST_ENDING: usize = 2_000;

impl Group {
    fn every(&self, state: &State, check: impl Fn(&super::members::View) -> bool) -> bool {
        state.nodes[..self.bounds.members].iter().all(|node| check(&self.members.view(*node)))
    }

    fn any_frozen(&self, state: &State) -> bool {
        !self.every(state, |view| !view.frozen || self.is_left_to_the_next_agent(view))
    }

    /// Whether nobody who lives can thaw, after the two faults that are excluded.
    fn is_left_to_the_next_agent(&self, view: &super::members::View) -> bool {
        self.bounds.faults > 1 && view.on_record
    }

    /// Whether nothing is under way: only deadlines and faults can change anything.
    fn is_quiet(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        self.progress(state, &mut steps);
        steps.is_empty()
    }

    /// Whether no leader works on the run.
    fn all_over(&self, state: &State) -> bool {
        (0..self.bounds.leaders).all(|leader| self.running(state, leader).is_none())
    }

    fn dismissed_stay(&self, state: &State) -> bool {
        // To an older one an agent only says that it holds nothing for it.
        let newest = state.leaders.iter().rev().find(|leads| **leads != Leads::Later);
        let newest =
            newest.and_then(|leads| if let Leads::Run(run) = leads { Some(self.leaders.view(*run)) } else { None });
        newest.is_none_or(|newest| {
            !newest.abandons
                || newest
                    .released
                    .iter()
                    .zip(state.nodes)
                    .all(|(released, node)| !released || !self.members.view(node).suspends)
        })
    }

    /// Follows one schedule without faults from here to the end: whatever is under way arrives; when nothing is, the leaders'
    /// deadlines come, then the agents', then the guardians'. That there is one such schedule from *every* state means that
    /// every schedule ends that does not put off for ever what is possible again and again.
    fn ends(&self, state: &State) -> bool {
        let mut state = *state;
        let mut way = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..LONGEST_ENDING {
            if state.broken.is_some() || self.is_over(&state) {
                break;
            }
            let hash = self.ending.hasher.hash_one(State { faults: 0, ..state });
            if self.ending.shard(hash).contains(&hash) {
                break;
            }
            way.push(hash);
            steps.clear();
            self.progress(&state, &mut steps);
            if steps.is_empty() {
                self.deadlines(&state, &mut steps);
                // A deadline that only leads to another look comes late, so that time passes.
                steps.sort_by_key(|step| match step {
                    Step::LeaderWakes(_) | Step::Retry(_) | Step::Goodbye(_) => 0,
                    Step::Deadline(_, crate::node::Timer::Agent, late) => {
                        if *late {
                            1
                        } else {
                            2
                        }
                    }
                    _ => 3,
                });
            }
            if steps.is_empty() {
                self.restarts_on_record(&state, &mut steps);
            }
            let Some(step) = steps.first() else { return false };
            self.apply(&mut state, *step);
            state = self.representative(&state).0;
        }
        if way.len() >= LONGEST_ENDING {
            return false;
        }
        for hash in way {
            self.ending.shard(hash).insert(hash);
        }
        true
    }

    /// Whether everything is over: no leader works, its last status is stored, nothing is frozen by us, and every node is at
    /// rest.
    fn is_over(&self, state: &State) -> bool {
        let over = self.has_ended(state) && state.object != Life::Deleting;
        let stored = over || state.object == Life::Gone || !self.is_led(state);
        stored && self.all_over(state) && self.is_quiet(state) && self.every(state, |view| view.at_rest && !view.frozen)
    }
}
