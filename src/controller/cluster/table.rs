//! One kind of objects as it is known: the core of a reflector. Fed with complete lists and with events, both with the resource
//! version of the API server; says to each follower what changed for it. Reads no clock and asks nobody.
//!
//! Resource versions are compared as numbers, and only those of one kind with each other: they are integers that grow
//! (KEP-5504).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::Notify;

/// Facts by key, as of one version.
pub struct Table<F> {
    facts: Arc<BTreeMap<String, F>>,
    /// Everything up to this resource version is in `facts`.
    version: u64,
    /// Whether one list was complete.
    listed: bool,
    followers: BTreeMap<u64, Inbox<F>>,
    next_follower: u64,
}

/// Which facts a follower wants to hear of.
pub type Wanted<F> = Box<dyn Fn(&str, &F) -> bool + Send>;

/// What one follower has been told and has yet to be told. Keys only: it reads the newest fact when it asks, and so it needs no
/// more room than the objects that it knows of or can be told of, however slow it is.
struct Inbox<F> {
    wanted: Wanted<F>,
    /// What it believes to be there.
    told: BTreeSet<String>,
    /// What is otherwise than it was told.
    changed: BTreeSet<String>,
    wake: Arc<Notify>,
}

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self { facts: Arc::default(), version: 0, listed: false, followers: BTreeMap::new(), next_follower: 0 }
    }
}

impl<F: Clone + PartialEq> Table<F> {
    /// All facts, as they are now.
    pub fn facts(&self) -> Arc<BTreeMap<String, F>> {
        self.facts.clone()
    }

    /// The version that everything here is at least as new as.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether a list of this version, which was begun when `known` was the version here, would tell nothing new.
    pub fn has_reached(&self, version: u64, known: u64) -> bool {
        self.listed && version >= known && self.version >= version
    }

    /// Takes a complete list of this version, which was begun when `known` was the version here. Says whether the API server
    /// went back behind `known`: then what a watch has told does not count any more, and it must be begun again.
    pub fn list(&mut self, version: u64, facts: BTreeMap<String, F>, known: u64) -> bool {
        let rewound = self.listed && version < known;
        if self.listed && version < self.version && !rewound {
            // The watch was faster.
            return false;
        }
        self.version = version;
        self.listed = true;
        let before = std::mem::replace(&mut self.facts, Arc::new(facts));
        for (key, fact) in before.iter() {
            note(&mut self.followers, key, Some(fact), self.facts.get(key));
        }
        for (key, fact) in self.facts.iter().filter(|(key, _)| !before.contains_key(*key)) {
            note(&mut self.followers, key, None, Some(fact));
        }
        rewound
    }

    /// Takes an event: what an object is from this version on, `None` when it is gone or of no interest. One that is not newer
    /// than what is here is in a list already, perhaps with what came after it, and tells nothing.
    pub fn event(&mut self, version: u64, key: &str, fact: Option<F>) {
        if version <= self.version {
            return;
        }
        self.version = version;
        if self.facts.get(key) == fact.as_ref() {
            return;
        }
        // Copies all facts only if somebody still looks at them.
        let facts = Arc::make_mut(&mut self.facts);
        let before = match fact {
            Some(fact) => facts.insert(key.to_owned(), fact),
            None => facts.remove(key),
        };
        note(&mut self.followers, key, before.as_ref(), self.facts.get(key));
    }

    /// Takes word that nothing else has happened up to this version.
    pub fn bookmark(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// Tells a new follower of what it wants from now on, and by `wake` that there is something to tell: at first what is there,
    /// and what of `expected` is not.
    pub fn follow(&mut self, wanted: Wanted<F>, expected: BTreeSet<String>, wake: Arc<Notify>) -> u64 {
        let told = if self.listed { expected } else { BTreeSet::new() };
        let there = self.facts.iter().filter(|(key, fact)| wanted(key, fact)).map(|(key, _)| key.clone());
        let changed = there.chain(told.iter().cloned()).collect();
        let id = self.next_follower;
        self.next_follower += 1;
        self.followers.insert(id, Inbox { wanted, told, changed, wake });
        id
    }

    /// Tells a follower no more.
    pub fn unfollow(&mut self, id: u64) {
        self.followers.remove(&id);
    }

    /// What changed for a follower since it last asked, at most so many; `None`: it is gone, or not what it wants any more.
    pub fn take(&mut self, id: u64, at_most: usize) -> Vec<(String, Option<F>)> {
        let Some(inbox) = self.followers.get_mut(&id) else { return Vec::new() };
        let mut changes = Vec::new();
        while changes.len() < at_most
            && let Some(key) = inbox.changed.pop_first()
        {
            let fact = self.facts.get(&key).filter(|fact| (inbox.wanted)(&key, fact));
            match fact {
                Some(_) => inbox.told.insert(key.clone()),
                None => inbox.told.remove(&key),
            };
            changes.push((key, fact.cloned()));
        }
        changes
    }
}

/// Notes a change for those whom it concerns.
fn note<F: PartialEq>(followers: &mut BTreeMap<u64, Inbox<F>>, key: &str, before: Option<&F>, after: Option<&F>) {
    if before == after {
        return;
    }
    for inbox in followers.values_mut() {
        let wants = |fact: Option<&F>| fact.is_some_and(|fact| (inbox.wanted)(key, fact));
        if !wants(before) && !wants(after) {
            continue;
        }
        if wants(after) || inbox.told.contains(key) {
            inbox.changed.insert(key.to_owned());
            inbox.wake.notify_one();
        } else {
            // It came and went unseen.
            inbox.changed.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
