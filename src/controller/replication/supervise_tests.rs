#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::Router;
use axum::http::{Method, Request};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::super::{Config, fixtures, places::Places};
use super::*;

fn replication(name: &str) -> ConsistencyGroupReplication {
    serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "mode": "Check"},
    }))
    .unwrap()
}

/// A supervisor whose API server never answers a read, and gives the path of every status that is written.
fn supervisor(max_runs: usize) -> (Supervisor, mpsc::Receiver<String>) {
    let (write, written) = mpsc::channel(16);
    let server = Router::new().fallback(move |request: Request<axum::body::Body>| {
        let write = write.clone();
        async move {
            if request.method() == Method::PUT {
                write.send(request.uri().path().to_owned()).await.unwrap();
            }
            std::future::pending::<()>().await;
        }
    });
    let client = kube::Client::new(server, "shop");
    let config = Config { hold_ceiling: Duration::from_secs(30), max_runs, epoch: 1, instance: "test".into() };
    (Supervisor::new(fixtures::context(client, config), Endings::new().0), written)
}

#[tokio::test]
async fn a_run_beyond_the_limit_waits_and_says_so_once() {
    let now = Instant::now();
    let (mut supervisor, mut written) = supervisor(1);
    for name in ["first", "second", "third"] {
        supervisor.update(replication(name), now);
    }
    for _ in 0..3 {
        supervisor.start_waiting(now);
    }
    assert_eq!((supervisor.tasks.len(), supervisor.queue.len()), (1, 2));
    let mut paths = [written.recv().await.unwrap(), written.recv().await.unwrap()];
    paths.sort();
    assert!(paths[0].ends_with("/second/status") && paths[1].ends_with("/third/status"), "{paths:?}");

    supervisor.ended(Ok(("first".into(), Ok(None))), now);
    supervisor.gone("first");
    supervisor.context.places = Places::new(1);
    supervisor.start_waiting(now);
    assert_eq!((supervisor.tasks.len(), supervisor.queue.len()), (2, 1));
    assert!(written.try_recv().is_err(), "nothing is said twice");
}

#[tokio::test]
async fn a_run_that_panics_is_tried_again() {
    let now = Instant::now();
    let (mut supervisor, _written) = supervisor(1);
    supervisor.update(replication("first"), now);
    supervisor.start_waiting(now);
    let result = contained(async { panic!("as a bug would") }).await;
    supervisor.ended(Ok(("first".into(), result)), now);
    let entry = &supervisor.entries["first"];
    assert!(matches!(entry.turn, Turn::Later(at) if at > now));
    assert_eq!(entry.failures, 1);
}

#[tokio::test]
async fn another_attempt_begins_when_its_time_has_come_and_no_sooner() {
    let now = Instant::now();
    let (mut supervisor, _written) = supervisor(1);
    let running = |supervisor: &Supervisor| supervisor.entries["first"].turn == Turn::Running;
    supervisor.update(replication("first"), now);
    supervisor.start_waiting(now);
    assert!(running(&supervisor));
    supervisor.ended(Ok(("first".into(), Ok(Some(Duration::from_secs(30))))), now);
    supervisor.context.places = Places::new(1);
    // An update of the object, such as of its labels, brings nothing forward.
    let early = now + Duration::from_secs(29);
    supervisor.update(replication("first"), early);
    supervisor.start_waiting(early);
    assert!(!running(&supervisor));
    supervisor.start_waiting(now + Duration::from_secs(30));
    assert!(running(&supervisor));
}

#[tokio::test]
async fn a_deletion_waits_neither_for_a_cool_down_nor_for_a_run() {
    let now = Instant::now();
    let (mut supervisor, _written) = supervisor(1);
    for name in ["first", "second"] {
        supervisor.update(replication(name), now);
    }
    supervisor.start_waiting(now);
    supervisor.ended(Ok(("first".into(), Ok(Some(Duration::from_secs(30))))), now);
    let deleting = |name: &str, phase| {
        let mut object = replication(name);
        object.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        object.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
        object.status = Some(ReplicationStatus { phase: Some(phase), ..ReplicationStatus::default() });
        object
    };
    supervisor.update(deleting("first", Phase::Pending), now);
    assert_eq!(supervisor.entries["first"].turn, Turn::Queued);
    supervisor.update(deleting("third", Phase::Done), now);
    supervisor.start_waiting(now);
    assert_eq!(supervisor.entries["third"].turn, Turn::Running, "the only place among the runs is taken");
    assert_eq!(supervisor.entries["first"].turn, Turn::Queued);
    assert!(supervisor.later.is_empty());
}
