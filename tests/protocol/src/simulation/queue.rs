//! What will happen, in the order of virtual time; of two events at one time the one that was put first comes first.

use std::collections::BTreeMap;
use std::time::Duration;

/// The queue.
#[derive(Clone, Debug)]
pub(super) struct Queue<E> {
    events: BTreeMap<(Duration, u64), E>,
    last: u64,
}

impl<E> Queue<E> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { events: BTreeMap::new(), last: 0 }
    }

    /// Puts an event.
    pub fn put(&mut self, at: Duration, event: E) {
        self.last += 1;
        self.events.insert((at, self.last), event);
    }

    /// Takes the next event.
    pub fn take(&mut self) -> Option<(Duration, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
