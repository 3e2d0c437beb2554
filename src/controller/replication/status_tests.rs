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
fn a_final_phase_is_not_written_over() {
    let with = |phase| {
        let mut object =
            ConsistencyGroupReplication::new("x", serde_json::from_value(serde_json::json!({"source": {}})).unwrap());
        object.status = Some(status(phase, 1));
        object
    };
    assert!(ended_otherwise(&with(Phase::Aborted), Some(Phase::Ready)));
    assert!(!ended_otherwise(&with(Phase::Done), Some(Phase::Done)));
    assert!(!ended_otherwise(&with(Phase::Checking), Some(Phase::Aborted)));
}
