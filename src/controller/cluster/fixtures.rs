//! An API server that keeps what tests put into it, and tells watches of it when they say so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use kube::Client;
use serde_json::{Value, json};
use stillpoint_api::labels;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// How long something may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

pub const CLAIMS: &str = "persistentvolumeclaims";
pub const PODS: &str = "pods";
pub const SNAPSHOTS: &str = "volumesnapshots";

/// The outcome of something that must come soon.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("not within the deadline")
}

#[derive(Clone)]
pub struct FakeApi {
    world: Arc<Mutex<World>>,
    asked: watch::Sender<Vec<String>>,
}

#[derive(Default)]
struct World {
    version: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, String, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    watches: Vec<Watch>,
    /// Lists that are read page by page, by token.
    pages: BTreeMap<String, (u64, Vec<Value>)>,
    /// Objects of a page; 0: as many as are asked for.
    page: usize,
    /// Watches are told nothing for now.
    lagging: bool,
    refusal: Option<(&'static str, StatusCode, String)>,
}

struct Watch {
    prefix: String,
    told: u64,
    events: mpsc::UnboundedSender<String>,
}

impl World {
    /// Tells the watches what they have not been told yet.
    fn tell(&mut self) {
        if self.lagging {
            return;
        }
        for watch in &mut self.watches {
            for (version, key, event) in &self.history {
                if *version > watch.told && key.starts_with(&watch.prefix) {
                    let _ = watch.events.send(format!("{event}\n"));
                }
            }
            watch.told = self.version;
        }
    }
}

/// Begins the keys of all objects that a request of this path is about.
fn prefix(path: &str) -> String {
    let words: Vec<&str> = path.split('/').collect();
    let resource = words.last().copied().unwrap_or_default();
    let namespace = words.iter().position(|word| *word == "namespaces").map(|at| words[at + 1]);
    namespace.map_or(format!("{resource}/"), |namespace| format!("{resource}/{namespace}/"))
}

impl FakeApi {
    pub fn new() -> Self {
        let world = World { version: 10, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), asked: watch::channel(Vec::new()).0 }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let answer = move |request: Request| {
            let api = api.clone();
            async move { api.answer(&request) }
        };
        Client::new(Router::new().fallback(answer), "shop")
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn answer(&self, request: &Request) -> Response {
        let query: BTreeMap<_, _> =
            request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        // Their place is never that of a test.
        let about = match query.get("labelSelector") {
            Some(selector) if selector.ends_with("node-agent") => "node-agents".to_owned(),
            _ => request.uri().path().to_owned(),
        };
        let prefix = prefix(&about);
        let resource = prefix.split('/').next().unwrap_or_default();
        let watch = query.contains_key("watch");
        self.asked.send_modify(|asked| asked.push(format!("{} {resource}", if watch { "WATCH" } else { "LIST" })));
        let mut world = self.world();
        if let Some((refused, status, body)) = &world.refusal
            && *refused == resource
        {
            return (*status, body.clone()).into_response();
        }
        if watch {
            let (send, events) = mpsc::unbounded_channel();
            let told: u64 = query["resourceVersion"].parse().unwrap();
            if told < world.oldest {
                let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
                send.send(format!("{}\n", json!({"type": "ERROR", "object": status}))).unwrap();
            } else {
                world.watches.push(Watch { prefix, told, events: send });
                world.tell();
            }
            return Body::from_stream(UnboundedReceiverStream::new(events).map(Ok::<_, std::io::Error>))
                .into_response();
        }
        list(&mut world, &query, &prefix)
    }

    /// Stores an object.
    pub fn put(&self, resource: &str, object: Value) {
        self.change(resource, "MODIFIED", object);
    }

    /// Removes an object.
    pub fn delete(&self, resource: &str, object: Value) {
        self.change(resource, "DELETED", object);
    }

    fn change(&self, resource: &str, what: &str, mut object: Value) {
        let mut world = self.world();
        world.version += 1;
        object["metadata"]["resourceVersion"] = world.version.to_string().into();
        let word = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
        let key = format!("{resource}/{}/{}", word("namespace"), word("name"));
        match what {
            "DELETED" => world.objects.remove(&key),
            _ => world.objects.insert(key.clone(), object.clone()),
        };
        let version = world.version;
        world.history.push((version, key, json!({"type": what, "object": object})));
        world.tell();
    }

    /// Watches hear of nothing, until they are let.
    pub fn lag(&self, lagging: bool) {
        let mut world = self.world();
        world.lagging = lagging;
        world.tell();
    }

    /// Forgets what happened, and ends all watches.
    pub fn forget(&self) {
        let mut world = self.world();
        world.oldest = world.version + 1;
        world.watches.clear();
    }

    /// Goes back to this version, as a backup that is played in.
    pub fn rewind(&self, version: u64) {
        let mut world = self.world();
        world.version = version;
        world.history.clear();
    }

    /// Gives at most so many objects in a page.
    pub fn page(&self, page: usize) {
        self.world().page = page;
    }

    /// Refuses what is about this kind, or nothing any more.
    pub fn refuse(&self, refusal: Option<(&'static str, StatusCode, &str)>) {
        self.world().refusal = refusal.map(|(what, status, body)| (what, status, body.to_owned()));
    }

    /// How often it was asked for this.
    pub fn count(&self, what: &str) -> usize {
        self.asked.borrow().iter().filter(|asked| *asked == what).count()
    }

    /// Waits until it was asked for this so often.
    pub async fn asked(&self, what: &str, times: usize) {
        let often = |asked: &Vec<String>| asked.iter().filter(|one| *one == what).count() >= times;
        soon(self.asked.subscribe().wait_for(often)).await.unwrap();
    }

    /// Waits until nobody listens to the watches of these kinds any more.
    pub async fn abandoned(&self, resources: &[&str]) {
        let of = |watch: &&Watch| resources.iter().any(|resource| watch.prefix.starts_with(*resource));
        let events: Vec<_> = self.world().watches.iter().filter(of).map(|watch| watch.events.clone()).collect();
        assert_eq!(events.len(), resources.len());
        for events in events {
            soon(events.closed()).await;
        }
    }

    /// Whether somebody listens to a watch of this kind.
    pub fn is_watched(&self, resource: &str) -> bool {
        self.world().watches.iter().any(|watch| watch.prefix.starts_with(resource) && !watch.events.is_closed())
    }
}

fn list(world: &mut World, query: &BTreeMap<&str, &str>, prefix: &str) -> Response {
    let (version, mut rest) = match query.get("continue") {
        Some(token) => world.pages.remove(*token).unwrap(),
        None => {
            let matching = world.objects.iter().filter(|(key, _)| key.starts_with(prefix));
            (world.version, matching.map(|(_, object)| object.clone()).collect())
        }
    };
    let mut limit: usize = query["limit"].parse().unwrap();
    if world.page > 0 {
        limit = limit.min(world.page);
    }
    let next = rest.split_off(limit.min(rest.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !next.is_empty() {
        let token = format!("{version}.{}.{}", world.pages.len(), next.len());
        metadata["continue"] = token.clone().into();
        world.pages.insert(token, (version, next));
    }
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": rest}).to_string().into_response()
}

/// A claim; its UID is `uid-NAME`.
pub fn claim(name: &str, group: Option<&str>) -> Value {
    let labels = group.map(|group| json!({"group": group}));
    json!({"metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": labels}})
}

/// A pod; its UID is `uid-NAME`.
pub fn pod(name: &str, claim: Option<&str>, phase: &str) -> Value {
    let volumes: Vec<_> =
        claim.map(|claim| json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}})).into_iter().collect();
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": "node-1", "containers": [], "volumes": volumes},
        "status": {"phase": phase},
    })
}

/// A replica.
pub fn snapshot(namespace: &str, name: &str, replication_uid: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {labels::REPLICATION_UID: replication_uid},
            "managedFields": [{"manager": "controller"}],
        },
        "spec": {"source": {}},
    })
}
