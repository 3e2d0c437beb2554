//! Removing replicas: a list, then one request for each, whatever became of the others; a few times, while waiting may help. What
//! is left then is told, each with the reason. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::ApiResource;

use super::ask::Remove;
use crate::limits::{MAKING_PATIENCE, REMOVAL_PATIENCE};
use crate::pauses::Pauses;

/// What a removal asks of the API server. One at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// List what carries the labels; [`Removal::listed`].
    List {
        /// The resource.
        resource: ApiResource,
        /// The label selector.
        selector: String,
    },
    /// Delete this one; [`Removal::deleted`].
    Delete {
        /// The resource.
        resource: ApiResource,
        /// Its name.
        name: String,
        /// Only if this is still its resource version.
        version: Option<String>,
    },
    /// Wait for so long, then [`Removal::next_ask`].
    Pause(Duration),
}

/// Which replicas are removed, of those that carry the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Those of a later attempt are left alone.
    pub last_attempt: u32,
    /// Only what still has the owner of this UID: who deletes the owner and orphans what it owns wants it kept.
    pub owned_by: Option<String>,
}

impl Scope {
    /// Everything that this attempt and those before it have made.
    pub fn up_to(last_attempt: u32) -> Self {
        Self { last_attempt, owned_by: None }
    }

    fn has(&self, found: &Found) -> bool {
        let owned = self.owned_by.as_ref().is_none_or(|owner| found.owners.contains(owner));
        owned && found.attempt.is_some_and(|attempt| attempt <= self.last_attempt)
    }
}

/// A replica as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// The attempt that made it; `None`: no attempt has.
    pub attempt: Option<u32>,
    /// UIDs of its owners.
    pub owners: Vec<String>,
    /// How far it is made.
    pub making: Making,
}

/// How far whoever makes a replica is with it, as far as its deletion depends on that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Making {
    /// Nobody had begun at this resource version: then it may be deleted.
    NotBegun(Option<String>),
    /// It is being made. Deleted now, it could go without what is behind it.
    UnderWay,
    /// It may be deleted at any time.
    Settled,
}

/// How one deletion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was not there.
    Absent,
    /// It is gone.
    Gone,
    /// It is marked as deleted, and still there: something has put a finalizer on it.
    Going,
}

/// Why a request had no effect, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What the API server said, or that it did not answer.
    pub why: String,
    /// It has refused: the same request is refused again until somebody changes something.
    pub refused: bool,
}

/// Something that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which object, and why it is still there, for people.
    pub what: String,
    /// The API server has refused to delete it.
    pub refused: bool,
}

/// How a removal ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many were there.
    pub found: usize,
    /// What is still there, by kind and name.
    pub left: Vec<Left>,
}

/// A removal under way.
#[derive(Clone, Debug)]
pub struct Removal {
    /// What is to be removed.
    removes: Vec<Remove>,
    scope: Scope,
    /// The one of `removes` that is at work.
    at: usize,
    state: State,
    /// Kinds and names of what was there.
    found: BTreeSet<(String, String)>,
    /// What this pass has left, by kind and name; without a name: it could not be listed.
    left: BTreeMap<(String, String), Left>,
    pauses: Pauses,
    paused: Duration,
}

#[derive(Clone, Debug)]
enum State {
    /// The list of the resource is next.
    Begin,
    /// These are to be deleted, the first one now: by name, with the resource version that it must have.
    Delete(BTreeMap<String, Option<String>>),
}

impl Removal {
    /// Removes these, and whatever else carries their labels and is in the scope.
    pub fn new(removes: Vec<Remove>, scope: Scope) -> Self {
        Self {
            removes,
            scope,
            at: 0,
            state: State::Begin,
            found: BTreeSet::new(),
            left: BTreeMap::new(),
            pauses: Pauses::default(),
            paused: Duration::ZERO,
        }
    }

    /// What is to be done now; `None`: it is over, and [`Removal::removed`] says how.
    pub fn next_ask(&mut self) -> Option<Ask> {
        loop {
            let Some(Remove { resource, selector, .. }) = self.removes.get(self.at) else { return self.again() };
            match &self.state {
                State::Begin => {
                    return Some(Ask::List { resource: resource.clone(), selector: selector.clone() });
                }
                State::Delete(targets) => match targets.first_key_value() {
                    Some((name, version)) => {
                        let (name, version) = (name.clone(), version.clone());
                        return Some(Ask::Delete { resource: resource.clone(), name, version });
                    }
                    None => self.next_resource(),
                },
            }
        }
    }

    /// After a pass that has left something which may go by itself: a pause, and another pass.
    fn again(&mut self) -> Option<Ask> {
        if self.left.values().all(|left| left.refused) {
            return None;
        }
        let pause = self.pauses.take();
        self.paused += pause;
        if self.paused > REMOVAL_PATIENCE {
            return None;
        }
        (self.at, self.state) = (0, State::Begin);
        self.left.clear();
        Some(Ask::Pause(pause))
    }

    fn next_resource(&mut self) {
        self.at += 1;
        self.state = State::Begin;
    }

    /// The replicas that carry the replication's label. An error says that nothing is known; what has a name known in advance
    /// is deleted nevertheless, when no list will tell how far it is made.
    ///
    /// What is being made is left for the next pass, until [`MAKING_PATIENCE`] is over.
    pub fn listed(&mut self, listed: Result<Vec<Found>, Trouble>) {
        let Some(Remove { resource, names, .. }) = self.removes.get(self.at) else { return };
        let patient = self.paused < MAKING_PATIENCE;
        let mut targets = BTreeMap::new();
        // A name alone does not say who owns it.
        let named = names.iter().filter(|_| self.scope.owned_by.is_none());
        let named = named.map(|name| (name.clone(), None));
        match listed {
            Ok(listed) => {
                targets.extend(named);
                for found in listed.into_iter().filter(|found| self.scope.has(found)) {
                    let version = match found.making {
                        Making::UnderWay if patient => {
                            targets.remove(&found.name);
                            let what = format!(
                                "{} {} is just being made, and is deleted after that",
                                resource.kind, found.name
                            );
                            self.left.insert((resource.kind.clone(), found.name), Left { what, refused: false });
                            continue;
                        }
                        Making::NotBegun(version) if patient => version,
                        Making::NotBegun(_) | Making::UnderWay | Making::Settled => None,
                    };
                    targets.insert(found.name, version);
                }
            }
            Err(Trouble { why, refused }) => {
                if refused || !patient {
                    targets.extend(named);
                }
                let what = format!("the {} could not be listed: {why}", resource.plural);
                self.left.insert((resource.kind.clone(), String::new()), Left { what, refused });
            }
        }
        self.state = State::Delete(targets);
    }

    /// How the deletion of the first one ended. An error says that nothing is known.
    pub fn deleted(&mut self, result: Result<Deleted, Trouble>) {
        let State::Delete(targets) = &mut self.state else { return };
        let kind = self.removes.get(self.at).map(|remove| remove.resource.kind.clone());
        let Some((kind, (name, _))) = kind.zip(targets.pop_first()) else { return };
        let key = (kind.clone(), name.clone());
        if matches!(result, Ok(Deleted::Gone | Deleted::Going)) {
            self.found.insert(key.clone());
        }
        let left = match result {
            Ok(Deleted::Absent | Deleted::Gone) => return,
            Ok(Deleted::Going) => {
                let what = format!("{kind} {name} is being deleted, and a finalizer of somebody keeps it");
                Left { what, refused: false }
            }
            Err(Trouble { why, refused }) => {
                Left { what: format!("{kind} {name} could not be deleted: {why}"), refused }
            }
        };
        self.left.insert(key, left);
    }

    /// How it ended.
    pub fn removed(&self) -> Removed {
        Removed { found: self.found.len(), left: self.left.values().cloned().collect() }
    }
}

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
