#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use stillpoint_api::labels;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn replication(name: &str) -> ConsistencyGroupReplication {
    serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "mode": "Check"},
    }))
    .unwrap()
}

fn deleting(name: &str, phase: Phase) -> ConsistencyGroupReplication {
    let mut object = replication(name);
    object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    object.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
    object.status = Some(ReplicationStatus { phase: Some(phase), ..ReplicationStatus::default() });
    object
}

/// Starts all that can be started; gives their names.
fn started(turns: &mut Turns, now: Duration) -> Vec<String> {
    std::iter::from_fn(|| turns.start(now)).map(|object| object.name_any()).collect()
}

/// Those of whom it is said that they wait.
fn said(turns: &mut Turns) -> Vec<String> {
    let now = Moment { monotonic: NOW, wall: Timestamp::UNIX_EPOCH };
    std::iter::from_fn(|| turns.waits(1, now)).map(|(object, _)| object.name_any()).collect()
}

#[test]
fn a_run_beyond_the_limit_waits_and_says_so_once() {
    let mut turns = Turns::new(1);
    for name in ["first", "second", "third"] {
        turns.update(replication(name).into(), NOW);
    }
    assert_eq!(started(&mut turns, NOW), ["first"]);
    assert_eq!(said(&mut turns), ["second", "third"]);
    turns.ended("first", &Over::Ended, false, NOW);
    assert_eq!(started(&mut turns, NOW), ["second"]);
    assert!(said(&mut turns).is_empty(), "nothing is said twice");
}

#[test]
fn a_run_that_failed_is_tried_again_after_growing_pauses() {
    let mut turns = Turns::new(1);
    turns.update(replication("first").into(), NOW);
    let (mut now, mut pauses) = (NOW, Vec::new());
    for _ in 0..8 {
        assert_eq!(started(&mut turns, now), ["first"]);
        turns.ended("first", &Over::Failed("as a bug would".into()), true, now);
        assert!(started(&mut turns, now).is_empty());
        let at = turns.wake_at().unwrap();
        pauses.push(at - now);
        now = at;
    }
    assert!(pauses.is_sorted() && pauses[0] < pauses[4] && pauses[7] == API_RETRY_MAX, "{pauses:?}");
}

#[test]
fn what_cannot_be_removed_holds_no_place_and_is_tried_again_after_growing_pauses() {
    let mut turns = Turns::new(1);
    let mut now = NOW;
    // More than are dealt with at the same time, and each of them is refused for ever.
    for number in 0..=MAX_GOODBYES {
        let mut object = replication(&format!("refused-{number}"));
        object.metadata.finalizers = Some(vec![stillpoint_api::labels::FINALIZER.to_owned()]);
        object.status = Some(ReplicationStatus { phase: Some(Phase::Failed), ..ReplicationStatus::default() });
        turns.update(object.into(), now);
    }
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let mut all = 0;
        loop {
            let round = started(&mut turns, now);
            if round.is_empty() {
                break;
            }
            all += round.len();
            for uid in round {
                turns.ended(&uid, &Over::Left("a policy denies it".into()), true, now);
            }
        }
        assert_eq!(all, MAX_GOODBYES + 1, "each has its turn, whatever becomes of the others");
        let at = turns.wake_at().unwrap();
        pauses.push(at - now);
        now = at;
    }
    assert!(pauses.is_sorted() && pauses.last() == Some(&CLEAN_UP_RETRY_MAX), "{pauses:?}");
}

#[test]
fn another_attempt_begins_when_its_time_has_come_and_no_sooner() {
    let mut turns = Turns::new(1);
    turns.update(replication("first").into(), NOW);
    assert_eq!(started(&mut turns, NOW), ["first"]);
    turns.ended("first", &Over::Later(Duration::from_secs(30)), true, NOW);
    // An update of the object, such as of its labels, brings nothing forward.
    let early = NOW + Duration::from_secs(29);
    turns.update(replication("first").into(), early);
    assert!(started(&mut turns, early).is_empty());
    assert_eq!(started(&mut turns, NOW + Duration::from_secs(30)), ["first"]);
}

#[test]
fn a_deletion_waits_neither_for_a_cool_down_nor_for_a_run() {
    let mut turns = Turns::new(1);
    for name in ["first", "second"] {
        turns.update(replication(name).into(), NOW);
    }
    assert_eq!(started(&mut turns, NOW), ["first"]);
    turns.ended("first", &Over::Later(Duration::from_secs(30)), true, NOW);
    assert_eq!(started(&mut turns, NOW), ["second"]);
    turns.update(deleting("first", Phase::Pending).into(), NOW);
    turns.update(deleting("third", Phase::Done).into(), NOW);
    assert_eq!(started(&mut turns, NOW), ["third"], "the only place among the runs is taken");
    assert_eq!(turns.wake_at(), None, "nothing waits for its time");
    turns.ended("second", &Over::Ended, false, NOW);
    assert_eq!(started(&mut turns, NOW), ["first"]);
}

#[test]
fn an_upload_gives_its_place_among_the_runs_to_the_next() {
    let mut turns = Turns::new(1);
    for name in ["first", "second", "third"] {
        turns.update(replication(name).into(), NOW);
    }
    assert_eq!(started(&mut turns, NOW), ["first"]);
    turns.step_aside("first");
    assert_eq!(started(&mut turns, NOW), ["second"]);
    turns.step_aside("first");
    assert_eq!((turns.runs, turns.uploads), (1, 1), "it moved once");

    turns.uploads = MAX_UPLOADS;
    turns.step_aside("second");
    assert!(started(&mut turns, NOW).is_empty(), "without a place aside it keeps its own");
    turns.uploads = 1;
    turns.ended("second", &Over::Ended, false, NOW);
    turns.ended("first", &Over::Ended, false, NOW);
    assert_eq!(started(&mut turns, NOW), ["third"]);
    assert_eq!((turns.runs, turns.uploads), (1, 0));
}

#[test]
fn what_a_new_list_does_not_show_is_gone() {
    let mut turns = Turns::new(1);
    for name in ["first", "second", "third"] {
        turns.update(replication(name).into(), NOW);
    }
    assert_eq!(started(&mut turns, NOW), ["first"]);
    turns.list_begins();
    turns.listed(replication("third").into(), NOW);
    assert_eq!(turns.list_ends(), ["first"], "it is told of its end");
    turns.ended("first", &Over::Ended, false, NOW);
    assert_eq!(started(&mut turns, NOW), ["third"]);
}
