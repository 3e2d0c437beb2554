//! The only place that acts. Decides nothing: every step comes from the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use super::observe;
use crate::controller::api::{is_absent, within};
use crate::controller::sessions::Sessions;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, API_TIMEOUT};
use stillpoint_core::run::facts::PodFacts;
use stillpoint_core::run::observed::Observed;
use stillpoint_core::run::plan::Step;

/// How a step that takes time ended.
pub enum Outcome {
    /// A snapshot was created, or not.
    Created {
        /// Its name.
        name: String,
        /// The snapshot, or why there is none (or none is known of).
        result: Result<Box<VolumeSnapshot>, String>,
    },
    /// Every replica is deleted.
    Deleted {
        /// So many were there.
        found: usize,
    },
    /// The pods as they are now.
    Rechecked(BTreeMap<String, PodFacts>),
}

impl Outcome {
    /// Takes the outcome into what is known.
    pub fn apply(self, observed: &mut Observed) {
        match self {
            Self::Created { name, result } => {
                observed.open_creations = observed.open_creations.saturating_sub(1);
                match result {
                    // The watch may already know more.
                    Ok(snapshot) => {
                        observed.replicas.entry(name).or_insert(*snapshot);
                    }
                    Err(message) => {
                        observed.refused_replicas.insert(name, message);
                    }
                }
            }
            Self::Deleted { found } => observed.deleted_replicas = Some(found),
            Self::Rechecked(pods) => {
                observed.pods = pods;
                observed.rechecked = true;
            }
        }
    }
}

/// Carries out the steps of one run.
pub struct Executor {
    /// The API server.
    pub client: Client,
    /// The agents.
    pub sessions: Sessions,
    /// Namespace of the replication.
    pub namespace: String,
    /// UID of the replication.
    pub replication_uid: String,
    /// The attempt.
    pub attempt: u32,
    /// Where outcomes go.
    pub outcomes: mpsc::Sender<Outcome>,
}

impl Executor {
    /// Carries out a step. What takes time goes on in the background, bounded by its own limits, and reports an [`Outcome`].
    pub fn execute(&self, step: Step, observed: &mut Observed) {
        match step {
            Step::Send { member, pod_uid, command, message } => {
                observed.asking(&member);
                if let Err(error) = self.sessions.send(&pod_uid, message) {
                    tracing::warn!(?command, %member, %pod_uid, %error, "a command could not be sent");
                    observed.lost(&pod_uid, [member]);
                }
            }
            Step::Cut(snapshots) => {
                observed.open_creations += snapshots.len();
                for snapshot in snapshots {
                    self.spawn(create(self.client.clone(), self.namespace.clone(), snapshot));
                }
            }
            Step::DeleteReplicas(names) => {
                let (client, namespace) = (self.client.clone(), self.namespace.clone());
                let (uid, attempt) = (self.replication_uid.clone(), self.attempt);
                self.spawn(async move {
                    Outcome::Deleted { found: delete_replicas(&client, &namespace, &uid, attempt, &names).await }
                });
            }
            Step::RecheckPods => {
                let (client, namespace) = (self.client.clone(), self.namespace.clone());
                self.spawn(async move { Outcome::Rechecked(list_pods(&client, &namespace).await) });
            }
        }
    }

    fn spawn(&self, work: impl Future<Output = Outcome> + Send + 'static) {
        let outcomes = self.outcomes.clone();
        // A run that has ended does not listen any more.
        tokio::spawn(async move { outcomes.send(work.await).await.ok() });
    }
}

async fn create(client: Client, namespace: String, snapshot: VolumeSnapshot) -> Outcome {
    let api: Api<VolumeSnapshot> = Api::namespaced(client, &namespace);
    let name = snapshot.name_any();
    let result = match tokio::time::timeout(API_TIMEOUT, api.create(&PostParams::default(), &snapshot)).await {
        Ok(Ok(created)) => Ok(created),
        // An object that is there already is refused too: it may be from before the hold, and then it shows another moment.
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the API server did not answer within {API_TIMEOUT:?}")),
    };
    Outcome::Created { name, result: result.map(Box::new) }
}

async fn list_pods(client: &Client, namespace: &str) -> BTreeMap<String, PodFacts> {
    let mut pauses = Pauses::new();
    loop {
        match observe::pods(client, namespace).await {
            Ok(pods) => return pods,
            Err(error) => pauses.after(error).await,
        }
    }
}

/// Deletes the named snapshots and whatever else carries the labels of the replication and of an attempt up to this one, and
/// says how many there were. Tries until it succeeds: a replica of a void cut must not stay. Those of a later attempt are
/// none of its business: a controller that was overtaken without noticing must not delete what its successor made.
pub async fn delete_replicas(
    client: &Client,
    namespace: &str,
    replication_uid: &str,
    last_attempt: u32,
    names: &[String],
) -> usize {
    let api: Api<VolumeSnapshot> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeSet::new();
    let mut pauses = Pauses::new();
    loop {
        match delete_once(&api, replication_uid, last_attempt, names, &mut found).await {
            Ok(()) => return found.len(),
            Err(error) => pauses.after(error).await,
        }
    }
}

async fn delete_once(
    api: &Api<VolumeSnapshot>,
    replication_uid: &str,
    last_attempt: u32,
    names: &[String],
    found: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let labelled = ListParams::default().labels(&format!("{}={replication_uid}", labels::REPLICATION_UID));
    let listed = match tokio::time::timeout(API_TIMEOUT, api.list_metadata(&labelled)).await? {
        Ok(list) => list.items,
        // Without the snapshot API there are no snapshots.
        Err(kube::Error::Api(status)) if is_absent(&status) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let void = listed.iter().filter(|one| attempt_of(*one).is_some_and(|attempt| attempt <= last_attempt));
    let listed = void.map(ResourceExt::name_any);
    for name in names.iter().cloned().chain(listed).collect::<BTreeSet<_>>() {
        if delete_replica(api, &name).await? {
            found.insert(name);
        }
    }
    Ok(())
}

/// Deletes one snapshot; says whether it was there.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn delete_replica(api: &Api<VolumeSnapshot>, name: &str) -> anyhow::Result<bool> {
    match tokio::time::timeout(API_TIMEOUT, api.delete(name, &DeleteParams::default())).await? {
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(false),
        result => Ok(result.map(|_| true)?),
    }
}

/// The attempt that a replica belongs to, by its label; `None` of what no attempt has made.
pub fn attempt_of(replica: &impl ResourceExt) -> Option<u32> {
    replica.labels().get(labels::ATTEMPT)?.parse().ok()
}

/// Puts the finalizer on, or takes it off; gives the object as it is then, `None` when it is gone.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn set_finalizer(
    client: &Client,
    object: &ConsistencyGroupReplication,
    wanted: bool,
) -> anyhow::Result<Option<ConsistencyGroupReplication>> {
    let api: Api<ConsistencyGroupReplication> =
        Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let mut object = object.clone();
    loop {
        let mut finalizers = object.finalizers().to_vec();
        if finalizers.iter().any(|one| one == labels::FINALIZER) == wanted {
            return Ok(Some(object));
        }
        finalizers.retain(|one| one != labels::FINALIZER);
        if wanted {
            finalizers.push(labels::FINALIZER.to_owned());
        }
        // The resource version makes this a change of the list that was read, not of another one.
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()}});
        let (name, params, patch) = (object.name_any(), PatchParams::default(), Patch::Merge(patch));
        match tokio::time::timeout(API_TIMEOUT, api.patch(&name, &params, &patch)).await? {
            Ok(object) => return Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let uid = object.uid();
                match within(API_TIMEOUT, api.get_opt(&name)).await? {
                    Some(newer) if newer.uid() == uid => object = newer,
                    _ => return Ok(None),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Growing pauses between tries of a request that must succeed in the end. The caller's task bounds it.
pub struct Pauses {
    next: Duration,
}

impl Pauses {
    /// Begins with the shortest.
    pub fn new() -> Self {
        Self { next: API_RETRY_MIN }
    }

    /// Says what failed, and pauses.
    pub async fn after(&mut self, error: anyhow::Error) {
        tracing::warn!(error = format!("{error:#}"), pause = ?self.next, "a request failed and is tried again");
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(API_RETRY_MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::extract::Request;
    use axum::http::Method;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn replicas_of_a_later_attempt_are_left_alone() {
        let (delete, mut deleted) = mpsc::unbounded_channel();
        let server = Router::new().fallback(move |request: Request| {
            let delete = delete.clone();
            async move {
                let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                if request.method() == Method::DELETE {
                    delete.send(name).unwrap();
                    return json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string();
                }
                let snapshot = |name: &str, labels| json!({"metadata": {"name": name, "labels": labels}});
                let items = [
                    snapshot("first", json!({labels::ATTEMPT: "1"})),
                    snapshot("second", json!({labels::ATTEMPT: "2"})),
                    snapshot("third", json!({labels::ATTEMPT: "3"})),
                    snapshot("foreign", json!({})),
                ];
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
                    .to_string()
            }
        });
        let client = Client::new(server, "shop");
        let names = ["named".to_owned()];
        assert_eq!(delete_replicas(&client, "shop", "uid", 2, &names).await, 3);
        deleted.close();
        let mut all = Vec::new();
        while let Some(name) = deleted.recv().await {
            all.push(name);
        }
        assert_eq!(all, ["first", "named", "second"]);
    }
}
