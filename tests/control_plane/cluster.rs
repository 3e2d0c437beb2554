//! The picture of the cluster, painted by a real API server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use stillpoint::controller::cluster::{Cluster, Follower};
use stillpoint_api::labels;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::replica::KINDS;
use stillpoint_core::run::effect::{Input, Interest};

use crate::fixture::{DEADLINE, Fixture, SYSTEM_NAMESPACE, connect};
use crate::objects::{running_pod, unbound_claim};

/// More than one page of a list.
const MANY: usize = 300;

/// The requests of a client: `LIST pods`, `WATCH pods`.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<Vec<String>>>);

impl Counted {
    /// A client that does as this one, and is counted.
    fn client(&self, client: &Client) -> Client {
        let (counted, client) = (self.clone(), client.clone());
        let pass_on = move |request: Request| {
            let (counted, client) = (counted.clone(), client.clone());
            async move { counted.pass_on(&client, request).await }
        };
        Client::new(Router::new().fallback(pass_on), "default")
    }

    async fn pass_on(&self, client: &Client, request: Request) -> Response {
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default();
        let verb =
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) { "WATCH" } else { "LIST" };
        self.0.lock().expect("no test panics while it counts").push(format!("{verb} {resource}"));
        let (parts, _) = request.into_parts();
        match client.send(axum::http::Request::from_parts(parts, kube::client::Body::empty())).await {
            Ok(answer) => answer.map(Body::new),
            Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().expect("no test panics while it counts").iter().filter(|one| *one == what).count()
    }
}

async fn fixture(name: &str) -> Fixture {
    Fixture::with(connect().await, name, Vec::new(), SYSTEM_NAMESPACE.to_owned()).await
}

/// What concerns a run over this claim.
fn interest(claim: &PersistentVolumeClaim) -> Interest {
    Interest { claims: [(claim.uid().expect("a UID"), claim.name_any())].into(), replicas: Some(KINDS[0]) }
}

/// The next change that is so.
async fn next(follower: &mut Follower, is: impl Fn(&Input) -> bool) -> Input {
    let found = async {
        loop {
            if let Some(change) = follower.next().await.into_iter().find(&is) {
                return change;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("the change is told in time")
}

#[tokio::test]
async fn fresh_facts_have_what_was_stored_the_moment_before() {
    let fixture = fixture("fresh").await;
    let counted = Counted::default();
    let namespace = Cluster::new(counted.client(&fixture.client), "stillpoint-system").namespace(&fixture.namespace);
    let claim = unbound_claim(&fixture, "data", json!({})).await;
    let uid = claim.uid().expect("a UID");
    namespace.fresh().await.expect("facts");
    let before = counted.count("LIST persistentvolumeclaims") + counted.count("LIST pods");
    for round in 0..20 {
        let label = Patch::Merge(json!({"metadata": {"labels": {"round": round.to_string()}}}));
        let claims = fixture.api::<PersistentVolumeClaim>();
        claims.patch("data", &PatchParams::default(), &label).await.expect("a label");
        let pod = running_pod(&fixture, &format!("pod-{round}"), "data", json!([])).await;
        let begun = std::time::Instant::now();
        let facts = namespace.fresh().await.expect("facts");
        // The API server sends one a minute, however slow this machine is.
        assert!(begun.elapsed() < Duration::from_secs(20), "no bookmark was waited for: {:?}", begun.elapsed());
        assert_eq!(facts.claims[&uid].labels["round"], round.to_string());
        let pod = facts.pods.get(&pod.uid().expect("a UID")).expect("the pod is there");
        assert!(pod.running, "its last state is known");
        assert_eq!(facts.pods.values().filter(|pod| pod.claims.contains("data")).count(), round + 1);
    }
    let after = counted.count("LIST persistentvolumeclaims") + counted.count("LIST pods");
    assert_eq!(after - before, 2 * 20, "one request of each kind");
    assert_eq!(counted.count("WATCH pods"), 2, "one of them is that of the node agents");
}

#[tokio::test]
async fn many_handles_have_one_watch_of_each_kind_and_each_hears_of_its_own() {
    let fixture = fixture("shared").await;
    let claim = unbound_claim(&fixture, "data", json!({})).await;
    let counted = Counted::default();
    let cluster = Cluster::new(counted.client(&fixture.client), "stillpoint-system");
    let handles: Vec<_> = (0..30).map(|_| cluster.namespace(&fixture.namespace)).collect();
    futures::future::try_join_all(handles.iter().map(|namespace| namespace.fresh())).await.expect("facts");
    handles[0].refresh_replicas().await.expect("replicas");
    let (mine, another) = (&fixture.namespace, format!("{}-another", fixture.namespace));
    let mut followers: Vec<_> = handles.iter().map(|namespace| namespace.follow(&another, &interest(&claim))).collect();
    let mut follower = handles[0].follow(mine, &interest(&claim));

    let pod = running_pod(&fixture, "database", "data", json!([])).await;
    for each in followers.iter_mut().chain([&mut follower]) {
        next(each, |change| matches!(change, Input::Pod(_, Some(pod)) if pod.running)).await;
    }
    fixture
        .create::<VolumeSnapshot>(json!({
            "metadata": {"name": "cut", "labels": {labels::REPLICATION_UID: mine}},
            "spec": {"source": {"persistentVolumeClaimName": "data"}},
        }))
        .await;
    next(&mut follower, |change| matches!(change, Input::Replica(name, Some(_)) if name.name == "cut")).await;
    fixture.api::<VolumeSnapshot>().delete("cut", &DeleteParams::default()).await.expect("it is deleted");
    next(&mut follower, |change| matches!(change, Input::Replica(name, None) if name.name == "cut")).await;

    // A pod that has finished can write no more, and the API server does not tell of it any more.
    let finished = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    let pods = fixture.api::<Pod>();
    pods.patch_status("database", &PatchParams::default(), &finished).await.expect("it finishes");
    let uid = pod.uid().expect("a UID");
    for each in followers.iter_mut().chain([&mut follower]) {
        let gone = next(each, |change| !matches!(change, Input::Pod(_, Some(_)))).await;
        assert!(matches!(&gone, Input::Pod(of, None) if *of == uid), "{gone:?}");
    }
    for (kind, watches) in [("persistentvolumeclaims", 1), ("volumesnapshots", 1), ("pods", 2)] {
        assert_eq!(
            counted.count(&format!("WATCH {kind}")),
            watches,
            "{kind}; one of those of pods is that of the node agents"
        );
    }
    assert!(counted.count("LIST pods") <= 4, "thirty calls at once share their lists");
}

#[tokio::test]
async fn a_pod_is_told_of_when_it_gets_a_node() {
    let fixture = fixture("node").await;
    let claim = unbound_claim(&fixture, "data", json!({})).await;
    let namespace = Cluster::new(fixture.client.clone(), "stillpoint-system").namespace(&fixture.namespace);
    let stray = fixture
        .create::<Pod>(json!({
            "metadata": {"name": "stray"},
            "spec": {
                "containers": [{"name": "stray", "image": "stray"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            },
        }))
        .await;
    let uid = stray.uid().expect("a UID");
    let facts = namespace.fresh().await.expect("facts");
    assert!(facts.pods.is_empty(), "it writes nothing: {:?}", facts.pods);
    let mut follower = namespace.follow("run", &interest(&claim));
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "stray"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
    });
    let pods = fixture.api::<Pod>();
    let bound: Result<serde_json::Value, _> =
        pods.create_subresource("binding", "stray", &PostParams::default(), &binding).await;
    bound.expect("it gets a node");
    let told = next(&mut follower, |change| matches!(change, Input::Pod(..))).await;
    assert!(matches!(&told, Input::Pod(of, Some(pod)) if *of == uid && pod.node.is_some()), "{told:?}");
    assert!(namespace.fresh().await.expect("facts").pods.contains_key(&uid));
}

#[tokio::test]
async fn a_large_namespace_is_read_page_by_page() {
    let fixture = fixture("large").await;
    let names = stream::iter((0..MANY).map(|number| format!("data-{number}")));
    names.for_each_concurrent(16, async |name| drop(unbound_claim(&fixture, &name, json!({})).await)).await;
    let counted = Counted::default();
    let namespace = Cluster::new(counted.client(&fixture.client), "stillpoint-system").namespace(&fixture.namespace);
    let facts = namespace.fresh().await.expect("facts");
    assert_eq!(facts.claims.len(), MANY);
    assert!(counted.count("LIST persistentvolumeclaims") >= 2);
    // A second page is needed only when the watch does not know yet; either way the newest is there.
    unbound_claim(&fixture, "last", json!({})).await;
    let facts = namespace.fresh().await.expect("facts");
    assert!(facts.claims.values().any(|claim| claim.name == "last"));
    assert_eq!(facts.claims.len(), MANY + 1);
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_the_words_of_the_api_server() {
    let fixture = fixture("refused").await;
    let mut config = Config::infer().await.expect("KUBECONFIG names an API server");
    config.auth_info.impersonate = Some("nobody-in-particular".to_owned());
    let client = Client::try_from(config).expect("a client");
    let refused =
        Cluster::new(client, "stillpoint-system").namespace(&fixture.namespace).fresh().await.expect_err("a refusal");
    let sentence = format!("{refused:#}");
    let begins =
        ["claims", "pods"].map(|what| format!("the {what} of namespace {} could not be read: ", fixture.namespace));
    assert!(begins.iter().any(|begin| sentence.starts_with(begin)), "{sentence}");
    assert!(sentence.contains(r#"is forbidden: User "nobody-in-particular" cannot list resource"#), "{sentence}");
}
