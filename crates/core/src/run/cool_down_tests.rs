#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use stillpoint_api::Phase;

use super::*;

/// What a driver says that reads a status which was stored after an attempt, so many seconds before or after the end of the
/// cool-down.
fn after_an_attempt(phase: Phase, next: Option<i64>) -> Over {
    let now = Moment { monotonic: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };
    let mut object: ConsistencyGroupReplication = serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "replication": {"volumeSnapshot": {}}},
        "status": {"phase": phase, "attempt": 1, "leaderEpoch": 5},
    }))
    .unwrap();
    let next = next.map(|seconds| MicroTime(now.wall + SignedDuration::from_secs(seconds)));
    object.status.as_mut().unwrap().next_attempt_at = next;
    let mut driver = Driver::new(Settings { epoch: 5, hold_ceiling: Duration::from_secs(30) }, "uid");
    driver.life = Life::ReadingAgain;
    driver.hear(Input::Object(Ok(Some(Box::new(object)))), now);
    driver.over().unwrap().clone()
}

#[test]
fn a_cool_down_that_is_over_when_it_is_stored_is_no_end() {
    assert_eq!(after_an_attempt(Phase::Pending, Some(20)), Over::Later(Duration::from_secs(20)));
    assert_eq!(after_an_attempt(Phase::Pending, Some(-5)), Over::Later(Duration::ZERO));
    assert_eq!(after_an_attempt(Phase::Aborted, None), Over::Ended);
    assert_eq!(
        after_an_attempt(Phase::Replicating, None),
        Over::Ended,
        "a controller that stops leaves it to the next"
    );
}
