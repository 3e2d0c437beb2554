//! Removing the replicas of void attempts: a list, then one request for each, again and again until nothing is left. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::limits::{API_RETRY_MAX, API_RETRY_MIN};

/// What a removal asks of the API server. One at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// List the replicas of the replication; [`Removal::listed`].
    List,
    /// Delete this one; [`Removal::deleted`].
    Delete(String),
    /// Wait for so long, then [`Removal::next`].
    Pause(Duration),
}

/// A removal under way.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Names known in advance.
    names: Vec<String>,
    /// Those of a later attempt are left alone.
    last_attempt: u32,
    state: State,
    found: BTreeSet<String>,
    pause: Duration,
}

#[derive(Clone, Debug)]
enum State {
    /// The list is next.
    Begin,
    /// These are to be deleted, the first one now.
    Delete(VecDeque<String>),
    /// Something failed: after a pause it begins again.
    Failed,
}

impl Removal {
    /// Removes these names, and whatever else is of the replication and of an attempt up to this one.
    pub fn new(names: Vec<String>, last_attempt: u32) -> Self {
        Self { names, last_attempt, state: State::Begin, found: BTreeSet::new(), pause: API_RETRY_MIN }
    }

    /// What is to be done now; `None`: nothing is left.
    pub fn next(&mut self) -> Option<Ask> {
        match &self.state {
            State::Begin => Some(Ask::List),
            State::Delete(names) => names.front().cloned().map(Ask::Delete),
            State::Failed => {
                let pause = self.pause;
                self.pause = (pause * 2).min(API_RETRY_MAX);
                self.state = State::Begin;
                Some(Ask::Pause(pause))
            }
        }
    }

    /// The replicas that carry the replication's label, with their attempts; `None` of what no attempt has made. An error says
    /// that nothing is known.
    pub fn listed(&mut self, listed: Result<Vec<(String, Option<u32>)>, ()>) {
        self.state = match listed {
            Ok(listed) => {
                let void = listed.into_iter().filter(|(_, of)| of.is_some_and(|of| of <= self.last_attempt));
                let all: BTreeSet<String> = self.names.iter().cloned().chain(void.map(|(name, _)| name)).collect();
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
                let name = names.pop_front();
                self.found.extend(name.filter(|_| there));
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

    #[test]
    fn replicas_of_a_later_attempt_are_left_alone() {
        let mut removal = Removal::new(vec!["named".into()], 2);
        assert_eq!(removal.next(), Some(Ask::List));
        let of = |name: &str, attempt| (name.to_owned(), attempt);
        removal.listed(Ok(vec![
            of("first", Some(1)),
            of("second", Some(2)),
            of("third", Some(3)),
            of("foreign", None),
        ]));
        for name in ["first", "named", "second"] {
            assert_eq!(removal.next(), Some(Ask::Delete(name.into())));
            removal.deleted(Ok(name != "named"));
        }
        assert_eq!((removal.next(), removal.found()), (None, 2));
    }

    #[test]
    fn what_fails_is_tried_again_from_the_list_after_growing_pauses() {
        let mut removal = Removal::new(Vec::new(), 1);
        removal.listed(Err(()));
        assert_eq!(removal.next(), Some(Ask::Pause(API_RETRY_MIN)));
        assert_eq!(removal.next(), Some(Ask::List));
        removal.listed(Ok(vec![("first".into(), Some(1)), ("second".into(), Some(1))]));
        removal.deleted(Ok(true));
        removal.deleted(Err(()));
        assert_eq!(removal.next(), Some(Ask::Pause(API_RETRY_MIN * 2)));
        assert_eq!(removal.next(), Some(Ask::List));
        removal.listed(Ok(vec![("second".into(), Some(1))]));
        removal.deleted(Ok(true));
        assert_eq!((removal.next(), removal.found()), (None, 2));
    }
}
