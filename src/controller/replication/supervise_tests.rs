#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Instant;

use axum::Router;
use axum::http::{Method, Request};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::{Config, events::Events, runs::Taken};
use super::*;
use crate::controller::sessions::Sessions;

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
    let context = Context {
        events: Events::start(client.clone(), config.instance.clone()),
        client,
        sessions: Sessions::default(),
        config: Arc::new(config),
        taken: Taken::default(),
        started: Instant::now(),
        shutdown: CancellationToken::new(),
    };
    (Supervisor::new(context, Endings::new().0), written)
}

#[tokio::test]
async fn a_run_beyond_the_limit_waits_and_says_so_once() {
    let (mut supervisor, mut written) = supervisor(1);
    for name in ["first", "second", "third"] {
        supervisor.update(replication(name));
    }
    for _ in 0..3 {
        supervisor.start_waiting();
    }
    assert_eq!((supervisor.tasks.len(), supervisor.queue.len()), (1, 2));
    let mut paths = [written.recv().await.unwrap(), written.recv().await.unwrap()];
    paths.sort();
    assert!(paths[0].ends_with("/second/status") && paths[1].ends_with("/third/status"), "{paths:?}");

    supervisor.ended(Ok(("first".into(), Ok(()))));
    supervisor.gone("first");
    supervisor.context.config = Arc::new(Config { max_runs: 2, ..(*supervisor.context.config).clone() });
    supervisor.start_waiting();
    assert_eq!((supervisor.tasks.len(), supervisor.queue.len()), (2, 1));
    assert!(written.try_recv().is_err(), "nothing is said twice");
}

#[tokio::test]
async fn a_run_that_panics_is_tried_again() {
    let (mut supervisor, _written) = supervisor(1);
    supervisor.update(replication("first"));
    supervisor.start_waiting();
    let result = contained(async { panic!("as a bug would") }).await;
    supervisor.ended(Ok(("first".into(), result)));
    let entry = &supervisor.entries["first"];
    assert_eq!((entry.running, entry.queued, entry.failures), (false, true, 1));
}
