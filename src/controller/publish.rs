//! Publishes the CA certificates as a ConfigMap into every namespace that opts in and the controller's own, and takes them back when one
//! opts out.
//!
//! Needs the verbs `list` and `watch` on Namespaces, and on ConfigMaps named `stillpoint-ca`: `list`, `watch`, `create`,
//! `patch` and `delete`. A rule with `resourceNames` allows all of them: the watch selects by name, and server-side apply
//! creates under the name in its URL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::store::{Store, Writer, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::certificates::Stored;
use stillpoint_api::labels::{CA_CONFIG_MAP, OPT_IN, OPT_IN_VALUE};
use stillpoint_core::limits::{API_TIMEOUT, CONTROLLER_RETRY};

/// Key of the certificates in the ConfigMap.
const CERTIFICATE_KEY: &str = "ca.crt";
/// Marks what is ours, to the API server and to people.
const MANAGER: &str = "stillpoint-controller";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Keeps the ConfigMaps in step with what is `known`, for ever, and says in `everywhere` which bundle all of them carry that
/// are not somebody else's. Trouble with the API server is logged and waited out.
pub async fn publish(
    client: Client,
    home: &str,
    mut known: watch::Receiver<Arc<Stored>>,
    everywhere: watch::Sender<String>,
) {
    let mut changes = changes(&client);
    let mut cluster = Cluster::default();
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut retry_at = None;
    loop {
        let retry = async {
            match retry_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(change)) => cluster.note(&change),
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch Namespaces or their ConfigMap {CA_CONFIG_MAP}; trying again");
                    continue;
                }
                None => return,
            },
            changed = known.changed() => if changed.is_err() { return },
            () = retry => {}
        }
        let Some((mut opted_in, published)) = cluster.look() else { continue };
        // The node agents run there.
        opted_in.insert(home.to_owned());
        let certificate = known.borrow_and_update().bundle();
        let (steps, foreign) = plan(&opted_in, &published, &certificate);
        for namespace in foreign.difference(&told) {
            tracing::warn!(
                "ConfigMap {namespace}/{CA_CONFIG_MAP} was made by somebody else and is left alone: agents of the \
                 namespace cannot trust this controller until it is deleted"
            );
        }
        told = foreign;
        retry_at = carry_out(&client, &steps, &certificate).await;
        if retry_at.is_none() {
            everywhere.send_if_modified(|published| {
                let news = *published != certificate;
                *published = certificate;
                news
            });
        }
    }
}

/// A ConfigMap of our name, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    uid: String,
    ours: bool,
    certificate: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Apply { namespace: String },
    Remove { namespace: String, uid: String },
}

/// What to do so that exactly the namespaces that opted in have the certificate; and where a foreign ConfigMap is in the way.
fn plan(
    opted_in: &BTreeSet<String>,
    published: &BTreeMap<String, Published>,
    certificate: &str,
) -> (Vec<Step>, BTreeSet<String>) {
    let mut steps = Vec::new();
    let mut foreign = BTreeSet::new();
    for namespace in opted_in {
        match published.get(namespace) {
            Some(there) if there.certificate.as_deref() == Some(certificate) => {}
            Some(there) if !there.ours => drop(foreign.insert(namespace.clone())),
            Some(_) | None => steps.push(Step::Apply { namespace: namespace.clone() }),
        }
    }
    for (namespace, there) in published.iter().filter(|(namespace, there)| there.ours && !opted_in.contains(*namespace))
    {
        steps.push(Step::Remove { namespace: namespace.clone(), uid: there.uid.clone() });
    }
    (steps, foreign)
}

/// Carries out the steps; says when to try again if one failed.
async fn carry_out(client: &Client, steps: &[Step], certificate: &str) -> Option<Instant> {
    let mut retry_at = None;
    for step in steps {
        let result = match step {
            Step::Apply { namespace } => apply(client, namespace, certificate).await,
            Step::Remove { namespace, uid } => remove(client, namespace, uid).await,
        };
        match (result, step) {
            (Ok(()), Step::Apply { namespace }) => tracing::info!("published the CA to {namespace}/{CA_CONFIG_MAP}"),
            (Ok(()), Step::Remove { namespace, .. }) => {
                tracing::info!("removed the CA from {namespace}/{CA_CONFIG_MAP}")
            }
            (Err(error), Step::Apply { namespace } | Step::Remove { namespace, .. }) => {
                tracing::warn!(%error, "cannot keep ConfigMap {namespace}/{CA_CONFIG_MAP} in step; trying again");
                retry_at = Some(Instant::now() + CONTROLLER_RETRY);
            }
        }
    }
    retry_at
}

async fn apply(client: &Client, namespace: &str, certificate: &str) -> anyhow::Result<()> {
    let config_map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(CA_CONFIG_MAP.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(CERTIFICATE_KEY.to_owned(), certificate.to_owned())])),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(MANAGER).force();
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    timeout(API_TIMEOUT, config_maps.patch(CA_CONFIG_MAP, &params, &Patch::Apply(config_map))).await??;
    Ok(())
}

async fn remove(client: &Client, namespace: &str, uid: &str) -> anyhow::Result<()> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match timeout(API_TIMEOUT, config_maps.delete(CA_CONFIG_MAP, &params)).await? {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

type NamespaceMeta = PartialObjectMeta<Namespace>;

enum Change {
    Namespace(watcher::Event<NamespaceMeta>),
    ConfigMap(watcher::Event<ConfigMap>),
}

fn changes(client: &Client) -> BoxStream<'static, watcher::Result<Change>> {
    let opted_in = watcher::Config::default().labels(&format!("{OPT_IN}={OPT_IN_VALUE}"));
    let namespaces = watcher(Api::<NamespaceMeta>::all(client.clone()), opted_in).default_backoff();
    let named = watcher::Config::default().fields(&format!("metadata.name={CA_CONFIG_MAP}"));
    let config_maps = watcher(Api::all(client.clone()), named).default_backoff();
    stream::select(namespaces.map_ok(Change::Namespace), config_maps.map_ok(Change::ConfigMap)).boxed()
}

/// What the watches have shown.
struct Cluster {
    namespaces: (Writer<NamespaceMeta>, Store<NamespaceMeta>),
    config_maps: (Writer<ConfigMap>, Store<ConfigMap>),
    namespaces_listed: bool,
    config_maps_listed: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        let ((namespaces, namespace_writer), (config_maps, config_map_writer)) = (store(), store());
        Self {
            namespaces: (namespace_writer, namespaces),
            config_maps: (config_map_writer, config_maps),
            namespaces_listed: false,
            config_maps_listed: false,
        }
    }
}

impl Cluster {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Namespace(event) => {
                self.namespaces.0.apply_watcher_event(event);
                self.namespaces_listed |= matches!(event, watcher::Event::InitDone);
            }
            Change::ConfigMap(event) => {
                self.config_maps.0.apply_watcher_event(event);
                self.config_maps_listed |= matches!(event, watcher::Event::InitDone);
            }
        }
    }

    /// The namespaces that opted in, and the ConfigMaps of our name. `None` until both were listed in full.
    fn look(&self) -> Option<(BTreeSet<String>, BTreeMap<String, Published>)> {
        if !self.namespaces_listed || !self.config_maps_listed {
            return None;
        }
        let namespaces = self.namespaces.1.state();
        // A namespace that goes away takes no new objects, and takes ours along.
        let stays = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        let opted_in = stays.map(|namespace| namespace.name_any()).collect();
        let config_maps = self.config_maps.1.state();
        let published =
            config_maps.iter().filter_map(|config_map| Some((config_map.namespace()?, published(config_map))));
        Some((opted_in, published.collect()))
    }
}

fn published(config_map: &ConfigMap) -> Published {
    Published {
        uid: config_map.uid().unwrap_or_default(),
        ours: config_map.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER),
        certificate: config_map.data.as_ref().and_then(|data| data.get(CERTIFICATE_KEY)).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(ours: bool, certificate: &str) -> Published {
        Published { uid: "uid".to_owned(), ours, certificate: Some(certificate.to_owned()) }
    }

    #[test]
    fn exactly_the_namespaces_that_opted_in_have_the_certificate() {
        let opted_in = ["current", "drifted", "foreign", "missing", "own-copy"].map(str::to_owned).into();
        let published = BTreeMap::from([
            ("current".to_owned(), there(true, "CA")),
            ("drifted".to_owned(), there(true, "old CA")),
            ("foreign".to_owned(), there(false, "other CA")),
            ("own-copy".to_owned(), there(false, "CA")),
            ("opted-out".to_owned(), there(true, "CA")),
            ("unrelated".to_owned(), there(false, "CA")),
        ]);
        let apply = |namespace: &str| Step::Apply { namespace: namespace.to_owned() };
        let remove = Step::Remove { namespace: "opted-out".to_owned(), uid: "uid".to_owned() };
        let expected = vec![apply("drifted"), apply("missing"), remove];
        assert_eq!(plan(&opted_in, &published, "CA"), (expected, BTreeSet::from(["foreign".to_owned()])));
    }

    #[test]
    fn nothing_is_decided_before_everything_was_listed() {
        let mut cluster = Cluster::default();
        for change in [Change::Namespace(watcher::Event::Init), Change::Namespace(watcher::Event::InitDone)] {
            cluster.note(&change);
            assert!(cluster.look().is_none());
        }
        for change in [Change::ConfigMap(watcher::Event::Init), Change::ConfigMap(watcher::Event::InitDone)] {
            assert!(cluster.look().is_none());
            cluster.note(&change);
        }
        assert!(cluster.look().is_some());
    }
}
