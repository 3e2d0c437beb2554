//! When objects whose run has ended are deleted (`spec.ttlSecondsAfterFinished`). Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::state::Moment;
use super::stub::Stub;
use crate::limits::CLEAN_UP_RETRY_MAX;
use crate::pauses::Pauses;

/// An object that is to be deleted, as it was when that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who changes it meanwhile may want to keep it.
    pub resource_version: Option<String>,
}

/// All objects that are to be deleted some time. Times are on the monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Expiries {
    entries: HashMap<String, Entry>,
    /// The first one first; those whose deletion is under way are missing.
    due: BTreeSet<(Duration, String)>,
}

#[derive(Clone, Debug)]
struct Entry {
    object: Expired,
    at: Duration,
    pauses: Pauses,
}

impl Expiries {
    /// An object is there, as it is now.
    pub fn update(&mut self, object: &Stub, now: Moment) {
        let uid = object.uid.clone();
        let Some(left) = time_left(object, now) else { return self.gone(&uid) };
        let at = now.monotonic + left;
        let expired = Expired {
            uid: uid.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            resource_version: object.resource_version.clone(),
        };
        if self.entries.get(&uid).is_some_and(|known| known.object == expired) {
            return;
        }
        self.gone(&uid);
        self.due.insert((at, uid.clone()));
        self.entries.insert(uid, Entry { object: expired, at, pauses: Pauses::up_to(CLEAN_UP_RETRY_MAX) });
    }

    /// An object is gone.
    pub fn gone(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.due.remove(&(entry.at, uid.to_owned()));
        }
    }

    /// Who is to be deleted now, if anybody is. Given once, unless [`Expiries::refused`].
    pub fn expired(&mut self, now: Duration) -> Option<Expired> {
        let (at, uid) = self.due.first().filter(|(at, _)| *at <= now).cloned()?;
        self.due.remove(&(at, uid.clone()));
        self.entries.get(&uid).map(|entry| entry.object.clone())
    }

    /// It could not be deleted: it is tried again after a pause.
    pub fn refused(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        self.due.remove(&(entry.at, uid.to_owned()));
        entry.at = now + entry.pauses.take();
        self.due.insert((entry.at, uid.to_owned()));
    }

    /// When [`Expiries::expired`] has something to give, if everything stays.
    pub fn wake_at(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }
}

/// How long an object stays; `None`: for as long as nobody deletes it. The end is on the clock of the controller that stored it,
/// which may be another one: nobody waits longer than was asked for.
fn time_left(object: &Stub, now: Moment) -> Option<Duration> {
    let stays = Duration::from_secs(object.stays?.into());
    if !object.has_ended() || object.deleting {
        return None;
    }
    let since = Duration::try_from(now.wall.duration_since(object.since?)).unwrap_or_default();
    Some(stays.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::json;
    use stillpoint_api::{ConsistencyGroupReplication, Phase, PhaseEntry, ReplicationStatus};

    use super::*;

    const NOW: Moment = Moment { monotonic: Duration::from_secs(1_000), wall: Timestamp::UNIX_EPOCH };

    /// An object that was in this phase since so many seconds.
    fn object(name: &str, ttl: Option<u32>, phase: Phase, since: i64) -> ConsistencyGroupReplication {
        let mut object: ConsistencyGroupReplication = serde_json::from_value(json!({
            "apiVersion": "stillpoint.io/v1alpha1",
            "kind": "ConsistencyGroupReplication",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
            "spec": {"source": {}, "replication": {"volumeSnapshot": {}}, "ttlSecondsAfterFinished": ttl},
        }))
        .unwrap();
        let started_at = MicroTime(NOW.wall - SignedDuration::from_secs(since));
        let phases = vec![PhaseEntry { phase, started_at }];
        object.status = Some(ReplicationStatus { phase: Some(phase), phases, ..ReplicationStatus::default() });
        object
    }

    #[test]
    fn an_object_stays_as_long_as_was_asked_for() {
        let mut deleted = object("a", Some(60), Phase::Done, 20);
        deleted.metadata.deletion_timestamp = Some(Time(NOW.wall));
        for (name, object, left) in [
            ("no ttl", object("a", None, Phase::Done, 20), None),
            ("not ended", object("a", Some(60), Phase::Replicating, 20), None),
            ("deleted already", deleted, None),
            ("done", object("a", Some(60), Phase::Done, 20), Some(40)),
            ("failed", object("a", Some(60), Phase::Failed, 20), Some(40)),
            ("at once", object("a", Some(0), Phase::Aborted, 0), Some(0)),
            ("long ago", object("a", Some(60), Phase::Done, 90), Some(0)),
            ("another clock", object("a", Some(60), Phase::Done, -9_000), Some(60)),
            ("the longest", object("a", Some(u32::MAX), Phase::Done, 0), Some(u64::from(u32::MAX))),
        ] {
            assert_eq!(time_left(&Stub::of(&object), NOW), left.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn who_has_expired_is_given_once_and_again_after_a_refusal() {
        let mut expiries = Expiries::default();
        let at = |seconds| NOW.monotonic + Duration::from_secs(seconds);
        for (name, ttl) in [("late", 50), ("early", 10)] {
            expiries.update(&Stub::of(&object(name, Some(ttl), Phase::Done, 0)), NOW);
        }
        let name = |expiries: &mut Expiries, now| expiries.expired(now).map(|expired| expired.name);
        assert_eq!((expiries.wake_at(), name(&mut expiries, at(9))), (Some(at(10)), None));
        assert_eq!(name(&mut expiries, at(10)).as_deref(), Some("early"));
        expiries.update(&Stub::of(&object("early", Some(10), Phase::Done, 0)), NOW);
        assert_eq!(name(&mut expiries, at(11)), None, "its deletion is under way");
        expiries.refused("early", at(11));
        assert!(expiries.wake_at() > Some(at(11)), "not at once");
        assert_eq!(name(&mut expiries, at(12)).as_deref(), Some("early"));

        let mut kept = object("late", None, Phase::Done, 0);
        kept.metadata.resource_version = Some("2".into());
        expiries.update(&Stub::of(&kept), NOW);
        assert_eq!((name(&mut expiries, at(60)), expiries.wake_at()), (None, None), "somebody wants to keep it");
    }
}
