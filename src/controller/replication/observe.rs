//! Reads Kubernetes: watches of one namespace, and the few objects that are read once. Decides nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::Context as _;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use stillpoint_api::labels;
use stillpoint_core::limits::{API_TIMEOUT, RESOLVE_CONCURRENCY};
use stillpoint_core::replica::Kind;
use stillpoint_core::replica::seen::{self, ObjectName};
use stillpoint_core::run::effect::{Facts, Input, Interest, Storage};
use stillpoint_core::run::facts::{Claim, PodFacts};

use super::requests::{is_absent, sentence, within};

/// Something changed in the namespace.
enum Change {
    /// A claim.
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    /// A pod.
    Pod(Box<watcher::Event<Pod>>),
    /// An object of this replication's replicas, from the resource of this index.
    Replica(usize, Box<watcher::Event<DynamicObject>>),
}

/// The watches of one run.
pub struct Watches {
    interest: Interest,
    changes: SelectAll<BoxStream<'static, Change>>,
    claims: Listing<String, Claim>,
    pods: Listing<String, PodFacts>,
    replicas: Vec<(ApiResource, Listing<ObjectName, DynamicObject>)>,
}

impl Watches {
    /// Starts to watch what a run is about, and gives it as it is.
    ///
    /// # Errors
    /// When it could not be read within [`API_TIMEOUT`].
    pub async fn start(
        client: &Client,
        namespace: &str,
        replication_uid: &str,
        interest: Interest,
    ) -> anyhow::Result<(Self, Facts)> {
        let resources = match interest.replicas {
            Some(kind) if kind.available(&facts(client, kind).await?).is_ok() => kind.objects(),
            _ => Vec::new(),
        };
        let config = watcher::Config::default;
        let api = (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
        let mut changes = vec![
            watch(api.0, "PersistentVolumeClaim", config(), |event| Change::Claim(Box::new(event))),
            watch(api.1, "Pod", config(), |event| Change::Pod(Box::new(event))),
        ];
        for (index, resource) in resources.iter().enumerate() {
            let config = config().labels(&format!("{}={replication_uid}", labels::REPLICATION_UID));
            let api = Api::namespaced_with(client.clone(), namespace, resource);
            changes.push(watch(api, &resource.kind, config, move |event| Change::Replica(index, Box::new(event))));
        }
        let mut watches = Self {
            interest,
            changes: stream::select_all(changes),
            claims: Listing::default(),
            pods: Listing::default(),
            replicas: resources.into_iter().map(|resource| (resource, Listing::default())).collect(),
        };
        let listed = async {
            while !watches.listed() {
                watches.next().await;
            }
        };
        tokio::time::timeout(API_TIMEOUT, listed)
            .await
            .with_context(|| format!("the claims and pods of namespace {namespace} could not be read"))?;
        let Self { interest, claims, pods, replicas, .. } = &watches;
        let mut facts = Facts { claims: claims.live.clone(), pods: pods.live.clone(), ..Facts::default() };
        facts.claims.retain(|uid, _| interest.claims.contains_key(uid));
        facts.pods.retain(|_, pod| mounts_any(interest, pod));
        facts.replicas.extend(replicas.iter().flat_map(|(_, listing)| listing.live.clone()));
        Ok((watches, facts))
    }

    /// The next changes of what the run is about. Never ends; safe to cancel.
    pub async fn next(&mut self) -> Vec<Input> {
        match self.changes.next().await {
            Some(change) => self.apply(change),
            // Watches are endless, and there are always two.
            None => std::future::pending().await,
        }
    }

    fn apply(&mut self, change: Change) -> Vec<Input> {
        let interest = &self.interest;
        let mut inputs = Vec::new();
        match change {
            Change::Claim(event) => {
                for (uid, claim) in self.claims.apply(*event, uid, |claim| Some(claim.into())) {
                    if interest.claims.contains_key(&uid) {
                        inputs.push(Input::Claim(uid, claim));
                    }
                }
            }
            Change::Pod(event) => {
                for (uid, pod) in self.pods.apply(*event, uid, PodFacts::of) {
                    if pod.as_ref().is_none_or(|pod| mounts_any(interest, pod)) {
                        inputs.push(Input::Pod(uid, pod));
                    }
                }
            }
            Change::Replica(index, event) => {
                let Some((resource, listing)) = self.replicas.get_mut(index) else { return inputs };
                let name = |object: &DynamicObject| ObjectName::of(resource, object);
                let changes = listing.apply(*event, name, Some);
                inputs.extend(changes.into_iter().map(|(name, it)| Input::Replica(name, it.map(Box::new))));
            }
        }
        inputs
    }

    fn listed(&self) -> bool {
        self.claims.listed && self.pods.listed && self.replicas.iter().all(|(_, listing)| listing.listed)
    }
}

/// Whether a pod mounts anything that a run is about.
pub fn mounts_any(interest: &Interest, pod: &PodFacts) -> bool {
    interest.claims.values().any(|name| pod.claims.contains(name))
}

fn uid<K: ResourceExt>(object: &K) -> String {
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
    /// What is there, as far as is known.
    live: BTreeMap<N, V>,
    /// The list that is being delivered.
    incoming: Option<BTreeMap<N, V>>,
    /// Whether one list was complete.
    listed: bool,
}

impl<N, V> Default for Listing<N, V> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), incoming: None, listed: false }
    }
}

impl<N: Ord + Clone, V: Clone> Listing<N, V> {
    /// Takes an event into the map, and gives what changed: `None` is gone.
    fn apply<K>(
        &mut self,
        event: watcher::Event<K>,
        key: impl Fn(&K) -> N,
        convert: impl Fn(K) -> Option<V>,
    ) -> Vec<(N, Option<V>)> {
        let live = &mut self.live;
        let put = |map: &mut BTreeMap<N, V>, object: K| {
            let key = key(&object);
            let value = convert(object);
            match value.clone() {
                Some(value) => map.insert(key.clone(), value),
                None => map.remove(&key),
            };
            (key, value)
        };
        match event {
            watcher::Event::Init => self.incoming = Some(BTreeMap::new()),
            watcher::Event::InitApply(object) => drop(put(self.incoming.get_or_insert_default(), object)),
            watcher::Event::InitDone => {
                let before = std::mem::replace(live, self.incoming.take().unwrap_or_default());
                self.listed = true;
                let gone = before.into_keys().filter(|key| !live.contains_key(key)).map(|key| (key, None));
                let there = live.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
                return gone.chain(there).collect();
            }
            watcher::Event::Apply(object) => return vec![put(live, object)],
            watcher::Event::Delete(object) => {
                let key = key(&object);
                live.remove(&key);
                return vec![(key, None)];
            }
        }
        Vec::new()
    }
}

/// The claims and unfinished pods of a namespace, as the API server has them now: a watch may lag behind.
///
/// # Errors
/// When the API server does not answer.
pub async fn look(client: &Client, namespace: &str) -> anyhow::Result<Facts> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default();
    let claims = async { within(API_TIMEOUT, api.list(&params)).await };
    let (claims, pods) = tokio::try_join!(claims, pods(client, namespace))
        .with_context(|| format!("the claims and pods of namespace {namespace} could not be read"))?;
    let claims = claims.items.into_iter().map(Claim::from).map(|claim| (claim.uid.clone(), claim));
    Ok(Facts { claims: claims.collect(), pods, ..Facts::default() })
}

/// What is known of storage: the drivers of these volumes, and what a kind of replica reads of the cluster.
///
/// # Errors
/// When the API server does not answer.
pub async fn storage(client: &Client, volumes: Vec<String>, kind: Option<&dyn Kind>) -> anyhow::Result<Storage> {
    let drivers = drivers(client, volumes).await?;
    let facts = match kind {
        Some(kind) => facts(client, kind).await?,
        None => seen::Facts::default(),
    };
    Ok(Storage { drivers, facts })
}

/// The unfinished pods of a namespace, as the API server has them now.
///
/// # Errors
/// When the API server does not answer.
pub async fn pods(client: &Client, namespace: &str) -> anyhow::Result<BTreeMap<String, PodFacts>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = within(API_TIMEOUT, api.list(&ListParams::default())).await?;
    Ok(list.items.into_iter().filter_map(PodFacts::of).map(|pod| (pod.uid.clone(), pod)).collect())
}

/// The CSI drivers of volumes, by the volume's name.
///
/// # Errors
/// When the API server does not answer. A volume that is not there, or has no CSI driver, is left out.
async fn drivers(client: &Client, volumes: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
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
async fn facts(client: &Client, kind: &dyn Kind) -> anyhow::Result<seen::Facts> {
    let mut facts = seen::Facts::default();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::http::StatusCode;

    use super::super::removal::remove;
    use super::*;
    use stillpoint_core::replica::KINDS;
    use stillpoint_core::replica::ask::RunId;
    use stillpoint_core::replica::removal::Removal;

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
        assert_eq!(remove(&client, "shop", Removal::new(KINDS[0].remove(&run, &[]), 1)).await, 0);
    }

    #[tokio::test]
    async fn a_refusal_is_one_sentence() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not allowed to list",
            "reason": "Forbidden", "code": 403}"#;
        let error = facts(&answering(StatusCode::FORBIDDEN, status), KINDS[0]).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "the VolumeSnapshotClasses could not be read: not allowed to list");
    }
}
