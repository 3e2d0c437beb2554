#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use stillpoint_api::{PhaseEntry, ReplicationStatus};

use super::super::effect::Input;
use super::super::stub::Stub;
use super::*;
use crate::replica::removal::Removed;
use crate::run::driver::{Driver, Settings};

const NOW: Moment = Moment { monotonic: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };
const UID: &str = "uid";

/// A replication that has the finalizer, and whose first attempt was begun and has come to this phase.
fn ended(phase: Phase) -> ConsistencyGroupReplication {
    let mut object: ConsistencyGroupReplication = serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": UID, "resourceVersion": "1", "generation": 1,
            "annotations": {labels::RUN_UID: UID}, "finalizers": [labels::FINALIZER]},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "replication": {"volumeSnapshot": {}}},
    }))
    .unwrap();
    let entry = |phase| PhaseEntry { phase, started_at: MicroTime(NOW.wall) };
    object.status = Some(ReplicationStatus {
        attempt: 1,
        phase: Some(phase),
        phases: [Phase::Checking, phase].map(entry).into(),
        leader_epoch: 5,
        observed_generation: Some(1),
        ..ReplicationStatus::default()
    });
    object
}

fn deleted(mut object: ConsistencyGroupReplication) -> ConsistencyGroupReplication {
    object.metadata.deletion_timestamp = Some(Time(NOW.wall));
    object
}

fn retained(mut object: ConsistencyGroupReplication, generation: i64) -> ConsistencyGroupReplication {
    object.spec.deletion_policy = DeletionPolicy::Retain;
    object.metadata.generation = Some(generation);
    object
}

fn check(mut object: ConsistencyGroupReplication) -> ConsistencyGroupReplication {
    object.spec.mode = Mode::Check;
    object
}

fn copy(mut object: ConsistencyGroupReplication) -> ConsistencyGroupReplication {
    object.annotations_mut().insert(labels::RUN_UID.to_owned(), "another".to_owned());
    object
}

fn orphaning(mut object: ConsistencyGroupReplication) -> ConsistencyGroupReplication {
    object.metadata.finalizers.as_mut().unwrap().insert(0, ORPHAN.to_owned());
    object
}

/// A driver that has read the object, and what it does first.
fn driver(object: &ConsistencyGroupReplication) -> (Driver, Vec<Effect>) {
    let mut driver = Driver::new(Settings { epoch: 5, hold_ceiling: Duration::from_secs(30) }, UID);
    driver.turn(NOW, true);
    let effects = hear(&mut driver, Input::Object(Ok(Some(Box::new(object.clone())))));
    (driver, effects)
}

fn hear(driver: &mut Driver, input: Input) -> Vec<Effect> {
    driver.hear(input, NOW);
    driver.turn(NOW, true)
}

fn first_of(object: &ConsistencyGroupReplication) -> &'static str {
    let (driver, effects) = driver(object);
    match (effects.as_slice(), driver.over()) {
        ([Effect::Remove { scope: Scope { owned_by: None, last_attempt: 1 }, .. }], None) => "removes all",
        ([Effect::Remove { scope: Scope { owned_by: Some(owner), .. }, .. }], None) if owner == UID => {
            "removes its own"
        }
        ([Effect::Disown { owner, .. }], None) if owner == UID => "disowns",
        ([Effect::SetMarks(object)], None) if object.finalizers().iter().all(|one| one == ORPHAN) => "lets go",
        ([Effect::PutStatus(_)], None) => "says",
        ([], Some(Over::Ended)) => "leaves it",
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_finalizer_comes_off_where_nothing_is_to_be_cleaned_up() {
    use Phase::{Aborted, Done, Failed};
    for (name, object, first) in [
        ("done", ended(Done), "leaves it"),
        ("done, retained", retained(ended(Done), 1), "lets go"),
        ("done, retained now", retained(ended(Done), 2), "disowns"),
        ("done, mode Check", check(ended(Done)), "lets go"),
        ("aborted, mode Check", check(ended(Aborted)), "lets go"),
        ("aborted", ended(Aborted), "removes all"),
        ("failed", ended(Failed), "removes all"),
        ("failed, retained", retained(ended(Failed), 1), "removes all"),
        ("a copy that does not say so", copy(ended(Done)), "says"),
        ("done, deleted", deleted(ended(Done)), "removes its own"),
        ("done, retained, deleted", deleted(retained(ended(Done), 1)), "lets go"),
        ("done, retained at last, deleted", deleted(retained(ended(Done), 3)), "disowns"),
        ("done, deleted with --cascade=orphan", deleted(orphaning(ended(Done))), "lets go"),
        ("failed, deleted with --cascade=orphan", deleted(orphaning(ended(Failed))), "removes all"),
        ("a copy, deleted", deleted(copy(ended(Done))), "lets go"),
        ("a copy of a failed one, deleted", deleted(copy(ended(Failed))), "lets go"),
    ] {
        assert_eq!(first_of(&object), first, "{name}");
        assert_eq!(Stub::of(&object).needs_work(), first != "leaves it", "{name}");
    }
    let mut refused = ended(Aborted);
    let status = refused.status.as_mut().unwrap();
    status.phases.remove(0);
    assert_eq!(first_of(&refused), "lets go", "nothing was asked of anybody");
}

fn left(what: &str, refused: bool) -> Input {
    Input::Removed(Removed { found: 1, left: vec![Left { what: what.to_owned(), refused }] })
}

fn cleaned_up(effects: &[Effect]) -> (String, String, ConsistencyGroupReplication) {
    let [Effect::PutStatus(object)] = effects else { panic!("{effects:?}") };
    let conditions = &object.status.as_ref().unwrap().conditions;
    let condition = conditions.iter().find(|one| one.type_ == conditions::CLEANED_UP).unwrap();
    (condition.status.clone(), condition.message.clone(), (**object).clone())
}

#[test]
fn a_refused_deletion_is_said_once_and_tried_again_later() {
    let (mut driving, _) = driver(&deleted(ended(Phase::Done)));
    let effects = hear(&mut driving, left("VolumeSnapshot a could not be deleted: policy", true));
    let (status, message, object) = cleaned_up(&effects);
    assert_eq!(status, "False");
    assert!(message.starts_with("VolumeSnapshot a could not be deleted: policy. It is tried again"), "{message}");
    let told = hear(&mut driving, Input::Stored(Ok(Box::new(object.clone()))));
    assert!(
        matches!(&told[..], [Effect::Tell(news)] if matches!(&news[..], [Happened::Left { reason, .. }] if reason == "DeletionRefused"))
    );
    assert!(matches!(driving.over(), Some(Over::Left(_))), "nothing waits here: {:?}", driving.over());

    // The next time it is refused again, and there is nothing to say.
    let (mut driving, _) = driver(&object);
    let effects = hear(&mut driving, left("VolumeSnapshot a could not be deleted: policy", true));
    assert!(effects.is_empty() && matches!(driving.over(), Some(Over::Left(_))), "{effects:?}");

    let (mut driving, _) = driver(&object);
    let effects = hear(&mut driving, Input::Removed(Removed { found: 1, left: Vec::new() }));
    assert!(matches!(&effects[..], [Effect::SetMarks(_)]), "{effects:?}");
}

#[test]
fn what_is_said_of_a_void_cut_stays_true() {
    let (mut driving, _) = driver(&ended(Phase::Failed));
    let effects = hear(&mut driving, left("VolumeSnapshot a is being deleted", false));
    let (_, _, object) = cleaned_up(&effects);
    assert!(object.metadata.finalizers.as_ref().is_some_and(|all| all.len() == 1), "the object waits");
    assert!(Stub::of(&object).needs_work());

    let (mut driving, _) = driver(&object);
    let effects = hear(&mut driving, Input::Removed(Removed::default()));
    let (status, message, object) = cleaned_up(&effects);
    assert_eq!((status.as_str(), message.as_str()), ("True", "nothing is left that was to be removed"));
    let effects = hear(&mut driving, Input::Stored(Ok(Box::new(object))));
    assert!(matches!(&effects[..], [Effect::SetMarks(object)] if object.finalizers().is_empty()), "{effects:?}");
}

#[test]
fn a_changed_policy_is_seen_when_the_replicas_are_kept() {
    let (mut driving, _) = driver(&retained(ended(Phase::Done), 2));
    let effects = hear(&mut driving, Input::Disowned(Vec::new()));
    let [Effect::PutStatus(object)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(object.status.as_ref().unwrap().observed_generation, Some(2));
    let effects = hear(&mut driving, Input::Stored(Ok(object.clone())));
    assert!(matches!(&effects[..], [Effect::SetMarks(_)]), "{effects:?}");
}

#[test]
fn a_stop_waits_for_no_removal() {
    let (mut driving, _) = driver(&ended(Phase::Failed));
    hear(&mut driving, Input::Stop);
    assert_eq!(driving.over(), Some(&Over::Ended));
}

#[test]
fn what_a_newer_leader_has_written_is_left_to_it_and_what_none_can_have_is_not() {
    let by = |epoch| {
        let mut object = deleted(ended(Phase::Failed));
        object.status.as_mut().unwrap().leader_epoch = epoch;
        driver(&object).0.over().cloned()
    };
    assert_eq!(by(4), None);
    assert_eq!(by(6), Some(Over::Outranked(6)));
    assert_eq!(by(9_000_000_000), None, "always deletable");
}
