//! Deleting a replication: in the middle of a run, and after it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::group::{Group, LockHolder, Member};
use harness::limits::DELETION;
use harness::namespace::Place;
use harness::replication::{follow, of_claims, replicate};
use harness::snapshots::of_replication;
use harness::waiting::until_gone;
use kube::ResourceExt;
use kube::api::DeleteParams;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, DeletionPolicy, Phase};

use crate::on_cluster;

const LOCKER: LockHolder = LockHolder { container: "locker", arguments: &["--type", "flock"] };

async fn delete(place: &Place, name: &str) -> Result<()> {
    let api = place.api::<ConsistencyGroupReplication>();
    api.delete(name, &DeleteParams::default()).await?;
    until_gone(&api, name, &format!("removal of cgr {name}"), DELETION).await
}

#[test]
fn deleted_in_the_middle_it_goes_and_writes_go_on() -> Result<()> {
    on_cluster("delete", async |place| {
        let [one, two] = place.cluster.two_nodes()?;
        let members =
            vec![Member::new("a", one, "loop-ext4").with_lock_holders(&[LOCKER]), Member::new("b", two, "loop-xfs")];
        let group = Group::start(place, members, |_| {}).await?;
        group.lock("a", LOCKER.container).await?;
        let mut wanted = of_claims("patient", &group.claims());
        wanted.spec.suspension.prepare_timeout = Duration::from_secs(600).into();
        let blocked = |state: &ConsistencyGroupReplication| {
            let status = state.status.as_ref();
            status.is_some_and(|status| status.members.iter().any(|member| !member.blockers.is_empty()))
        };
        follow(place, &wanted, blocked).await.context("waiting for the blocker to be shown while the run waits")?;
        delete(place, "patient").await?;
        group.unlock("a", LOCKER.container).await?;
        group.written(20).await?;
        let next = replicate(place, &of_claims("next", &group.claims()), |_| {}).await?;
        ensure!(next.phases().last() == Some(&Phase::Done), "the group is not free again: {:?}", next.status());
        Ok(())
    })
}

#[test]
fn replicas_go_or_stay_as_the_deletion_policy_says() -> Result<()> {
    on_cluster("policy", async |place| {
        let [one, _] = place.cluster.two_nodes()?;
        let group = Group::start(place, vec![Member::new("a", one, "loop-ext4")], |_| {}).await?;
        for (name, policy) in [("deleting", DeletionPolicy::Delete), ("retaining", DeletionPolicy::Retain)] {
            let mut wanted = of_claims(name, &group.claims());
            wanted.spec.deletion_policy = policy;
            let run = replicate(place, &wanted, |_| {}).await?;
            ensure!(run.phases().last() == Some(&Phase::Done), "{:?}", run.status());
            delete(place, name).await?;
            let left = of_replication(place, name).await?;
            match policy {
                DeletionPolicy::Retain => {
                    ensure!(left.len() == 1, "{} snapshots are left", left.len());
                    ensure!(left[0].metadata.deletion_timestamp.is_none(), "{:?}", left[0].metadata);
                    ensure!(left[0].owner_references().is_empty(), "{:?}", left[0].metadata);
                }
                DeletionPolicy::Delete => {
                    for snapshot in left {
                        let (api, name) = (place.api::<VolumeSnapshot>(), snapshot.name_any());
                        until_gone(&api, &name, &format!("removal of VolumeSnapshot {name}"), DELETION).await?;
                    }
                }
            }
        }
        Ok(())
    })
}
