#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use axum::http::StatusCode;
use futures::FutureExt;
use futures::future::join_all;
use kube::ResourceExt;
use serde_json::json;

use super::fixtures::{CLAIMS, FakeApi, PODS, SNAPSHOTS, claim, pod, snapshot, soon};
use super::*;
use stillpoint_core::replica::KINDS;
use stillpoint_core::run::effect::Input;

/// A namespace of which both watches have begun.
async fn watched(api: &FakeApi) -> (Cluster, Namespace) {
    let cluster = Cluster::new(api.client(), "stillpoint-system");
    let shop = cluster.namespace("shop");
    shop.fresh().await.unwrap();
    for kind in [CLAIMS, PODS, SNAPSHOTS] {
        api.asked(&format!("WATCH {kind}"), 1).await;
    }
    (cluster, shop)
}

/// What concerns a run over `data`.
fn interest() -> Interest {
    Interest { claims: [("uid-data".to_owned(), "data".to_owned())].into(), replicas: Some(KINDS[0]) }
}

/// The kind and the name or UID of each object that changed, `-` before those that are gone.
fn names(changes: &[Input]) -> Vec<String> {
    let name = |kind: &str, name: &str, there: bool| format!("{}{kind} {name}", if there { "" } else { "-" });
    let one = |change: &Input| match change {
        Input::Claim(uid, claim) => name("claim", uid, claim.is_some()),
        Input::Pod(uid, pod) => name("pod", uid, pod.is_some()),
        Input::Replica(of, replica) => name("replica", &of.name, replica.is_some()),
        other => panic!("nobody watches that: {other:?}"),
    };
    changes.iter().map(one).collect()
}

/// Names of the pods that mount a claim.
fn mounting<'a>(facts: &'a Facts, claim: &str) -> Vec<&'a str> {
    facts.pods.values().filter(|pod| pod.claims.contains(claim)).map(|pod| pod.name.as_str()).collect()
}

#[tokio::test]
async fn each_kind_is_watched_once_whatever_the_handles() {
    let api = FakeApi::new();
    let (cluster, shop) = watched(&api).await;
    let handles: Vec<_> = (0..20).map(|_| cluster.namespace("shop")).collect();
    let _followers: Vec<_> = handles.iter().map(|shop| shop.follow("uid", &interest())).collect();
    let mut every = cluster.every_replica();
    join_all(handles.iter().map(Namespace::fresh)).await;
    api.put(SNAPSHOTS, snapshot("shop", "cut", "uid"));
    soon(every.next()).await;
    shop.fresh().await.unwrap();
    for kind in [CLAIMS, PODS, SNAPSHOTS] {
        assert_eq!(api.count(&format!("WATCH {kind}")), 1, "{kind}");
    }
    // The first of each, one for the first call, one that twenty shared that came while it was under way, and the last.
    for kind in [CLAIMS, PODS] {
        assert!(api.count(&format!("LIST {kind}")) <= 5, "{kind}: {}", api.count(&format!("LIST {kind}")));
    }
}

#[tokio::test]
async fn watches_end_with_their_last_handle() {
    let api = FakeApi::new();
    let (cluster, shop) = watched(&api).await;
    let mut follower = shop.follow("uid", &interest());
    let another = shop.clone();
    drop(shop);
    drop(another);
    assert!(api.is_watched(CLAIMS) && api.is_watched(PODS), "a follower is a handle");
    follower.stop_pods_and_claims();
    api.abandoned(&[CLAIMS, PODS]).await;
    assert!(api.is_watched(SNAPSHOTS));
    api.put(SNAPSHOTS, snapshot("shop", "cut", "uid"));
    assert_eq!(names(&soon(follower.next()).await), ["replica cut"]);
    drop(follower);
    api.abandoned(&[SNAPSHOTS]).await;
    let shop = cluster.namespace("shop");
    shop.fresh().await.unwrap();
    api.asked("WATCH pods", 2).await;
}

#[tokio::test]
async fn a_run_is_woken_for_its_own_members_only() {
    let api = FakeApi::new();
    api.put(CLAIMS, claim("data", None));
    api.put(PODS, pod("database", Some("data"), "Running"));
    let (_cluster, shop) = watched(&api).await;
    let mut run = shop.follow("uid", &interest());
    let first = soon(run.next()).await;
    assert_eq!(names(&first), ["claim uid-data", "pod uid-database"]);

    let mut other = shop.follow(
        "another",
        &Interest { claims: [("uid-logs".to_owned(), "logs".to_owned())].into(), replicas: Some(KINDS[0]) },
    );
    assert_eq!(names(&soon(other.next()).await), ["-claim uid-logs"], "a member that is not there is said so");
    api.put(CLAIMS, claim("logs", None));
    assert_eq!(names(&soon(other.next()).await), ["claim uid-logs"]);
    api.put(PODS, pod("logger", Some("logs"), "Running"));
    assert_eq!(names(&soon(other.next()).await), ["pod uid-logger"]);
    for (namespace, name) in [("elsewhere", "theirs"), ("shop", "cut")] {
        api.put(SNAPSHOTS, snapshot(namespace, name, "another"));
    }
    assert_eq!(names(&soon(other.next()).await), ["replica cut"]);
    assert!(run.next().now_or_never().is_none(), "nothing of this concerns it");

    api.put(PODS, pod("database", Some("data"), "Running"));
    api.put(PODS, pod("second", Some("data"), "Pending"));
    assert_eq!(names(&soon(run.next()).await), ["pod uid-second"], "the other is as it was");
    api.delete(PODS, pod("second", Some("data"), "Running"));
    assert_eq!(names(&soon(run.next()).await), ["-pod uid-second"]);
}

#[tokio::test]
async fn pods_without_claims_and_finished_ones_are_not_kept() {
    let api = FakeApi::new();
    api.put(PODS, pod("web", None, "Running"));
    api.put(PODS, pod("backup", Some("data"), "Succeeded"));
    api.put(PODS, pod("database", Some("data"), "Running"));
    let (_cluster, shop) = watched(&api).await;
    let mut run = shop.follow("uid", &interest());
    soon(run.next()).await;
    api.put(PODS, pod("cache", None, "Running"));
    api.put(PODS, pod("job", Some("data"), "Running"));
    assert_eq!(names(&soon(run.next()).await), ["pod uid-job"]);
    let facts = shop.fresh().await.unwrap();
    assert_eq!(facts.pods.keys().collect::<Vec<_>>(), ["uid-database", "uid-job"]);
    assert_eq!(mounting(&facts, "data"), ["database", "job"]);
    assert!(mounting(&facts, "other").is_empty());
}

#[tokio::test]
async fn fresh_facts_have_what_was_stored_a_moment_ago_although_the_watches_lag() {
    let api = FakeApi::new();
    api.put(CLAIMS, claim("data", None));
    let (_cluster, shop) = watched(&api).await;
    let mut run = shop.follow("uid", &interest());
    soon(run.next()).await;
    api.lag(true);
    api.put(CLAIMS, claim("data", Some("shop")));
    api.put(PODS, pod("gone-again", Some("data"), "Running"));
    api.put(PODS, pod("database", Some("data"), "Running"));
    api.delete(PODS, pod("gone-again", Some("data"), "Running"));
    assert!(shop.facts().claims["uid-data"].labels.is_empty(), "nobody has told of it");
    let before = (api.count("LIST pods"), api.count("LIST persistentvolumeclaims"));
    let facts = shop.fresh().await.unwrap();
    assert_eq!(facts.claims["uid-data"].labels["group"], "shop");
    assert_eq!(facts.pods.keys().collect::<Vec<_>>(), ["uid-database"]);
    let after = (api.count("LIST pods"), api.count("LIST persistentvolumeclaims"));
    assert_eq!(after, (before.0 + 1, before.1 + 1), "one request each");
    assert_eq!(names(&soon(run.next()).await), ["claim uid-data", "pod uid-database"]);

    // What the watch tells late is known, and a pod that went meanwhile does not come back.
    api.lag(false);
    api.put(PODS, pod("second", Some("data"), "Running"));
    assert_eq!(names(&soon(run.next()).await), ["pod uid-second"]);
    assert_eq!(shop.facts().pods.len(), 2);
}

#[tokio::test]
async fn a_large_namespace_is_read_in_pages_until_the_watch_has_told_as_much() {
    let api = FakeApi::new();
    for number in 0..10 {
        api.put(PODS, pod(&format!("pod-{number}"), Some("data"), "Running"));
    }
    api.page(2);
    let (_cluster, shop) = watched(&api).await;
    assert_eq!(shop.facts().pods.len(), 10);
    let before = api.count("LIST pods");
    api.lag(true);
    api.put(PODS, pod("pod-10", Some("data"), "Running"));
    assert_eq!(shop.fresh_pods(&interest()).await.unwrap().len(), 11);
    assert_eq!(api.count("LIST pods"), before + 6, "the watch is silent: all pages");
    api.lag(false);
    assert_eq!(shop.fresh_pods(&interest()).await.unwrap().len(), 11);
    assert_eq!(api.count("LIST pods"), before + 7, "nothing has happened since: one page says so");
}

#[tokio::test]
async fn a_list_after_too_long_a_silence_removes_what_has_vanished() {
    let api = FakeApi::new();
    api.put(CLAIMS, claim("data", None));
    api.put(PODS, pod("database", Some("data"), "Running"));
    let (_cluster, shop) = watched(&api).await;
    let mut run = shop.follow("uid", &interest());
    soon(run.next()).await;
    api.lag(true);
    api.delete(PODS, pod("database", Some("data"), "Running"));
    api.put(PODS, pod("successor", Some("data"), "Running"));
    api.lag(true);
    api.forget();
    assert_eq!(names(&soon(run.next()).await), ["-pod uid-database", "pod uid-successor"]);
    assert!(run.next().now_or_never().is_none(), "the claim is as it was");
    assert_eq!(shop.facts().pods.keys().collect::<Vec<_>>(), ["uid-successor"]);
}

#[tokio::test]
async fn a_cluster_that_went_back_in_its_history_is_believed() {
    let api = FakeApi::new();
    for _ in 0..50 {
        api.put(CLAIMS, claim("data", Some("shop")));
    }
    let (_cluster, shop) = watched(&api).await;
    let mut run = shop.follow("uid", &interest());
    soon(run.next()).await;
    api.rewind(20);
    api.put(CLAIMS, claim("data", Some("restored")));
    assert_eq!(shop.fresh().await.unwrap().claims["uid-data"].labels["group"], "restored");
    soon(run.next()).await;
    api.asked("WATCH persistentvolumeclaims", 2).await;
    api.put(CLAIMS, claim("data", Some("again")));
    assert_eq!(names(&soon(run.next()).await), ["claim uid-data"], "the watch was begun again, from there");
}

#[tokio::test]
async fn a_refusal_is_one_sentence_that_names_the_namespace() {
    let api = FakeApi::new();
    let says = "persistentvolumeclaims is forbidden: User \"stillpoint\" cannot list resource";
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": says, "code": 403});
    api.refuse(Some((CLAIMS, StatusCode::FORBIDDEN, &status.to_string())));
    let error = Cluster::new(api.client(), "stillpoint-system").namespace("shop").fresh().await.err().unwrap();
    assert_eq!(format!("{error:#}"), format!("the claims of namespace shop could not be read: {says}"));
}

#[tokio::test]
async fn without_the_snapshot_api_there_are_no_replicas_until_it_is_there() {
    let api = FakeApi::new();
    // What kube-apiserver says of a group that nobody serves: not a Status object.
    api.refuse(Some((SNAPSHOTS, StatusCode::NOT_FOUND, "404 page not found\n")));
    api.put(SNAPSHOTS, snapshot("shop", "cut", "uid"));
    api.put(SNAPSHOTS, snapshot("shop-2", "theirs", "uid"));
    api.put(SNAPSHOTS, snapshot("shopping", "more", "uid"));
    let cluster = Cluster::new(api.client(), "stillpoint-system");
    let (shop, mut every) = (cluster.namespace("shop"), cluster.every_replica());
    shop.refresh_replicas().await.unwrap();
    assert!(shop.follow("uid", &interest()).facts().replicas.is_empty());
    assert!(every.next().now_or_never().is_none());
    api.refuse(None);
    shop.refresh_replicas().await.unwrap();
    let replicas: Vec<_> = shop.follow("uid", &interest()).facts().replicas.into_iter().collect();
    assert_eq!(
        replicas.iter().map(|(name, _)| &*name.name).collect::<Vec<_>>(),
        ["cut"],
        "and none of another namespace"
    );
    assert_eq!(replicas[0].1.metadata.managed_fields, None);
    let heard: Vec<_> = soon(every.next()).await.iter().map(|(_, replica)| replica.name_any()).collect();
    assert_eq!(heard, ["theirs", "cut", "more"]);
}
