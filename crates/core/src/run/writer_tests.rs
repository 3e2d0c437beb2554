#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn status(phase: Phase, attempt: u32) -> ReplicationStatus {
    ReplicationStatus { phase: Some(phase), attempt, ..ReplicationStatus::default() }
}

#[tokio::test]
async fn every_phase_is_kept_and_of_one_phase_only_the_newest() {
    let queue = Queue::default();
    queue.push(status(Phase::Checking, 1));
    queue.push(status(Phase::Checking, 2));
    queue.push(status(Phase::Ready, 2));
    queue.push(status(Phase::Replicating, 2));
    queue.push(status(Phase::Replicating, 2));
    queue.lock().closed = true;
    assert_eq!(queue.next().await, Some(status(Phase::Checking, 2)));
    assert!(queue.has_later(Some(Phase::Checking)));
    assert_eq!(queue.newer(Some(Phase::Checking)), None);
    assert_eq!(queue.next().await, Some(status(Phase::Ready, 2)));
    assert_eq!(queue.next().await, Some(status(Phase::Replicating, 2)));
    assert_eq!(queue.next().await, None);
}

#[test]
fn a_status_is_not_written_over_somebody_elses() {
    let by = |epoch, phase| ReplicationStatus { leader_epoch: epoch, ..status(phase, 1) };
    let older = by(4, Phase::Checking);
    let cases = [
        ("only the metadata changed", Some(older.clone()), None),
        ("our own, whose answer was lost", Some(by(5, Phase::Checking)), None),
        ("our own end", Some(by(5, Phase::Aborted)), None),
        ("a newer leader", Some(by(6, Phase::Checking)), Some(Lost::Overtaken)),
        ("a newer leader has ended it", Some(by(6, Phase::Aborted)), Some(Lost::Overtaken)),
        ("the older leader went on meanwhile", Some(by(4, Phase::Ready)), Some(Lost::Changed)),
        ("the older leader has ended it", Some(by(4, Phase::Done)), Some(Lost::Changed)),
        ("somebody took the status away", None, Some(Lost::Changed)),
        ("an end by hand", Some(by(5, Phase::Done)), Some(Lost::Changed)),
    ];
    for (what, stored, expected) in cases {
        let ours = by(5, Phase::Aborted);
        assert_eq!(lost(Some(&older), Some(&ours), stored.as_ref()), expected, "{what}");
    }
    assert_eq!(lost(None, Some(&by(5, Phase::Checking)), None), None, "the first status");
}

/// An API server that stores an object whose status a newer leader has written, and counts what is put there.
#[tokio::test]
async fn a_writer_that_was_overtaken_stops_and_says_so() {
    let (write, mut written) = tokio::sync::mpsc::unbounded_channel();
    let server = axum::Router::new().fallback(move |request: axum::http::Request<axum::body::Body>| {
        let write = write.clone();
        async move {
            if request.method() == axum::http::Method::PUT {
                write.send(()).unwrap();
                let conflict = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "changed", "reason": "Conflict", "code": 409});
                return (axum::http::StatusCode::CONFLICT, conflict.to_string());
            }
            let mut newest = object();
            newest.status = Some(ReplicationStatus { leader_epoch: 6, ..status(Phase::Checking, 1) });
            (axum::http::StatusCode::OK, serde_json::to_string(&newest).unwrap())
        }
    });
    let client = Client::new(server, "shop");
    let writer = StatusWriter::start(client.clone(), Events::start(client, "test".into()), object());
    writer.push(ReplicationStatus { leader_epoch: 5, ..status(Phase::Checking, 1) });
    let lost = tokio::time::timeout(std::time::Duration::from_secs(10), writer.lost()).await;
    assert_eq!(lost.unwrap(), Lost::Overtaken);
    writer.push(ReplicationStatus { leader_epoch: 5, ..status(Phase::Aborted, 1) });
    assert_eq!(writer.finish().await, Some(Lost::Overtaken));
    assert_eq!((written.recv().await, written.recv().await), (Some(()), None), "one try, and no more");
}

fn object() -> ConsistencyGroupReplication {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "mode": "Check"},
    }))
    .unwrap()
}
