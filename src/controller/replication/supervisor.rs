//! Starts runs: follows all replications, and gives each one that has work a task of its own when it is its turn.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::json;
use stillpoint_api::{ConsistencyGroupReplication, ReplicationStatus};
use stillpoint_core::limits::{API_TIMEOUT, EXPIRY_CONCURRENCY, RUN_QUEUE, WAITING_CONCURRENCY};
use stillpoint_core::run::driver::Over;
use stillpoint_core::run::epochs::outranks;
use stillpoint_core::run::expiries::{Expired, Expiries};
use stillpoint_core::run::happened::Happened;
use stillpoint_core::run::stub::Stub;
use stillpoint_core::run::turns::Turns;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::shell::{Context, Shell};
use super::sweeper::Sweeper;
use crate::controller::api::{within, within_if_there};

/// Follows all replications.
pub struct Supervisor {
    context: Context,
    sweeper: Sweeper,
    turns: Turns,
    /// Where the newest state of those that are driven is put, by UID.
    driven: HashMap<String, watch::Sender<Option<Arc<Stub>>>>,
    /// Runs, which end with the UID of their replication.
    runs: JoinSet<(String, Over)>,
    /// Writes that say of one that it waits.
    waiting: JoinSet<()>,
    expiries: Expiries,
    /// Deletions of those whose time is over; the UID of one that could not be deleted.
    expiring: JoinSet<Result<(), String>>,
    /// Runs that need no agents any more.
    asides: mpsc::Receiver<String>,
    aside: mpsc::Sender<String>,
}

impl Supervisor {
    /// Begins with nothing, and with places for so many runs.
    pub fn new(context: Context, max_runs: usize, sweeper: Sweeper) -> Self {
        let (aside, asides) = mpsc::channel(RUN_QUEUE);
        Self {
            context,
            sweeper,
            turns: Turns::new(max_runs),
            driven: HashMap::new(),
            runs: JoinSet::new(),
            waiting: JoinSet::new(),
            expiries: Expiries::default(),
            expiring: JoinSet::new(),
            asides,
            aside,
        }
    }

    /// Follows all replications until the controller stops; then waits until every run has resumed its writes.
    pub async fn follow(mut self) {
        let mut all = self.context.cluster.every_run();
        let shutdown = self.context.shutdown.clone();
        loop {
            let wake_at = [self.turns.wake_at(), self.expiry_at()].into_iter().flatten().min();
            let deadline = tokio::time::Instant::from_std(self.context.started + wake_at.unwrap_or_default());
            tokio::select! {
                () = shutdown.cancelled() => break,
                changes = all.next() => changes.into_iter().for_each(|(uid, run)| self.hear(&uid, run)),
                Some(ended) = self.runs.join_next() => self.ended(ended),
                Some(uid) = self.asides.recv() => self.turns.step_aside(&uid),
                Some(_) = self.waiting.join_next() => {}
                Some(ended) = self.expiring.join_next() => {
                    if let Ok(Err(uid)) = ended {
                        self.expiries.refused(&uid, self.context.now().monotonic);
                    }
                }
                () = tokio::time::sleep_until(deadline), if wake_at.is_some() => {}
            }
            self.start_waiting();
            self.delete_expired();
        }
        // Nobody needs a place any more, and nobody waits for one.
        self.asides.close();
        while let Some(ended) = self.runs.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a run ended early");
            }
        }
    }

    /// Tells the sweeper, and the run if there is one, of the newest state of an object.
    fn hear(&mut self, uid: &str, run: Option<Arc<Stub>>) {
        if let Some(newest) = self.driven.get(uid) {
            newest.send_replace(run.clone());
        }
        match run {
            Some(run) => self.note(run),
            None => {
                self.turns.gone(uid);
                self.expiries.gone(uid);
            }
        }
    }

    fn start_waiting(&mut self) {
        while let Some(object) = self.turns.start(self.context.now().monotonic) {
            self.start(object);
        }
        while self.waiting.len() < WAITING_CONCURRENCY
            && let Some((object, status)) = self.turns.waits(self.context.tenure.epoch(), self.context.now())
        {
            self.waiting.spawn(show_waiting(self.context.clone(), object, status));
        }
    }

    fn note(&mut self, run: Arc<Stub>) {
        let now = self.context.now();
        self.sweeper.remember(&run);
        self.expiries.update(&run, now);
        if outranks(run.leader_epoch, self.context.tenure.epoch(), now.wall) {
            self.context.tenure.has_seen(run.leader_epoch);
        }
        self.turns.update(run, now.monotonic);
    }

    /// When a deletion may begin; `None`: there is none to begin, or no place for one.
    fn expiry_at(&self) -> Option<Duration> {
        self.expiries.wake_at().filter(|_| self.may_delete())
    }

    fn may_delete(&self) -> bool {
        self.expiring.len() < EXPIRY_CONCURRENCY && self.context.tenure.is_certain()
    }

    fn delete_expired(&mut self) {
        let now = self.context.now().monotonic;
        while self.may_delete()
            && let Some(expired) = self.expiries.expired(now)
        {
            self.expiring.spawn(delete(self.context.client.clone(), expired));
        }
    }

    fn start(&mut self, object: Arc<Stub>) {
        let uid = object.uid.clone();
        let span = tracing::info_span!("run", namespace = object.namespace, name = object.name);
        let (newest, updates) = watch::channel(Some(Arc::clone(&object)));
        self.driven.insert(uid.clone(), newest);
        let shell = Shell::new(self.context.clone(), &object, updates, self.aside.clone());
        self.runs.spawn(async move { (uid, contained(shell.drive()).await) }.instrument(span));
    }

    fn ended(&mut self, ended: Result<(String, Over), tokio::task::JoinError>) {
        let (uid, over) = match ended {
            Ok(ended) => ended,
            // Panics are contained, and nobody aborts a run.
            Err(error) => return tracing::error!(%error, "a run ended early"),
        };
        match &over {
            Over::Failed(why) => tracing::warn!(%uid, "a run could not go on and is tried again: {why}"),
            Over::Outranked(epoch) => {
                tracing::warn!(%uid, epoch, "a leader of a higher epoch works on this run, or has");
                self.context.tenure.has_seen(*epoch);
            }
            // What is left was told.
            Over::Ended | Over::Later(_) | Over::Left(_) => {}
        }
        let there = self.driven.remove(&uid).is_some_and(|newest| newest.borrow().is_some());
        self.turns.ended(&uid, &over, there, self.context.now().monotonic);
    }
}

/// Runs to the end, or to a panic, which is then a failure of this run alone.
async fn contained(run: impl Future<Output = Over>) -> Over {
    // What a run shares with others is whole after every step: maps behind locks, and channels.
    let ended = AssertUnwindSafe(run).catch_unwind().await;
    ended.unwrap_or_else(|_| Over::Failed("the run panicked; the log says where".to_owned()))
}

/// Deletes an object whose time is over, if it is still what it was. Gives its UID when that is to be tried again.
async fn delete(client: Client, expired: Expired) -> Result<(), String> {
    let Expired { uid, namespace, name, resource_version } = expired;
    let api: Api<ConsistencyGroupReplication> = Api::namespaced(client, &namespace);
    let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let changed = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_conflict());
    // Of one that has changed the watch tells, and then it is judged anew.
    let deleted = async {
        api.delete(&name, &params).await.map(drop).or_else(|error| if changed(&error) { Ok(()) } else { Err(error) })
    };
    match within_if_there(API_TIMEOUT, deleted).await {
        Ok(_) => tracing::info!(namespace, name, "was deleted when its ttlSecondsAfterFinished was over"),
        Err(error) => {
            tracing::warn!(
                namespace,
                name,
                "its ttlSecondsAfterFinished is over, and it cannot be deleted yet: {error:#}"
            );
            return Err(uid);
        }
    }
    Ok(())
}

/// Writes that one waits, unless the object is not any more what it was. Tries once: it only tells of a run that waits.
async fn show_waiting(context: Context, run: Arc<Stub>, status: ReplicationStatus) {
    let resource = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &run.namespace, &resource);
    let mut object = DynamicObject::new(&run.name, &resource).within(&run.namespace).data(json!({"status": status}));
    object.metadata.resource_version.clone_from(&run.resource_version);
    match within(API_TIMEOUT, api.replace_subresource("status", &run.name, &PostParams::default(), &object)).await {
        Ok(_) => context.events.tell(Happened::began(&status).into_iter().collect(), &run.reference()),
        Err(error) => tracing::debug!(run.name, "that a run waits was not written: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_that_panics_has_failed() {
        let over = contained(async { panic!("as a bug would") }).await;
        assert!(matches!(over, Over::Failed(_)));
    }
}
