//! Values that many states share are kept once and named by numbers, and what a step makes of them is computed once.
//!
//! A state of the whole is then a few dozen numbers, although each part of it is a production state machine with all its
//! strings; two states are equal exactly if their parts are.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

/// Names a value of one [`Pool`].
pub type Id = u32;

/// Locks, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// Values, each kept once, by the key that tells them apart.
pub struct Pool<K, V> {
    ids: RwLock<HashMap<K, Id>>,
    values: RwLock<Vec<Arc<V>>>,
}

impl<K: Eq + Hash, V> Pool<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { ids: RwLock::default(), values: RwLock::default() }
    }

    /// The number of a key. If it is new, `make` gives its value.
    pub fn intern(&self, key: K, make: impl FnOnce() -> V) -> Id {
        if let Some(id) = self.ids.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *id;
        }
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(&key) {
            return *id;
        }
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        let id = Id::try_from(values.len()).unwrap_or(Id::MAX);
        values.push(Arc::new(make()));
        ids.insert(key, id);
        id
    }

    /// The value of a number that [`Self::intern`] gave.
    pub fn get(&self, id: Id) -> Arc<V> {
        Arc::clone(&self.values.read().unwrap_or_else(PoisonError::into_inner)[id as usize])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What a step made of a value, by both.
pub struct Memo<K, V> {
    shards: Vec<RwLock<HashMap<K, Arc<V>>>>,
    hasher: RandomState,
}

impl<K: Eq + Hash + Clone, V> Memo<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }

    /// What `make` gives for this key, made once (or, by two threads at the same time, twice and alike).
    pub fn get(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let shard = &self.shards[usize::try_from(self.hasher.hash_one(key)).unwrap_or_default() % SHARDS];
        if let Some(value) = shard.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Arc::clone(value);
        }
        let value = Arc::new(make());
        shard.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::clone(&value));
        value
    }
}
