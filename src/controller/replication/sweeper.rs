//! Watches all replicas and deletes those of voided attempts, as [`Sweep`] judges.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, API_TIMEOUT, LATE_CONCURRENCY, MAX_REMEMBERED_RUNS};
use stillpoint_core::replica::all_objects;
use stillpoint_core::replica::removal::Removal;
use stillpoint_core::run::sweep::{Judgement, Sweep, Voided};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::removal::{delete_replica, remove};
use super::requests::within;

/// What is known of void attempts. A clone is another handle on the same knowledge.
#[derive(Clone)]
pub struct Sweeper {
    sweep: Arc<Mutex<Sweep>>,
    voided: mpsc::Sender<Voided>,
}

type Replica = PartialObjectMeta<DynamicObject>;

/// Something to look at.
enum Work {
    Replica(ApiResource, Box<Replica>),
    Voided(Voided),
}

/// Starts to sweep. The task never ends by itself.
pub fn start(client: Client) -> (Sweeper, AbortHandle) {
    let (sweeper, voided) = Sweeper::new();
    let task = tokio::spawn(follow(client, sweeper.clone(), voided));
    (sweeper, task.abort_handle())
}

impl Sweeper {
    /// Knows nothing yet. The other end gives every replication whose replicas are void, once.
    pub fn new() -> (Self, mpsc::Receiver<Voided>) {
        let (voided, to_sweep) = mpsc::channel(MAX_REMEMBERED_RUNS);
        (Self { sweep: Arc::default(), voided }, to_sweep)
    }

    /// Remembers what an object says of its attempts.
    pub fn remember(&self, object: &ConsistencyGroupReplication) {
        let mut sweep = self.lock();
        if let Some(voided) = sweep.remember(object)
            && self.voided.try_send(voided).is_err()
        {
            // What finds no place is not remembered either, so that the next look at the object tries again.
            sweep.forget(&object.uid().unwrap_or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(client: Client, sweeper: Sweeper, voided: mpsc::Receiver<Voided>) {
    let voided = ReceiverStream::new(voided).map(Work::Voided).boxed();
    let replicas = stream::select_all(all_objects().into_iter().map(|resource| replicas(&client, resource)));
    stream::select(replicas, voided)
        .for_each_concurrent(LATE_CONCURRENCY, |work| match work {
            Work::Replica(resource, replica) => judge(&client, &sweeper, resource, replica).boxed(),
            Work::Voided(voided) => {
                let client = client.clone();
                async move {
                    let removal = Removal::new(voided.removes(), voided.last_attempt);
                    remove(&client, &voided.namespace, removal).await;
                }
                .boxed()
            }
        })
        .await;
}

fn replicas(client: &Client, resource: ApiResource) -> BoxStream<'static, Work> {
    let config = watcher::Config::default().labels(labels::REPLICATION_UID);
    watcher(Api::<Replica>::all_with(client.clone(), &resource), config)
        .default_backoff()
        .filter_map(move |event| {
            std::future::ready(match event {
                Ok(watcher::Event::Apply(replica) | watcher::Event::InitApply(replica)) => {
                    Some(Work::Replica(resource.clone(), Box::new(replica)))
                }
                Ok(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone) => None,
                // Also: the resource is not installed. It may be later.
                Err(error) => {
                    tracing::debug!(%error, "replicas cannot be watched");
                    None
                }
            })
        })
        .boxed()
}

/// Deletes a replica if its attempt is void. Tries until that is decided and done: no event will tell of it again.
async fn judge(client: &Client, sweeper: &Sweeper, resource: ApiResource, replica: Box<Replica>) {
    let mut pause = API_RETRY_MIN;
    while let Err(error) = judge_once(client, sweeper, &resource, &replica).await {
        let (name, namespace) = (replica.name_any(), replica.namespace());
        tracing::warn!(name, namespace, "a replica could not be judged, and it is tried again: {error:#}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(API_RETRY_MAX);
    }
}

async fn judge_once(
    client: &Client,
    sweeper: &Sweeper,
    resource: &ApiResource,
    replica: &Replica,
) -> anyhow::Result<()> {
    let (Some(name), Some(namespace)) = (replica.labels().get(labels::REPLICATION), replica.namespace()) else {
        return Ok(());
    };
    if sweeper.lock().judge(replica) == Judgement::Read {
        let api: Api<ConsistencyGroupReplication> = Api::namespaced(client.clone(), &namespace);
        let replication = within(API_TIMEOUT, api.get_opt(name)).await?;
        if let Some(replication) = replication
            && replication.uid().as_ref() == replica.labels().get(labels::REPLICATION_UID)
        {
            sweeper.remember(&replication);
        }
    }
    if sweeper.lock().judge(replica) != Judgement::Delete {
        return Ok(());
    }
    tracing::info!(name = replica.name_any(), namespace, "deletes a replica of a voided attempt that turned up late");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, resource);
    delete_replica(&api, &replica.name_any()).await?;
    Ok(())
}
