//! What only shows after a while: whether cuts are torn, and what was left behind. Several runs are judged together, because
//! restoring takes long.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase, labels};
use tokio::time::sleep;

use super::limits::{LEFTOVERS, PAUSE, REMOVAL};
use super::outcome::{Outcome, Wrong};
use crate::group::Group;
use crate::namespace::Place;
use crate::restore::{Cut, judge};
use crate::snapshots::contents_of;
use crate::waiting::until_gone;

/// Judges these outcomes: runs that are not `Done` left nothing, cuts of those that are show one moment. Then removes all runs
/// and sees that everything goes with them.
///
/// # Errors
/// The cluster does not answer, or a cut cannot be read.
pub async fn settle(group: &Group, outcomes: &mut [Outcome], progress: &dyn Fn(&str)) -> Result<()> {
    progress("replicas of runs that are not done go");
    let done: Vec<String> = outcomes.iter().filter(|outcome| is_done(outcome)).map(|o| o.run.clone()).collect();
    for (run, what) in left(&group.place, &done, LEFTOVERS).await? {
        note(outcomes, &run, Wrong::Left, format!("{what} is left although its run is not Done"));
    }
    progress("restoring and reading the cuts");
    judge_cuts(group, outcomes).await?;
    progress("removing the runs");
    for (run, error) in remove_all(&group.place).await? {
        note(outcomes, &run, Wrong::Stuck, error);
    }
    for (run, what) in left(&group.place, &[], LEFTOVERS).await? {
        note(outcomes, &run, Wrong::Left, format!("{what} is left although its run was removed"));
    }
    Ok(())
}

fn is_done(outcome: &Outcome) -> bool {
    outcome.phase() == Some(Phase::Done)
}

/// The outcome of a run; the last one stands in for a run that has none, such as one that missed its moment.
fn note(outcomes: &mut [Outcome], run: &str, wrong: Wrong, what: String) {
    let position = outcomes.iter().position(|outcome| outcome.run == run).unwrap_or(outcomes.len().saturating_sub(1));
    if let Some(outcome) = outcomes.get_mut(position) {
        outcome.wrongs.push((wrong, format!("{run}: {what}")));
    }
}

async fn judge_cuts(group: &Group, outcomes: &mut [Outcome]) -> Result<()> {
    let there: Vec<String> = group
        .place
        .api::<VolumeSnapshot>()
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    let mut cuts = Vec::new();
    for outcome in outcomes.iter_mut().filter(|outcome| is_done(outcome)) {
        let snapshots = snapshots(group, outcome);
        match snapshots.iter().find(|snapshot| !there.contains(snapshot)) {
            None => cuts.push(Cut { name: outcome.run.clone(), snapshots }),
            Some(missing) => {
                outcome.wrongs.push((Wrong::Torn, format!("it is Done, and its snapshot {missing:?} is not there")));
            }
        }
    }
    let verdicts = judge(group, &cuts).await?;
    for (cut, verdict) in cuts.iter().zip(verdicts) {
        for violation in verdict.violations {
            note(outcomes, &cut.name, Wrong::Torn, violation);
        }
        if verdict.logs.iter().any(|log| log.log.records == 0) {
            note(outcomes, &cut.name, Wrong::Torn, "a volume of the cut shows no record".into());
        }
    }
    Ok(())
}

/// The snapshots that a run names for the group's members, in the order of writing; an empty name for a member without one.
fn snapshots(group: &Group, outcome: &Outcome) -> Vec<String> {
    let members = outcome.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
    let of = |claim: &str| {
        let member = members.iter().find(|member| member.persistent_volume_claim.name == claim)?;
        member.replica.as_ref().map(|replica| replica.name.clone())
    };
    group.claims().into_iter().map(|claim| of(claim).unwrap_or_default()).collect()
}

/// Waits until no snapshot and no content is there but those of the runs in `kept`. Names what stays, with its run.
async fn left(place: &Place, kept: &[String], limit: Duration) -> Result<Vec<(String, String)>> {
    let began = Instant::now();
    loop {
        let all = snapshots_and_contents(place).await?;
        let left: Vec<(String, String)> = all.into_iter().filter(|(run, _)| !kept.contains(run)).collect();
        if left.is_empty() || began.elapsed() > limit {
            return Ok(left);
        }
        sleep(PAUSE).await;
    }
}

/// Every snapshot of the namespace and every content that belongs there, with the run that made it.
async fn snapshots_and_contents(place: &Place) -> Result<Vec<(String, String)>> {
    let snapshots = place.api::<VolumeSnapshot>().list(&ListParams::default()).await?;
    let mut found: Vec<(String, String)> = snapshots
        .iter()
        .map(|snapshot| {
            let run = snapshot.labels().get(labels::REPLICATION).cloned().unwrap_or_default();
            (run, format!("VolumeSnapshot {}", snapshot.name_any()))
        })
        .collect();
    found.extend(
        contents_of(place)
            .await?
            .into_iter()
            .map(|(content, snapshot)| (run_of(&snapshot), format!("VolumeSnapshotContent {content} of {snapshot}"))),
    );
    Ok(found)
}

/// The run of a snapshot that may be gone, from its name: the run's, the claim's and a hash, and a run's name here is
/// `fault-NUMBER`.
fn run_of(snapshot: &str) -> String {
    snapshot.split('-').take(2).collect::<Vec<_>>().join("-")
}

/// Removes every run of the namespace, and names those that do not go.
async fn remove_all(place: &Place) -> Result<Vec<(String, String)>> {
    let runs = place.api::<ConsistencyGroupReplication>();
    let names: Vec<String> = runs.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    let options = DeleteParams::default();
    try_join_all(names.iter().map(|name| runs.delete(name, &options))).await.context("cannot delete the runs")?;
    let mut stuck = Vec::new();
    for name in names {
        if let Err(error) = until_gone(&runs, &name, &format!("removal of {name}"), REMOVAL).await {
            stuck.push((name, format!("{error:#}")));
        }
    }
    Ok(stuck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_s_name_tells_its_run() {
        assert_eq!(run_of("fault-12-a-0123456789abcdef"), "fault-12");
    }
}
