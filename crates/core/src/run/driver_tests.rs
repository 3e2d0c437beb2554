#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use stillpoint_api::{Phase, ReplicationStatus};

use super::*;

fn replication(status: ReplicationStatus) -> ConsistencyGroupReplication {
    let mut object: ConsistencyGroupReplication = serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "replication": {"volumeSnapshot": {}}},
    }))
    .unwrap();
    object.status = Some(status);
    object
}

#[test]
fn a_cool_down_is_waited_for_and_believed_no_longer_than_it_can_be() {
    let now = Moment { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let left = |seconds: i64, deleting: bool| {
        let next_attempt_at = Some(MicroTime(now.wall + SignedDuration::from_secs(seconds)));
        let mut object = replication(ReplicationStatus { attempt: 1, next_attempt_at, ..Default::default() });
        object.spec.retry = Some(stillpoint_api::Retry { limit: 1, cool_down: Duration::from_secs(60).into() });
        object.metadata.deletion_timestamp = deleting.then_some(Time(now.wall));
        cool_down(&object, now)
    };
    assert_eq!(left(20, false), Some(Duration::from_secs(20)));
    assert_eq!(left(0, false), None);
    assert_eq!(left(-5, false), None, "its time has passed while nobody led");
    assert_eq!(left(86_400, false), Some(Duration::from_secs(60)), "another clock");
    assert_eq!(left(20, true), None, "nobody waits with a deletion");
}

const NOW: Moment = Moment { monotonic: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };

/// A driver that has read an object in mode Check with one claim that nobody mounts, and is about to declare its attempt.
fn declaring() -> Driver {
    let mut object = replication(ReplicationStatus::default());
    object.status = None;
    object.spec.mode = stillpoint_api::Mode::Check;
    object.spec.replication = None;
    object.metadata.finalizers = Some(vec![stillpoint_api::labels::FINALIZER.to_owned()]);
    object.annotations_mut().insert(stillpoint_api::labels::RUN_UID.to_owned(), "uid".to_owned());
    let claim = super::super::facts::Claim {
        name: "a".into(),
        uid: "claim".into(),
        volume: Some("pv".into()),
        ..Default::default()
    };
    let facts = || Box::new(Facts { claims: BTreeMap::from([("claim".into(), claim.clone())]), ..Facts::default() });
    let mut driver = Driver::new(Settings { epoch: 5, hold_ceiling: Duration::from_secs(30) }, "uid");
    for input in [
        Input::Object(Ok(Some(Box::new(object)))),
        Input::Looked(Ok(facts())),
        Input::LookedUp(Ok(Box::default())),
        Input::Reserved(BTreeMap::new()),
        Input::Following(Ok((facts(), BTreeSet::new()))),
    ] {
        driver.hear(input, NOW);
    }
    assert!(driver.attempt().is_some(), "{driver:?}");
    driver
}

#[test]
fn a_stop_before_the_attempt_is_declared_leaves_it_to_the_next_leader() {
    let mut driver = declaring();
    driver.hear(Input::Stop, NOW);
    let effects = driver.turn(NOW, true);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::PutStatus(_))), "{effects:?}");
    driver.hear(Input::Object(Ok(None)), NOW);
    assert_eq!(driver.over(), Some(&Over::Ended));
}

#[test]
fn who_cannot_be_sure_of_leading_gives_up_what_it_has_begun() {
    for (leads, end) in [(true, Phase::Done), (false, Phase::Aborted)] {
        let mut driver = declaring();
        let mut last = None;
        for _ in 0..20 {
            for effect in driver.turn(NOW, leads) {
                match effect {
                    Effect::PutStatus(object) => {
                        last = object.status.as_ref().and_then(|status| status.phase);
                        driver.hear(Input::Stored(Ok(object)), NOW);
                    }
                    Effect::Recheck => driver.hear(Input::Rechecked(BTreeMap::new()), NOW),
                    _ => {}
                }
            }
        }
        assert_eq!(last, Some(end));
    }
}

/// What a new driver does about this object first.
fn first(object: ConsistencyGroupReplication) -> (Driver, Vec<Effect>) {
    let mut driver = Driver::new(Settings { epoch: 5, hold_ceiling: Duration::from_secs(30) }, "uid");
    driver.turn(NOW, true);
    driver.hear(Input::Object(Ok(Some(Box::new(object)))), NOW);
    let effects = driver.turn(NOW, true);
    (driver, effects)
}

fn of(epoch: u64) -> ConsistencyGroupReplication {
    let phase = Some(Phase::Checking);
    replication(ReplicationStatus { attempt: 1, phase, leader_epoch: epoch, ..Default::default() })
}

#[test]
fn an_epoch_that_no_leader_can_have_is_taken_over() {
    let claims = |epoch| match &first(of(epoch)).1[..] {
        [Effect::PutStatus(object)] => object.status.as_ref().map(|status| status.leader_epoch),
        _ => None,
    };
    assert_eq!(claims(4), Some(5));
    assert_eq!(claims(9_000_000_000), Some(5));
    assert_eq!(claims(6), None);
    assert_eq!(first(of(6)).0.over(), Some(&Over::Outranked(6)), "the count may have gone back");
}

#[test]
fn a_copy_does_nothing_and_says_what_it_is_a_copy_of() {
    let done = ReplicationStatus { attempt: 3, phase: Some(Phase::Done), leader_epoch: 9, ..Default::default() };
    for status in [None, Some(done), of(9_000_000_000).status, of(6).status] {
        let mut object = replication(ReplicationStatus::default());
        object.status = status;
        object.annotations_mut().insert(stillpoint_api::labels::RUN_UID.to_owned(), "original".to_owned());
        object.metadata.finalizers = Some(vec![stillpoint_api::labels::FINALIZER.to_owned()]);
        assert!(Stub::of(&object).needs_work());
        let (mut driver, effects) = first(object);
        let [Effect::PutStatus(said)] = &effects[..] else { panic!("{effects:?}") };
        let status = said.status.as_ref().unwrap();
        assert_eq!((status.phase, status.leader_epoch, status.members.len()), (Some(Phase::Aborted), 5, 0));
        let ready = status.conditions.iter().find(|one| one.type_ == "Ready").unwrap();
        assert_eq!(ready.reason, "IsCopy");
        assert!(ready.message.contains("copy of run nightly with UID original"), "{}", ready.message);
        driver.hear(Input::Stored(Ok(said.clone())), NOW);
        let effects = driver.turn(NOW, true);
        let marks = effects.iter().find_map(|effect| match effect {
            Effect::SetMarks(object) => Some(object),
            _ => None,
        });
        assert_eq!(marks.unwrap().finalizers().len(), 0, "it needs no finalizer");
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Remove { .. } | Effect::Look)), "{effects:?}");
    }
}

#[test]
fn a_run_is_pinned_before_anybody_is_asked_and_also_when_it_cannot_begin() {
    let mut object = replication(ReplicationStatus::default());
    object.status = None;
    let (mut driver, _) = first(object);
    driver.hear(Input::Looked(Ok(Box::default())), NOW);
    driver.turn(NOW, true);
    driver.hear(Input::LookedUp(Ok(Box::default())), NOW);
    driver.turn(NOW, true);
    driver.hear(Input::Reserved(BTreeMap::new()), NOW);
    let effects = driver.turn(NOW, true);
    let [Effect::SetMarks(pinned)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(pinned.annotations()[stillpoint_api::labels::RUN_UID], "uid");
    assert!(pinned.finalizers().is_empty(), "nothing is to be cleaned up");
    driver.hear(Input::Patched(Ok(pinned.clone())), NOW);
    let effects = driver.turn(NOW, true);
    let [Effect::PutStatus(refused)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refused.status.as_ref().unwrap().phase, Some(Phase::Aborted));
}
