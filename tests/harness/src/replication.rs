//! One replication, watched from before its object exists until it has ended.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use kube::api::ObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use stillpoint_api::{
    ClaimName, ConsistencyGroupReplication, ConsistencyGroupReplicationSpec, DeletionPolicy, MemberStatus, Mode, Phase,
    Replication, ReplicationStatus, Source, Suspension,
};
use tokio::time::timeout;

use crate::installed::SNAPSHOT_CLASS;
use crate::limits::REPLICATION;
use crate::namespace::Place;

/// What a replication was seen to do.
#[derive(Clone, Debug)]
pub struct Run {
    /// Every phase that the watch showed, in the order of arrival, with the time since the object was created.
    pub seen: Vec<(Phase, Duration)>,
    /// The object as it ended.
    pub last: ConsistencyGroupReplication,
}

impl Run {
    /// The phases that the watch showed.
    pub fn phases(&self) -> Vec<Phase> {
        self.seen.iter().map(|(phase, _)| *phase).collect()
    }

    /// The status in which it ended.
    pub fn status(&self) -> ReplicationStatus {
        self.last.status.clone().unwrap_or_default()
    }

    /// A member of the status.
    ///
    /// # Errors
    /// It is not listed.
    pub fn member(&self, claim: &str) -> Result<MemberStatus> {
        let found = self.status().members.into_iter().find(|member| member.persistent_volume_claim.name == claim);
        found.with_context(|| format!("claim {claim} is not a member in the status"))
    }

    /// Names of the snapshots in the status, in the order of these claims.
    ///
    /// # Errors
    /// A claim has no replica.
    pub fn snapshots(&self, claims: &[&str]) -> Result<Vec<String>> {
        let replica = |claim: &&str| {
            let replica = self.member(claim)?.replica.with_context(|| format!("claim {claim} has no replica"))?;
            Ok(replica.name)
        };
        claims.iter().map(replica).collect()
    }
}

/// A replication of these claims with the test driver's snapshot class, in the default mode.
pub fn of_claims(name: &str, claims: &[&str]) -> ConsistencyGroupReplication {
    let names = claims.iter().map(|claim| ClaimName((*claim).into())).collect();
    let mut replication = Replication::default();
    replication.volume_snapshot.get_or_insert_default().volume_snapshot_class_name = Some(SNAPSHOT_CLASS.into());
    let spec = ConsistencyGroupReplicationSpec {
        source: Source { persistent_volume_claim_names: Some(names), ..Source::default() },
        mode: Mode::Replicate,
        suspension: Suspension::default(),
        replication: Some(replication),
        deletion_policy: DeletionPolicy::Delete,
        ttl_seconds_after_finished: None,
        retry: None,
    };
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    ConsistencyGroupReplication { metadata, spec, status: None }
}

/// Creates the object and follows it until it has ended. `seen` is told every state that the watch shows.
///
/// # Errors
/// The API server refuses it, or it does not end in time.
pub async fn replicate(
    place: &Place,
    wanted: &ConsistencyGroupReplication,
    mut seen: impl FnMut(&ConsistencyGroupReplication),
) -> Result<Run> {
    follow(place, wanted, |state| {
        seen(state);
        state.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_final)
    })
    .await
}

/// Creates the object and follows it until `enough` says so.
///
/// # Errors
/// The API server refuses it, or it takes too long, or it is deleted.
pub async fn follow(
    place: &Place,
    wanted: &ConsistencyGroupReplication,
    mut enough: impl FnMut(&ConsistencyGroupReplication) -> bool,
) -> Result<Run> {
    let name = wanted.metadata.name.clone().context("the replication needs a name")?;
    let api = place.api::<ConsistencyGroupReplication>();
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let limit = REPLICATION
        + duration(&wanted.spec.suspension.prepare_timeout)
        + duration(&wanted.spec.suspension.hold_timeout);
    let mut run: Option<Run> = None;
    let mut created = Instant::now();
    let watch = async {
        let mut events = pin!(watcher(api, config));
        while let Some(event) = events.try_next().await.with_context(|| format!("cannot watch cgr {name}"))? {
            match event {
                // The watch began before the object, so that it shows every state.
                Event::InitDone if run.is_none() => {
                    created = Instant::now();
                    place.create(wanted).await?;
                }
                Event::Apply(state) | Event::InitApply(state) => {
                    let run = run.get_or_insert_with(|| Run { seen: Vec::new(), last: state.clone() });
                    note(run, state, created.elapsed());
                    if enough(&run.last) {
                        return Ok(());
                    }
                }
                Event::Delete(_) => bail!("cgr {name} was deleted"),
                Event::Init | Event::InitDone => {}
            }
        }
        bail!("the watch of cgr {name} ended")
    };
    let ended = timeout(limit, watch).await;
    match (ended, run) {
        (Ok(ended), run) => {
            ended?;
            run.context("the watch showed nothing")
        }
        (Err(_), run) => {
            let status = run.and_then(|run| run.last.status);
            bail!(
                "cgr {name} did not come to its end within {limit:?}; its status: {}",
                serde_json::to_string(&status)?
            )
        }
    }
}

fn note(run: &mut Run, state: ConsistencyGroupReplication, since: Duration) {
    let phase = state.status.as_ref().and_then(|status| status.phase);
    if let Some(phase) = phase
        && run.seen.last().is_none_or(|(last, _)| *last != phase)
    {
        run.seen.push((phase, since));
    }
    run.last = state;
}

/// A duration of the API as the standard library's; a negative one, which the API refuses, as zero.
pub fn duration(duration: &stillpoint_api::Duration) -> Duration {
    if duration.is_negative() { Duration::ZERO } else { Duration::from(*duration) }
}
