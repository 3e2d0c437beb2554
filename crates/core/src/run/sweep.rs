//! Replicas that turn up late: a creation whose outcome was not heard of may come true after its attempt was voided. Which
//! attempts are void, and what follows for a replica. Pure.

use std::collections::HashMap;

use kube::ResourceExt;
use stillpoint_api::{Phase, labels};

use crate::limits::MAX_REMEMBERED_RUNS;
use crate::replica::KINDS;
use crate::replica::ask::{Remove, RunId};
use crate::run::stub::{Progress, Stub};

/// Which attempts are void, by the UID of the replication. What is void stays so, and final phases are never left, so this
/// never becomes wrong.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    known: HashMap<String, Known>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Known {
    /// This attempt and all before it are void; 0: none is.
    last_void: u32,
    /// No other attempt will follow.
    ended: bool,
}

/// A replication whose replicas are void, up to this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voided {
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The last attempt that is void.
    pub last_attempt: u32,
}

impl Voided {
    /// What a replica of a void attempt says of its replication; `None`: it is none of ours.
    pub fn by(replica: &impl ResourceExt) -> Option<Self> {
        let uid = replica.labels().get(labels::REPLICATION_UID)?.clone();
        Some(Self { namespace: replica.namespace()?, uid, last_attempt: attempt_of(replica)? })
    }

    /// What removes its replicas, of every kind.
    pub fn removes(&self) -> Vec<Remove> {
        let Self { namespace, uid, last_attempt } = self;
        let run = RunId {
            replication: "",
            uid,
            namespace,
            attempt: *last_attempt,
            owner: None,
            asked_at: None,
            wishes: None,
        };
        KINDS.iter().flat_map(|kind| kind.remove(&run, &[])).collect()
    }
}

/// What is to be done about a replica that turned up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing.
    Leave,
    /// Its replication is to be read and remembered, and then it is judged again.
    Read,
    /// It is to be deleted.
    Delete,
}

impl Sweep {
    /// Remembers which attempts are void, if any are, and that a run has ended. Forgets all others when there are too many: they
    /// can be read again.
    ///
    /// A replica that turned up before the end of its attempt was stored was not late then, and no event will tell of it
    /// again: the replicas of a void attempt are to be looked for once more, now that whatever comes after this is known to be
    /// late. If the caller has no room for that, it calls [`Sweep::forget`], and the next look at the object tries again.
    pub fn remember(&mut self, object: &Stub) -> Option<Voided> {
        let progress = object.progress.filter(|_| object.replicates)?;
        let (uid, ended) = (object.uid.clone(), object.has_ended());
        let known = self.known.get(&uid).copied();
        let before = known.unwrap_or_default();
        let now = Known { last_void: before.last_void.max(last_void(progress)), ended: before.ended || ended };
        if known == Some(now) {
            return None;
        }
        if self.known.len() >= MAX_REMEMBERED_RUNS {
            self.known.clear();
        }
        self.known.insert(uid.clone(), now);
        let namespace = object.namespace.clone();
        (now.last_void > before.last_void).then_some(Voided { namespace, uid, last_attempt: now.last_void })
    }

    /// Forgets a replication; the next look at it is the first one again.
    pub fn forget(&mut self, uid: &str) {
        self.known.remove(uid);
    }

    /// What is to be done about a replica. Of a replication that is gone and not remembered nothing is known (`Read` that finds
    /// nothing): it may have been Done, and its replicas retained.
    pub fn judge(&self, replica: &impl ResourceExt) -> Judgement {
        let uid = replica.labels().get(labels::REPLICATION_UID);
        let (Some(uid), Some(attempt)) = (uid, attempt_of(replica)) else { return Judgement::Leave };
        if replica.meta().deletion_timestamp.is_some() {
            return Judgement::Leave;
        }
        match self.is_void(uid, attempt) {
            Some(true) => Judgement::Delete,
            Some(false) => Judgement::Leave,
            None => Judgement::Read,
        }
    }

    /// Whether this attempt is void, as far as its replication has been seen; `None`: it was not. When one that is under way
    /// turns out to be void, its replicas are looked for once more.
    fn is_void(&self, replication_uid: &str, attempt: u32) -> Option<bool> {
        self.known.get(replication_uid).map(|known| attempt <= known.last_void)
    }
}

/// The attempt that a replica belongs to, by its label; `None` of what no attempt has made.
pub fn attempt_of(replica: &impl ResourceExt) -> Option<u32> {
    replica.labels().get(labels::ATTEMPT)?.parse().ok()
}

/// The last attempt whose replicas are void; 0: none.
pub(super) fn last_void(progress: Progress) -> u32 {
    // Without an attempt that was begun nothing was asked of anybody.
    if !progress.began {
        return 0;
    }
    match progress.phase {
        Some(Phase::Aborted | Phase::Failed | Phase::Pending) => progress.attempt,
        Some(Phase::Checking | Phase::Ready | Phase::Replicating | Phase::Done) | None => {
            progress.attempt.saturating_sub(1)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A replication whose second attempt has come to this phase.
    fn replication(began: bool, phase: Phase) -> Stub {
        let progress = Some(Progress { phase: Some(phase), attempt: 2, began });
        Stub { uid: "uid".to_owned(), replicates: true, progress, ..Stub::default() }
    }

    #[test]
    fn an_attempt_is_void_when_it_was_aborted_or_another_one_followed() {
        use Phase::{Aborted, Checking, Done, Failed, Pending, Replicating};
        let cases = [
            (Checking, Some(true), Some(false)),
            (Replicating, Some(true), Some(false)),
            (Pending, Some(true), Some(true)),
            (Aborted, Some(true), Some(true)),
            (Failed, Some(true), Some(true)),
            (Done, Some(true), Some(false)),
        ];
        for (phase, of_the_first, of_the_second) in cases {
            let mut sweep = Sweep::default();
            assert_eq!(sweep.is_void("uid", 1), None);
            let voided = sweep.remember(&replication(true, phase)).unwrap();
            assert_eq!((sweep.is_void("uid", 1), sweep.is_void("uid", 2)), (of_the_first, of_the_second), "{phase:?}");
            assert_eq!(voided.last_attempt, if of_the_second == Some(true) { 2 } else { 1 }, "{phase:?}");
        }
        let mut sweep = Sweep::default();
        assert_eq!(sweep.remember(&replication(false, Aborted)), None, "nothing was asked of anybody");
        assert_eq!(sweep.is_void("uid", 1), Some(false));
    }
}
