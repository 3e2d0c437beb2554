#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::SignedDuration;
use serde_json::json;

use super::super::fixtures;
use super::*;
use crate::api::ReplicationStatus;

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

/// Runs over an object with this status as the leader of epoch 5, while everything that is written meets a conflict. Gives the
/// result, and what was asked of the API server.
async fn run_over(status: ReplicationStatus) -> (anyhow::Result<Option<Duration>>, Vec<(Method, String)>) {
    let object = replication(status);
    let stored = serde_json::to_string(&object).unwrap();
    let (ask, mut asked) = mpsc::unbounded_channel();
    let server = Router::new().fallback(move |request: Request| {
        let (ask, stored) = (ask.clone(), stored.clone());
        async move {
            ask.send((request.method().clone(), request.uri().path().to_owned())).unwrap();
            if request.method() == Method::GET {
                return (StatusCode::OK, stored);
            }
            let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "changed",
                "reason": "Conflict", "code": 409});
            (StatusCode::CONFLICT, conflict.to_string())
        }
    });
    let config = Config { hold_ceiling: Duration::from_secs(30), max_runs: 1, epoch: 5, instance: "test".into() };
    let context = fixtures::context(Client::new(server, "shop"), config);
    let (_newest, updates) = watch::channel(Some(Arc::new(object)));
    let result = replicate(&context, updates, context.places.try_run().unwrap()).await;
    drop(context);
    let mut all = Vec::new();
    while let Ok(one) = asked.try_recv() {
        all.push(one);
    }
    (result, all)
}

const OBJECT: &str = "/apis/stillpoint.io/v1alpha1/namespaces/shop/consistencygroupreplications/nightly";

fn get() -> (Method, String) {
    (Method::GET, OBJECT.to_owned())
}

#[tokio::test]
async fn nothing_is_done_about_an_earlier_leaders_status_before_it_is_claimed() {
    // The earlier leader may be writing Done this very moment: its replicas must not be deleted.
    let status =
        ReplicationStatus { phase: Some(Phase::Replicating), attempt: 1, leader_epoch: 4, ..Default::default() };
    let (result, asked) = run_over(status).await;
    assert!(result.is_err(), "what was stored meanwhile is to be read");
    assert_eq!(asked, [get(), (Method::PUT, format!("{OBJECT}/status"))]);
}

#[tokio::test]
async fn what_a_newer_leader_works_on_is_left_alone() {
    let status = ReplicationStatus { phase: Some(Phase::Checking), attempt: 1, leader_epoch: 6, ..Default::default() };
    let (result, asked) = run_over(status).await;
    assert_eq!((result.unwrap(), asked), (None, vec![get()]));
}

#[tokio::test]
async fn a_cool_down_is_waited_for_and_believed_no_longer_than_it_can_be() {
    let now = Moment { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let left = |seconds: i64, deleting: bool| {
        let next_attempt_at = Some(MicroTime(now.wall + SignedDuration::from_secs(seconds)));
        let mut object = replication(ReplicationStatus { attempt: 1, next_attempt_at, ..Default::default() });
        object.spec.retry = Some(crate::api::Retry { limit: 1, cool_down: Duration::from_secs(60).into() });
        object.metadata.deletion_timestamp = deleting.then(|| Time(now.wall));
        cool_down(&object, now)
    };
    assert_eq!(left(20, false), Some(Duration::from_secs(20)));
    assert_eq!(left(0, false), None);
    assert_eq!(left(-5, false), None, "its time has passed while nobody led");
    assert_eq!(left(86_400, false), Some(Duration::from_secs(60)), "another clock");
    assert_eq!(left(20, true), None, "nobody waits with a deletion");
}
