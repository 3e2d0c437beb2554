//! Deletes the replicas of voided attempts that turn up, as [`Sweep`] judges.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use futures::StreamExt;
use futures::stream;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::{
    API_TIMEOUT, CLEAN_UP_RETRY_MAX, LATE_CONCURRENCY, LATE_TRIES, LATE_WAITING, MAX_REMEMBERED_RUNS,
};
use stillpoint_core::pauses::Pauses;
use stillpoint_core::replica::removal::{Removal, Scope};
use stillpoint_core::run::stub::Stub;
use stillpoint_core::run::sweep::{Judgement, Sweep, Voided};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use super::removal::remove;
use crate::controller::api::within;
use crate::controller::cluster::EveryReplica;

/// What is known of void attempts. A clone is another handle on the same knowledge.
#[derive(Clone)]
pub struct Sweeper {
    sweep: Arc<Mutex<Sweep>>,
    voided: mpsc::Sender<Voided>,
}

/// Something to look at.
enum Work {
    Replica(Box<DynamicObject>),
    Voided(Voided),
}

/// Starts to sweep. The task never ends by itself.
pub fn start(client: Client, replicas: EveryReplica) -> (Sweeper, AbortHandle) {
    let (sweeper, voided) = Sweeper::new();
    let task = tokio::spawn(follow(client, sweeper.clone(), replicas, voided));
    (sweeper, task.abort_handle())
}

impl Sweeper {
    /// Knows nothing yet. The other end gives every replication whose replicas are void, once.
    pub fn new() -> (Self, mpsc::Receiver<Voided>) {
        let (voided, to_sweep) = mpsc::channel(MAX_REMEMBERED_RUNS);
        (Self { sweep: Arc::default(), voided }, to_sweep)
    }

    /// Remembers what an object says of its attempts.
    pub fn remember(&self, object: &Stub) {
        let mut sweep = self.lock();
        if let Some(voided) = sweep.remember(object)
            && self.voided.try_send(voided).is_err()
        {
            // What finds no place is not remembered either, so that the next look at the object tries again.
            sweep.forget(&object.uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(client: Client, sweeper: Sweeper, replicas: EveryReplica, voided: mpsc::Receiver<Voided>) {
    let voided = ReceiverStream::new(voided).map(Work::Voided).boxed();
    let replicas = stream::unfold(replicas, |mut replicas| async { Some((replicas.next().await, replicas)) });
    let replicas = replicas.flat_map(stream::iter).map(|(_, replica)| Work::Replica(Box::new(replica)));
    let places = Semaphore::new(LATE_CONCURRENCY);
    stream::select(replicas.boxed(), voided)
        .for_each_concurrent(LATE_WAITING, |work| deal_with(&client, &sweeper, &places, work))
        .await;
}

/// Tries until it is decided and done, because no event will tell of it again; or until it is clear that it will not be soon. A
/// place is held during a try, not between two.
async fn deal_with(client: &Client, sweeper: &Sweeper, places: &Semaphore, work: Work) {
    let mut pauses = Pauses::up_to(CLEAN_UP_RETRY_MAX);
    for _ in 0..LATE_TRIES {
        let Ok(place) = places.acquire().await else { return };
        let tried = match &work {
            Work::Replica(replica) => judge(client, sweeper, replica).await,
            Work::Voided(voided) => remove_voided(client, voided).await,
        };
        drop(place);
        let Err(error) = tried else { return };
        let pause = pauses.take();
        tracing::warn!(?pause, "a replica of a void attempt may be left, and it is tried again: {error:#}");
        sleep(pause).await;
    }
}

async fn remove_voided(client: &Client, voided: &Voided) -> anyhow::Result<()> {
    let removal = Removal::new(voided.removes(), Scope::up_to(voided.last_attempt));
    match remove(client, &voided.namespace, removal).await.left.into_iter().next() {
        Some(left) => Err(anyhow!(left.what)),
        None => Ok(()),
    }
}

/// Deletes a replica if its attempt is void.
async fn judge(client: &Client, sweeper: &Sweeper, replica: &DynamicObject) -> anyhow::Result<()> {
    let (Some(name), Some(namespace)) = (replica.labels().get(labels::REPLICATION), replica.namespace()) else {
        return Ok(());
    };
    if sweeper.lock().judge(replica) == Judgement::Read {
        let runs = ApiResource::erase::<ConsistencyGroupReplication>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &runs);
        let replication = within(API_TIMEOUT, api.get_opt(name)).await?.map(|object| Stub::read(&object));
        if let Some(replication) = replication
            && Some(&replication.uid) == replica.labels().get(labels::REPLICATION_UID)
        {
            sweeper.remember(&replication);
        }
    }
    if sweeper.lock().judge(replica) != Judgement::Delete {
        return Ok(());
    }
    tracing::info!(name = replica.name_any(), namespace, "deletes a replica of a voided attempt that turned up late");
    match Voided::by(replica) {
        Some(voided) => remove_voided(client, &voided).await,
        None => Ok(()),
    }
}
