//! Removing the replicas of void attempts: a list, then one request for each, again and again until nothing is left. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use kube::core::ApiResource;

use super::ask::Remove;
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
    },
    /// Wait for so long, then [`Removal::next_ask`].
    Pause(Duration),
}

/// A removal under way.
#[derive(Clone, Debug)]
pub struct Removal {
    /// What is to be removed: the first now, the others after it.
    removes: VecDeque<Remove>,
    /// Those of a later attempt are left alone.
    last_attempt: u32,
    state: State,
    /// Kinds and names of what was there.
    found: BTreeSet<(String, String)>,
    pauses: Pauses,
}

#[derive(Clone, Debug)]
enum State {
    /// The list of the first resource is next.
    Begin,
    /// These are to be deleted, the first one now.
    Delete(VecDeque<String>),
    /// Something failed: after a pause it begins again.
    Failed,
}

impl Removal {
    /// Removes these, and whatever else carries their labels and is of an attempt up to this one.
    pub fn new(removes: Vec<Remove>, last_attempt: u32) -> Self {
        Self {
            removes: removes.into(),
            last_attempt,
            state: State::Begin,
            found: BTreeSet::new(),
            pauses: Pauses::default(),
        }
    }

    /// What is to be done now; `None`: nothing is left.
    pub fn next_ask(&mut self) -> Option<Ask> {
        loop {
            let Remove { resource, selector, .. } = self.removes.front()?;
            let (resource, selector) = (resource.clone(), selector.clone());
            match &self.state {
                State::Begin => return Some(Ask::List { resource, selector }),
                State::Delete(names) => match names.front().cloned() {
                    Some(name) => return Some(Ask::Delete { resource, name }),
                    None => {
                        self.removes.pop_front();
                        self.state = State::Begin;
                    }
                },
                State::Failed => {
                    self.state = State::Begin;
                    return Some(Ask::Pause(self.pauses.take()));
                }
            }
        }
    }

    /// The replicas that carry the replication's label, with their attempts; `None` of what no attempt has made. An error says
    /// that nothing is known.
    pub fn listed(&mut self, listed: Result<Vec<(String, Option<u32>)>, ()>) {
        self.state = match listed {
            Ok(listed) => {
                let known = self.removes.front().map(|remove| remove.names.clone()).unwrap_or_default();
                let void = listed.into_iter().filter(|(_, of)| of.is_some_and(|of| of <= self.last_attempt));
                let all: BTreeSet<String> = known.into_iter().chain(void.map(|(name, _)| name)).collect();
                State::Delete(all.into_iter().collect())
            }
            Err(()) => State::Failed,
        };
    }

    /// How the deletion of the first one ended: whether it was there. An error says that nothing is known.
    pub fn deleted(&mut self, result: Result<bool, ()>) {
        let State::Delete(names) = &mut self.state else { return };
        match result {
            Ok(there) => {
                let kind = self.removes.front().map(|remove| remove.resource.kind.clone());
                self.found.extend(kind.zip(names.pop_front()).filter(|_| there));
            }
            Err(()) => self.state = State::Failed,
        }
    }

    /// How many were there.
    pub fn found(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::API_RETRY_MIN;

    fn resource(kind: &str) -> ApiResource {
        ApiResource {
            group: "test".into(),
            version: "v1".into(),
            api_version: "test/v1".into(),
            kind: kind.into(),
            plural: format!("{}s", kind.to_lowercase()),
        }
    }

    fn remove(kind: &str, names: &[&str]) -> Remove {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Remove { resource: resource(kind), names, selector: "uid=1".into() }
    }

    fn list(kind: &str) -> Option<Ask> {
        Some(Ask::List { resource: resource(kind), selector: "uid=1".into() })
    }

    fn delete(kind: &str, name: &str) -> Option<Ask> {
        Some(Ask::Delete { resource: resource(kind), name: name.into() })
    }

    #[test]
    fn replicas_of_a_later_attempt_are_left_alone() {
        let mut removal = Removal::new(vec![remove("Snapshot", &["named"]), remove("Copy", &[])], 2);
        assert_eq!(removal.next_ask(), list("Snapshot"));
        let of = |name: &str, attempt| (name.to_owned(), attempt);
        removal.listed(Ok(vec![
            of("first", Some(1)),
            of("second", Some(2)),
            of("third", Some(3)),
            of("foreign", None),
        ]));
        for name in ["first", "named", "second"] {
            assert_eq!(removal.next_ask(), delete("Snapshot", name));
            removal.deleted(Ok(name != "named"));
        }
        assert_eq!(removal.next_ask(), list("Copy"));
        removal.listed(Ok(vec![of("copy", Some(2))]));
        assert_eq!(removal.next_ask(), delete("Copy", "copy"));
        removal.deleted(Ok(true));
        assert_eq!((removal.next_ask(), removal.found()), (None, 3));
    }

    #[test]
    fn what_fails_is_tried_again_from_the_list_after_growing_pauses() {
        let mut removal = Removal::new(vec![remove("Snapshot", &[])], 1);
        removal.listed(Err(()));
        assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN)));
        assert_eq!(removal.next_ask(), list("Snapshot"));
        removal.listed(Ok(vec![("first".into(), Some(1)), ("second".into(), Some(1))]));
        removal.deleted(Ok(true));
        removal.deleted(Err(()));
        assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN * 2)));
        assert_eq!(removal.next_ask(), list("Snapshot"));
        removal.listed(Ok(vec![("second".into(), Some(1))]));
        removal.deleted(Ok(true));
        assert_eq!((removal.next_ask(), removal.found()), (None, 2));
    }
}
