//! Reads Kubernetes: watches of one namespace, and the few objects that are read once. Decides nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::Context as _;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::controller::api::{is_absent, sentence, within};
use stillpoint_api::labels;
use stillpoint_api::snapshot::{VolumeSnapshot, VolumeSnapshotClass};
use stillpoint_core::limits::{API_TIMEOUT, RESOLVE_CONCURRENCY};
use stillpoint_core::replica::csi::Class;
use stillpoint_core::run::facts::{Claim, PodFacts};
use stillpoint_core::run::observed::Observed;

/// Something changed in the namespace.
pub enum Change {
    /// A claim.
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    /// A pod.
    Pod(Box<watcher::Event<Pod>>),
    /// A snapshot of this replication.
    Replica(Box<watcher::Event<VolumeSnapshot>>),
}

/// The watches of one run.
pub struct Watches {
    client: Client,
    namespace: String,
    changes: SelectAll<BoxStream<'static, Change>>,
    claims: Listing<Claim>,
    pods: Listing<PodFacts>,
    replicas: Option<Listing<VolumeSnapshot>>,
}

impl Watches {
    /// Starts to watch claims and pods of a namespace.
    pub fn start(client: &Client, namespace: &str) -> Self {
        let claims = watch(Api::namespaced(client.clone(), namespace), watcher::Config::default(), |event| {
            Change::Claim(Box::new(event))
        });
        let pods = watch(Api::namespaced(client.clone(), namespace), watcher::Config::default(), |event| {
            Change::Pod(Box::new(event))
        });
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            changes: stream::select_all([claims, pods]),
            claims: Listing::default(),
            pods: Listing::default(),
            replicas: None,
        }
    }

    /// Starts to watch the snapshots of a replication. The snapshot API must be there.
    pub fn watch_replicas(&mut self, replication_uid: &str) {
        let config = watcher::Config::default().labels(&format!("{}={replication_uid}", labels::REPLICATION_UID));
        let replicas = watch(Api::namespaced(self.client.clone(), &self.namespace), config, |event| {
            Change::Replica(Box::new(event))
        });
        self.changes.push(replicas);
        self.replicas = Some(Listing::default());
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
            Change::Replica(event) => {
                if let Some(replicas) = &mut self.replicas {
                    replicas.apply(&mut observed.replicas, *event, ResourceExt::name_any, Some);
                }
            }
        }
        let replicas = self.replicas.as_ref().is_none_or(|replicas| replicas.listed);
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
    config: watcher::Config,
    change: impl Fn(watcher::Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => Some(change(event)),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is tried again");
                    None
                }
            };
            std::future::ready(change)
        })
        .boxed()
}

/// Keeps a map equal to what a watch delivers.
struct Listing<V> {
    /// The list that is being delivered.
    incoming: Option<BTreeMap<String, V>>,
    /// Whether one list was complete.
    listed: bool,
}

impl<V> Default for Listing<V> {
    fn default() -> Self {
        Self { incoming: None, listed: false }
    }
}

impl<V> Listing<V> {
    fn apply<K>(
        &mut self,
        live: &mut BTreeMap<String, V>,
        event: watcher::Event<K>,
        key: impl Fn(&K) -> String,
        convert: impl Fn(K) -> Option<V>,
    ) {
        let put = |map: &mut BTreeMap<String, V>, object: K| {
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
                *live = self.incoming.take().unwrap_or_default();
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

/// The snapshot classes; `None` when the snapshot API is not installed.
///
/// # Errors
/// When the API server does not answer.
pub async fn classes(client: &Client) -> anyhow::Result<Option<Vec<Class>>> {
    let api: Api<VolumeSnapshotClass> = Api::all(client.clone());
    match tokio::time::timeout(API_TIMEOUT, api.list(&ListParams::default())).await? {
        Ok(list) => Ok(Some(list.items.into_iter().map(Class::from).collect())),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(None),
        Err(error) => Err(anyhow::anyhow!(sentence(&error))).context("the VolumeSnapshotClasses could not be read"),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::http::StatusCode;

    use super::super::execute::delete_replicas;
    use super::*;

    /// An API server that answers every request so.
    fn answering(status: StatusCode, body: &'static str) -> Client {
        Client::new(Router::new().fallback(move || async move { (status, body) }), "shop")
    }

    #[tokio::test]
    async fn without_the_snapshot_crds_there_are_neither_classes_nor_snapshots() {
        // What kube-apiserver says of a group that nobody serves: not a Status object.
        let client = answering(StatusCode::NOT_FOUND, "404 page not found\n");
        assert_eq!(classes(&client).await.unwrap(), None);
        assert_eq!(delete_replicas(&client, "shop", "uid", 1, &[]).await, 0);
    }

    #[tokio::test]
    async fn a_refusal_is_one_sentence() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not allowed to list",
            "reason": "Forbidden", "code": 403}"#;
        let error = classes(&answering(StatusCode::FORBIDDEN, status)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "the VolumeSnapshotClasses could not be read: not allowed to list");
    }
}
