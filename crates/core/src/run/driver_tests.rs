#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use stillpoint_api::ReplicationStatus;

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
