#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::jiff::Timestamp;

use super::super::stub::Progress;
use super::*;

const NOW: Duration = Duration::from_secs(100);

fn replication(name: &str) -> Stub {
    Stub { namespace: "shop".to_owned(), name: name.to_owned(), uid: name.to_owned(), ..Stub::default() }
}

fn deleting(name: &str, phase: Phase) -> Stub {
    let progress = Some(Progress { phase: Some(phase), ..Progress::default() });
    Stub { deleting: true, guarded: true, is_to_be_let_go: true, progress, ..replication(name) }
}

/// Starts all that can be started; gives their names.
fn started(turns: &mut Turns, now: Duration) -> Vec<String> {
    std::iter::from_fn(|| turns.start(now)).map(|object| object.name.clone()).collect()
}

/// Those of whom it is said that they wait.
fn said(turns: &mut Turns) -> Vec<String> {
    let now = Moment { monotonic: NOW, wall: Timestamp::UNIX_EPOCH };
    std::iter::from_fn(|| turns.waits(1, now)).map(|(object, _)| object.name.clone()).collect()
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
        object.is_to_be_let_go = true;
        object.progress = Some(Progress { phase: Some(Phase::Failed), ..Progress::default() });
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
fn one_whose_object_cannot_be_read_is_said_to_wait_once_for_each_cause() {
    let mut turns = Turns::new(1);
    turns.update(replication("first").into(), NOW);
    let now = |at| Moment { monotonic: at, wall: Timestamp::UNIX_EPOCH };
    let (mut at, mut said) = (NOW, Vec::new());
    for why in ["one", "one", "one", "another", "another"] {
        assert_eq!(started(&mut turns, at), ["first"]);
        turns.ended("first", &Over::Failed(why.into()), true, at);
        said.push(turns.waits(1, now(at)).map(|(_, status)| status.conditions[0].message.clone()));
        at = turns.wake_at().unwrap();
    }
    let said: Vec<_> = said.iter().map(|one| one.as_deref().map(|one| one.split(';').next().unwrap())).collect();
    assert_eq!(
        said,
        [None, Some("one"), None, Some("another"), None],
        "after the first failure its run may have said it"
    );
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
