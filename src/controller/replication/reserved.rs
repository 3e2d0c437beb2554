//! Which claim belongs to which run of this controller: one attempt per member at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// All claims that runs have reserved. A clone is another handle on the same ones.
#[derive(Clone, Default)]
pub struct Reserved {
    by_claim: Arc<Mutex<HashMap<String, String>>>,
}

/// Claims that a run has reserved, until this is dropped.
pub struct Reservation {
    reserved: Reserved,
    claims: Vec<String>,
}

impl Reserved {
    /// Reserves claims (UIDs) for a replication: with `whole` all or none, else those that are free. Gives those that belong to
    /// others too, with the names of their replications.
    pub fn reserve(
        &self,
        mut claims: Vec<String>,
        replication: &str,
        whole: bool,
    ) -> (Reservation, BTreeMap<String, String>) {
        let mut by_claim = self.by_claim.lock().unwrap_or_else(PoisonError::into_inner);
        let others: BTreeMap<String, String> =
            claims.iter().filter_map(|claim| Some((claim.clone(), by_claim.get(claim)?.clone()))).collect();
        claims.retain(|claim| (!whole || others.is_empty()) && !others.contains_key(claim));
        by_claim.extend(claims.iter().map(|claim| (claim.clone(), replication.to_owned())));
        (Reservation { reserved: self.clone(), claims }, others)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut by_claim = self.reserved.by_claim.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in &self.claims {
            by_claim.remove(claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_belongs_to_one_run_at_a_time() {
        let reserved = Reserved::default();
        let claims = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (first, others) = reserved.reserve(claims(&["a", "b"]), "first", true);
        assert!(others.is_empty());
        let (_none, others) = reserved.reserve(claims(&["b", "c"]), "second", true);
        assert_eq!(others, BTreeMap::from([("b".to_owned(), "first".to_owned())]));
        let (_free, others) = reserved.reserve(claims(&["b", "c"]), "third", false);
        assert_eq!(others.len(), 1, "all or none was not asked for");
        let (_taken, others) = reserved.reserve(claims(&["c"]), "fourth", true);
        assert_eq!(others, BTreeMap::from([("c".to_owned(), "third".to_owned())]));
        drop(first);
        assert!(reserved.reserve(claims(&["a", "b"]), "fifth", true).1.is_empty());
    }
}
