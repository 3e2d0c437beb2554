#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use serde_json::json;

use super::super::fixtures;
use super::*;

use stillpoint_api::{ConsistencyGroupReplication, Mode, Phase, ReplicationStatus};

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

async fn drive(context: Context, object: ConsistencyGroupReplication) -> Over {
    let stub = Stub::of(&object);
    let (_newest, updates) = watch::channel(Some(Arc::new(stub.clone())));
    let (aside, _asides) = mpsc::channel(1);
    Shell::new(context, &stub, updates, aside).drive().await
}

/// Runs over an object with this status as the leader of epoch 5, while everything that is written meets a conflict. Gives the
/// result, and what was asked of the API server.
async fn run_over(status: ReplicationStatus) -> (Over, Vec<(Method, String)>) {
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
    let result = drive(fixtures::context(Client::new(server, "shop"), 5), object).await;
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
    assert!(matches!(result, Over::Failed(_)), "what was stored meanwhile is to be read");
    assert_eq!(asked, [get(), (Method::PUT, format!("{OBJECT}/status"))]);
}

#[tokio::test]
async fn what_a_newer_leader_works_on_is_left_alone() {
    let status = ReplicationStatus { phase: Some(Phase::Checking), attempt: 1, leader_epoch: 6, ..Default::default() };
    let (result, asked) = run_over(status).await;
    assert_eq!((result, asked), (Over::Outranked(6), vec![get()]));
}

/// An API server with one bound claim that no pod mounts. It stores what is put, and gives every status that was stored.
fn server_with_a_claim(object: ConsistencyGroupReplication) -> (Client, mpsc::UnboundedReceiver<ReplicationStatus>) {
    let (store, stored) = mpsc::unbounded_channel();
    let server = Router::new().fallback(move |request: Request| {
        let (store, object) = (store.clone(), object.clone());
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            let list = |items: serde_json::Value| json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
            let claim = json!({"metadata": {"name": "a", "uid": "claim"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
            if method == Method::PUT {
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let put: ConsistencyGroupReplication = serde_json::from_slice(&body).unwrap();
                store.send(put.status.unwrap()).unwrap();
                return (StatusCode::OK, String::from_utf8(body.to_vec()).unwrap());
            }
            match path.rsplit('/').next().unwrap_or_default() {
                "persistentvolumeclaims" => (StatusCode::OK, list(json!([claim]))),
                "pods" => (StatusCode::OK, list(json!([]))),
                "pv" => (StatusCode::OK, json!({"metadata": {"name": "pv"}}).to_string()),
                "nightly" => (StatusCode::OK, serde_json::to_string(&object).unwrap()),
                _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
            }
        }
    });
    (Client::new(server, "shop"), stored)
}

#[tokio::test]
async fn a_leader_that_cannot_be_sure_of_it_gives_up_what_it_has_begun() {
    for (lasts, end) in [(Duration::MAX, Phase::Done), (Duration::ZERO, Phase::Aborted)] {
        let mut object = replication(ReplicationStatus::default());
        object.status = None;
        object.spec.mode = Mode::Check;
        object.spec.replication = None;
        object.metadata.finalizers = Some(vec![stillpoint_api::labels::FINALIZER.to_owned()]);
        let (client, mut stored) = server_with_a_claim(object.clone());
        let mut context = fixtures::context(client, 5);
        context.tenure = fixtures::tenure(5, lasts);
        tokio::time::timeout(Duration::from_secs(10), drive(context, object)).await.unwrap();
        let mut last = None;
        while let Ok(status) = stored.try_recv() {
            last = Some(status);
        }
        let last = last.unwrap();
        assert_eq!((last.phase, last.leader_epoch), (Some(end), 5));
        let reason = if end == Phase::Done { "Done" } else { "ControllerInterrupted" };
        assert!(
            last.conditions.iter().any(|one| one.type_ == "Ready" && one.reason == reason),
            "{:?}",
            last.conditions
        );
    }
}

#[tokio::test]
async fn what_the_api_server_does_not_let_it_read_is_said_and_the_members_are_nobodys() {
    for forbidden in ["pv", "volumesnapshotclasses", "volumesnapshots", "resourcequotas", "pods"] {
        let mut object = replication(ReplicationStatus::default());
        object.status = None;
        let (store, mut stored) = mpsc::unbounded_channel();
        let at_server = object.clone();
        let server = Router::new().fallback(move |request: Request| {
            let (store, object) = (store.clone(), at_server.clone());
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                    std::future::pending::<()>().await;
                }
                let last = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                if last == forbidden {
                    let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                        "message": format!("{forbidden} is forbidden: User cannot"), "reason": "Forbidden"});
                    return (StatusCode::FORBIDDEN, refusal.to_string());
                }
                if request.method() == Method::PUT {
                    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                    let put: ConsistencyGroupReplication = serde_json::from_slice(&body).unwrap();
                    store.send(put.status.unwrap()).unwrap();
                    return (StatusCode::OK, String::from_utf8(body.to_vec()).unwrap());
                }
                let list = |items: serde_json::Value| json!({"metadata": {"resourceVersion": "1"}, "items": items});
                let claim = json!({"metadata": {"name": "a", "uid": "claim"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
                let answer = match &*last {
                    "persistentvolumeclaims" => list(json!([claim])),
                    "pv" => json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}),
                    "nightly" => serde_json::to_value(&object).unwrap(),
                    _ => list(json!([])),
                };
                (StatusCode::OK, answer.to_string())
            }
        });
        let context = fixtures::context(Client::new(server, "shop"), 5);
        let reserved = context.reserved.clone();
        let over = tokio::time::timeout(Duration::from_secs(20), drive(context, object)).await.unwrap();
        assert!(matches!(over, Over::Failed(_)), "{forbidden}: it is tried again, {over:?}");
        let status = stored.try_recv().unwrap_or_else(|_| panic!("{forbidden}: a status"));
        assert_eq!(status.phase, Some(Phase::Pending), "{forbidden}");
        let ready = status.conditions.iter().find(|one| one.type_ == "Ready").unwrap();
        assert!(ready.message.contains(&format!("{forbidden} is forbidden: User cannot")), "{}", ready.message);
        let (_reservation, others) = reserved.reserve(vec!["claim".to_owned()], "another", true);
        assert!(others.is_empty(), "{forbidden}: {others:?}");
    }
}
