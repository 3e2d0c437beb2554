//! What becomes of a run, seen by watches that begin before it does.

use std::collections::BTreeSet;
use std::pin::pin;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase, labels};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::kind::Moment;
use super::limits::MOMENT;
use crate::namespace::Place;

/// What was seen of one run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How many of the two watches have begun.
    begun: usize,
    /// The object.
    pub run: Option<ConsistencyGroupReplication>,
    /// Names of the snapshots whose cut was taken.
    pub cuts: BTreeSet<String>,
}

impl Seen {
    /// The phase of the run.
    pub fn phase(&self) -> Option<Phase> {
        self.run.as_ref()?.status.as_ref()?.phase
    }

    /// Whether the run has ended.
    pub fn has_ended(&self) -> bool {
        self.phase().is_some_and(Phase::is_final)
    }

    /// Whether the run of this many members has come to a moment.
    fn has_come_to(&self, moment: Moment, members: usize) -> bool {
        let held = || matches!(self.phase(), Some(Phase::Ready | Phase::Replicating));
        match moment {
            // Locked for both: with the second the lock is dropped when this is reached.
            Moment::Preparing | Moment::Suspending => self.waits_for_a_lock(),
            Moment::Held => held(),
            Moment::Cutting => !self.cuts.is_empty(),
            Moment::Releasing => self.cuts.len() == members,
            Moment::After => self.phase() == Some(Phase::Done),
        }
    }

    fn waits_for_a_lock(&self) -> bool {
        let status = self.run.as_ref().and_then(|run| run.status.as_ref());
        status.is_some_and(|status| status.members.iter().any(|member| !member.blockers.is_empty()))
    }
}

/// The watches of one run. Dropped, they end.
pub struct Follower {
    seen: Receiver<Seen>,
    _watches: JoinSet<()>,
}

impl Follower {
    /// Begins to watch a run that is not there yet; from now on nothing is missed.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn begin(place: &Place, name: &str) -> Result<Self> {
        let (sender, seen) = channel(Seen::default());
        let mut watches = JoinSet::new();
        let runs = Config::default().fields(&format!("metadata.name={name}"));
        watches.spawn(watch(place.api::<ConsistencyGroupReplication>(), runs, sender.clone(), |seen, run| {
            seen.run = Some(run);
        }));
        let snapshots = Config::default().labels(&format!("{}={name}", labels::REPLICATION));
        watches.spawn(watch(place.api::<VolumeSnapshot>(), snapshots, sender, |seen, snapshot| {
            if snapshot.status.as_ref().is_some_and(|status| status.creation_time.is_some()) {
                seen.cuts.insert(snapshot.name_any());
            }
        }));
        let mut follower = Self { seen, _watches: watches };
        follower.wait("its watches to begin", |seen| seen.begun == 2).await?;
        Ok(follower)
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until the run of this many members comes to a moment.
    ///
    /// # Errors
    /// It ends before, or takes too long.
    pub async fn moment(&mut self, moment: Moment, members: usize) -> Result<()> {
        let what = format!("the moment {moment}");
        let seen = self.wait(&what, |seen| seen.has_come_to(moment, members) || seen.has_ended()).await?;
        if !seen.has_come_to(moment, members) {
            let status = seen.run.and_then(|run| run.status).unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let why = ready.map(|ready| format!("{}: {}", ready.reason, ready.message)).unwrap_or_default();
            bail!("the run ended before {what}, {:?}, {why}", status.phase);
        }
        Ok(())
    }

    /// Waits until the run has ended, for as long as it takes.
    pub async fn end(&mut self) {
        // The watches never end, so neither does this fail.
        let _ = self.seen.wait_for(Seen::has_ended).await;
    }

    async fn wait(&mut self, what: &str, condition: impl FnMut(&Seen) -> bool) -> Result<Seen> {
        if let Ok(seen) = timeout(MOMENT, self.seen.wait_for(condition)).await {
            return Ok(seen.context("the watches have ended")?.clone());
        }
        bail!("waited {MOMENT:?} in vain for {what}; seen: {:?}", self.seen().run)
    }
}

/// Tells what a watch shows. It mends itself.
async fn watch<K>(api: Api<K>, config: Config, seen: Sender<Seen>, note: impl Fn(&mut Seen, K))
where
    K: kube::Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut begun = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitDone) if !begun => {
                begun = true;
                seen.send_modify(|seen| seen.begun += 1);
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => seen.send_modify(|seen| note(seen, object)),
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) | Err(_) => {}
        }
    }
}
