#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn status(phase: Phase, attempt: u32) -> ReplicationStatus {
    ReplicationStatus { phase: Some(phase), attempt, ..ReplicationStatus::default() }
}

#[test]
fn every_phase_is_kept_and_of_one_phase_only_the_newest() {
    let mut writer = Writer::new(object());
    writer.push(status(Phase::Checking, 1), Vec::new());
    writer.push(status(Phase::Checking, 2), Vec::new());
    writer.push(status(Phase::Ready, 2), Vec::new());
    writer.push(status(Phase::Replicating, 2), Vec::new());
    writer.push(status(Phase::Replicating, 2), Vec::new());
    writer.close();
    let mut written = Vec::new();
    while let Some(write) = writer.step(NOW) {
        let Write::Put(object) = write else { panic!("nothing is to be read") };
        written.extend(object.status.clone());
        writer.stored(Ok(*object), NOW);
    }
    assert_eq!(written, [status(Phase::Checking, 2), status(Phase::Ready, 2), status(Phase::Replicating, 2)]);
    assert!(writer.is_over() && writer.has_written());
}

#[test]
fn a_status_is_not_written_over_somebody_elses() {
    let by = |epoch, phase| ReplicationStatus { leader_epoch: epoch, ..status(phase, 1) };
    let older = by(4, Phase::Checking);
    let cases = [
        ("only the metadata changed", Some(older.clone()), None),
        ("our own, whose answer was lost", Some(by(5, Phase::Checking)), None),
        ("our own end", Some(by(5, Phase::Aborted)), None),
        ("a newer leader", Some(by(6, Phase::Checking)), Some(Lost::Overtaken(6))),
        ("a newer leader has ended it", Some(by(6, Phase::Aborted)), Some(Lost::Overtaken(6))),
        ("the older leader went on meanwhile", Some(by(4, Phase::Ready)), Some(Lost::Changed)),
        ("the older leader has ended it", Some(by(4, Phase::Done)), Some(Lost::Changed)),
        ("somebody took the status away", None, Some(Lost::Changed)),
        ("an end by hand", Some(by(5, Phase::Done)), Some(Lost::Changed)),
    ];
    for (what, stored, expected) in cases {
        let ours = by(5, Phase::Aborted);
        assert_eq!(lost(Some(&older), &ours, stored.as_ref()), expected, "{what}");
    }
    assert_eq!(lost(None, &by(5, Phase::Checking), None), None, "the first status");
}

#[test]
fn a_writer_that_was_overtaken_stops_and_says_so() {
    let mut writer = Writer::new(object());
    writer.push(ReplicationStatus { leader_epoch: 5, ..status(Phase::Checking, 1) }, Vec::new());
    assert!(matches!(writer.step(NOW), Some(Write::Put(_))));
    writer.stored(Err(Refused::Conflict), NOW);
    assert_eq!(writer.step(NOW), Some(Write::Get));
    let mut newest = object();
    newest.status = Some(ReplicationStatus { leader_epoch: 6, ..status(Phase::Checking, 1) });
    writer.read(Ok(Some(newest)), NOW);
    assert_eq!(writer.lost(), Some(Lost::Overtaken(6)));
    writer.push(ReplicationStatus { leader_epoch: 5, ..status(Phase::Aborted, 1) }, Vec::new());
    writer.close();
    assert_eq!((writer.step(NOW), writer.is_over(), writer.lost()), (None, true, Some(Lost::Overtaken(6))), "one try");
}

#[test]
fn one_conflict_after_the_other_is_met_with_growing_pauses() {
    let mut writer = Writer::new(object());
    writer.push(status(Phase::Checking, 1), Vec::new());
    let (mut now, mut pauses) = (NOW, Vec::new());
    for _ in 0..4 {
        assert!(matches!(writer.step(now), Some(Write::Put(_))));
        writer.stored(Err(Refused::Conflict), now);
        let at = writer.wake_at().unwrap();
        pauses.push(at - now);
        now = at;
        assert_eq!(writer.step(now), Some(Write::Get));
        writer.read(Ok(Some(object())), now);
    }
    assert_eq!(pauses[0], Duration::ZERO, "the first is looked into at once");
    assert!(pauses.is_sorted() && pauses[3] > pauses[1], "{pauses:?}");
}

const NOW: Duration = Duration::from_secs(1);

fn object() -> ConsistencyGroupReplication {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "mode": "Check"},
    }))
    .unwrap()
}
