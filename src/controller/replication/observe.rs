//! Reads Kubernetes: watches of one namespace, and the few objects that are read once. Decides nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, Status};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use stillpoint_api::labels;
use stillpoint_core::limits::{API_TIMEOUT, RESOLVE_CONCURRENCY};
use stillpoint_core::replica::Kind;
use stillpoint_core::replica::seen::{Facts, ObjectName};
use stillpoint_core::run::facts::{Claim, PodFacts};
use stillpoint_core::run::observed::Observed;

/// Something changed in the namespace.
pub enum Change {
    /// A claim.
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    /// A pod.
    Pod(Box<watcher::Event<Pod>>),
    /// An object of this replication's replicas, from the resource of this index.
    Replica(usize, Box<watcher::Event<DynamicObject>>),
}

/// The watches of one run.
pub struct Watches {
    client: Client,
    namespace: String,
    changes: SelectAll<BoxStream<'static, Change>>,
    claims: Listing<String, Claim>,
    pods: Listing<String, PodFacts>,
    replicas: Vec<(ApiResource, Listing<ObjectName, DynamicObject>)>,
}

impl Watches {
    /// Starts to watch claims and pods of a namespace.
    pub fn start(client: &Client, namespace: &str) -> Self {
        let config = watcher::Config::default;
        let claims = watch(Api::namespaced(client.clone(), namespace), "PersistentVolumeClaim", config(), |event| {
            Change::Claim(Box::new(event))
        });
        let pods =
            watch(Api::namespaced(client.clone(), namespace), "Pod", config(), |event| Change::Pod(Box::new(event)));
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            changes: stream::select_all([claims, pods]),
            claims: Listing::default(),
            pods: Listing::default(),
            replicas: Vec::new(),
        }
    }

    /// Starts to watch the replicas of a replication. Their resources must be there.
    pub fn watch_replicas(&mut self, kind: &dyn Kind, replication_uid: &str) {
        let config = watcher::Config::default().labels(&format!("{}={replication_uid}", labels::REPLICATION_UID));
        for resource in kind.objects() {
            let index = self.replicas.len();
            let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            self.changes
                .push(watch(api, &resource.kind, config.clone(), move |event| Change::Replica(index, Box::new(event))));
            self.replicas.push((resource, Listing::default()));
        }
    }

    /// The next change. Never ends; safe to cancel.
    pub async fn next(&mut self) -> Change {
        match self.changes.next().await {
            Some(change) => change,
            // Watches are endless, and there are always two.
            None => std::future::pending().await,
        }
    }

    /// Takes a change into what is known.
    pub fn apply(&mut self, change: Change, observed: &mut Observed) {
        match change {
            Change::Claim(event) => self.claims.apply(&mut observed.claims, *event, uid, |claim| Some(claim.into())),
            Change::Pod(event) => self.pods.apply(&mut observed.pods, *event, uid, PodFacts::of),
            Change::Replica(index, event) => {
                let (resource, listing) = &mut self.replicas[index];
                let replicas = &mut observed.replicas;
                let key = |object: &DynamicObject| ObjectName::of(resource, object);
                listing.apply_beside(replicas, *event, key, Some, |name| name.kind != resource.kind);
            }
        }
        let replicas = self.replicas.iter().all(|(_, listing)| listing.listed);
        observed.watching = self.claims.listed && self.pods.listed && replicas;
    }

    /// Waits until every watch has delivered its first list.
    ///
    /// # Errors
    /// When that takes longer than [`API_TIMEOUT`].
    pub async fn synchronise(&mut self, observed: &mut Observed) -> anyhow::Result<()> {
        observed.watching = false;
        let listed = async {
            while !observed.watching {
                let change = self.next().await;
                self.apply(change, observed);
            }
        };
        tokio::time::timeout(API_TIMEOUT, listed)
            .await
            .with_context(|| format!("the claims and pods of namespace {} could not be read", self.namespace))
    }
}

fn uid<K: Resource>(object: &K) -> String {
    object.uid().unwrap_or_default()
}

fn watch<K>(
    api: Api<K>,
    kind: &str,
    config: watcher::Config,
    change: impl Fn(watcher::Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = kind.to_owned();
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => Some(change(event)),
                Err(error) => {
                    tracing::warn!(kind, %error, "a watch failed and is tried again");
                    None
                }
            };
            std::future::ready(change)
        })
        .boxed()
}

/// Keeps a map equal to what a watch delivers.
struct Listing<N, V> {
    /// The list that is being delivered.
    incoming: Option<BTreeMap<N, V>>,
    /// Whether one list was complete.
    listed: bool,
}

impl<N, V> Default for Listing<N, V> {
    fn default() -> Self {
        Self { incoming: None, listed: false }
    }
}

impl<N: Ord, V> Listing<N, V> {
    fn apply<K>(
        &mut self,
        live: &mut BTreeMap<N, V>,
        event: watcher::Event<K>,
        key: impl Fn(&K) -> N,
        convert: impl Fn(K) -> Option<V>,
    ) {
        self.apply_beside(live, event, key, convert, |_| false);
    }

    /// The same of a map that other watches fill too: `others` says which entries are theirs.
    fn apply_beside<K>(
        &mut self,
        live: &mut BTreeMap<N, V>,
        event: watcher::Event<K>,
        key: impl Fn(&K) -> N,
        convert: impl Fn(K) -> Option<V>,
        others: impl Fn(&N) -> bool,
    ) {
        let put = |map: &mut BTreeMap<N, V>, object: K| {
            let key = key(&object);
            match convert(object) {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        };
        match event {
            watcher::Event::Init => self.incoming = Some(BTreeMap::new()),
            watcher::Event::InitApply(object) => put(self.incoming.get_or_insert_default(), object),
            watcher::Event::InitDone => {
                live.retain(|name, _| others(name));
                live.append(&mut self.incoming.take().unwrap_or_default());
                self.listed = true;
            }
            watcher::Event::Apply(object) => put(live, object),
            watcher::Event::Delete(object) => {
                live.remove(&key(&object));
            }
        }
    }
}

/// The CSI drivers of volumes, by the volume's name.
///
/// # Errors
/// When the API server does not answer. A volume that is not there, or has no CSI driver, is left out.
pub async fn drivers(client: &Client, volumes: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let found: Vec<Option<(String, String)>> = stream::iter(volumes)
        .map(|name| {
            let api = api.clone();
            async move {
                let volume = within(API_TIMEOUT, api.get_opt(&name)).await?;
                let driver = volume.and_then(|volume| Some(volume.spec?.csi?.driver));
                anyhow::Ok(driver.map(|driver| (name, driver)))
            }
        })
        .buffer_unordered(RESOLVE_CONCURRENCY)
        .try_collect()
        .await
        .context("the PersistentVolumes of the members could not be read")?;
    Ok(found.into_iter().flatten().collect())
}

/// What a kind of replica needs to know of the cluster. A resource that is not installed is left out.
///
/// # Errors
/// When the API server does not answer.
pub async fn facts(client: &Client, kind: &dyn Kind) -> anyhow::Result<Facts> {
    let mut facts = Facts::default();
    for resource in kind.reads() {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match tokio::time::timeout(API_TIMEOUT, api.list(&ListParams::default())).await? {
            Ok(list) => drop(facts.read.insert(resource.kind, list.items)),
            Err(kube::Error::Api(status)) if is_absent(&status) => {}
            Err(error) => {
                return Err(anyhow::anyhow!(sentence(&error)))
                    .with_context(|| format!("the {} could not be read", many(&resource)));
            }
        }
    }
    Ok(facts)
}

/// Several objects of a resource, as people write it.
fn many(resource: &ApiResource) -> String {
    let ending = resource.plural.strip_prefix(&resource.kind.to_lowercase());
    ending.map_or_else(|| resource.plural.clone(), |ending| format!("{}{ending}", resource.kind))
}

/// The unfinished pods of a namespace, as the API server has them now: a watch may lag behind.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(client: &Client, namespace: &str) -> anyhow::Result<BTreeMap<String, PodFacts>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = within(API_TIMEOUT, api.list(&ListParams::default())).await?;
    Ok(list.items.into_iter().filter_map(PodFacts::of).map(|pod| (pod.uid.clone(), pod)).collect())
}

/// A request with a limit of time.
///
/// # Errors
/// When it fails, or takes longer.
pub async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(limit, request).await.context("the API server did not answer in time")?;
    answer.map_err(|error| anyhow::anyhow!(sentence(&error)))
}

/// Whether the API server does not have it: of a resource that nobody serves it says so in plain text, without the reason that
/// [`Status::is_not_found`] looks for.
pub fn is_absent(status: &Status) -> bool {
    status.code == 404
}

/// What the API server said, without the fields of its answer that the sentence repeats.
pub fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::http::StatusCode;

    use super::super::execute::delete_replicas;
    use super::*;
    use stillpoint_core::replica::KINDS;
    use stillpoint_core::replica::ask::RunId;

    /// An API server that answers every request so.
    fn answering(status: StatusCode, body: &'static str) -> Client {
        Client::new(Router::new().fallback(move || async move { (status, body) }), "shop")
    }

    #[tokio::test]
    async fn without_the_snapshot_crds_there_are_neither_classes_nor_snapshots() {
        // What kube-apiserver says of a group that nobody serves: not a Status object.
        let client = answering(StatusCode::NOT_FOUND, "404 page not found\n");
        assert_eq!(facts(&client, KINDS[0]).await.unwrap().read.len(), 0);
        let run = RunId { replication: "nightly", uid: "uid", namespace: "shop", attempt: 1, owner: None };
        assert_eq!(delete_replicas(&client, "shop", 1, &KINDS[0].remove(&run, &[])).await, 0);
    }

    #[test]
    fn a_list_of_one_resource_leaves_what_another_has_delivered() {
        let name = |kind: &str, name: &str| ObjectName { kind: kind.into(), name: name.into() };
        let mut live = [(name("A", "gone"), 1), (name("B", "other"), 2)].into();
        let mut listing = Listing::default();
        let mut apply = |live: &mut BTreeMap<_, _>, event| {
            listing.apply_beside(live, event, |_| name("A", "new"), Some, |name| name.kind != "A")
        };
        for event in [watcher::Event::Init, watcher::Event::InitApply(3), watcher::Event::InitDone] {
            apply(&mut live, event);
        }
        assert_eq!(live, [(name("A", "new"), 3), (name("B", "other"), 2)].into());
    }

    #[tokio::test]
    async fn a_refusal_is_one_sentence() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not allowed to list",
            "reason": "Forbidden", "code": 403}"#;
        let error = facts(&answering(StatusCode::FORBIDDEN, status), KINDS[0]).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "the VolumeSnapshotClasses could not be read: not allowed to list");
    }
}
