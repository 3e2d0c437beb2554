//! The storage system fails in the middle: nothing half is left, and writes come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::classes::SnapshotClass;
use harness::group::{Group, Member};
use harness::namespace::Place;
use harness::processes::Process;
use harness::replication::{Run, of_claims, replicate};
use harness::snapshots::of_replication;
use harness::waiting::until_gone;
use kube::ResourceExt;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{MemberState, Phase, labels};

use crate::on_cluster;

const HOLD: Duration = Duration::from_secs(4);
/// What a writer may see beyond the hold limit: the prelude of the freeze, its own disk, and a busy machine. A writer that waited
/// for storage that hangs would wait for 15 s and more.
const SLACK: Duration = Duration::from_secs(6);

/// A call that hangs is given up by the snapshot sidecar after 15 s, and tried again.
const STORAGE_ANSWERS: Duration = Duration::from_secs(90);

async fn two_members(place: &Place) -> Result<Group> {
    let [one, two] = place.cluster.two_nodes()?;
    let members = vec![Member::new("a", one, "loop-ext4"), Member::new("b", two, "loop-xfs")];
    Group::start(place, members, |_| {}).await
}

/// Replicates with a class in which the snapshot of b meets the fault, and does `meanwhile` once the cuts are asked for.
async fn failed(group: &Group, fault: (&str, &str), meanwhile: impl FnOnce() -> Result<()>) -> Result<Run> {
    let place = &group.place;
    let class = SnapshotClass::new(place, "faulty");
    class.create(&[fault, ("only", "faulty-b-")]).await?;
    let run = void_cut(group, class.name(), meanwhile).await;
    // The storage system is mended: only now can it say what became of the snapshot, and only then can that be removed.
    class.delete().await?;
    class.create(&[]).await?;
    let removed = void_snapshots_go(place).await;
    class.delete().await?;
    removed.and(run)
}

/// Replicates, and sees that the cut is void and that writes were given back in time.
async fn void_cut(group: &Group, class: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<Run> {
    let mut wanted = of_claims("faulty", &group.claims());
    wanted.spec.suspension.hold_timeout = HOLD.into();
    if let Some(replication) = &mut wanted.spec.replication {
        replication.volume_snapshot.get_or_insert_default().volume_snapshot_class_name = Some(class.into());
    }
    group.reset_stats().await?;
    let (mut meanwhile, mut done) = (Some(meanwhile), Ok(()));
    let run = replicate(&group.place, &wanted, |state| {
        let phase = state.status.as_ref().and_then(|status| status.phase);
        if let Some(meanwhile) = meanwhile.take_if(|_| phase == Some(Phase::Replicating)) {
            done = meanwhile();
        }
    })
    .await?;
    done?;
    let stats = group.written(20).await?;
    println!("longest append {:.0} ms", stats.longest_append_ms);
    ensure!(run.phases().last() == Some(&Phase::Failed), "seen: {:?}, {:?}", run.seen, run.status());
    ensure!(!run.status().ready_to_use && run.status().consistency.is_none(), "{:?}", run.status());
    ensure!(Duration::from_secs_f64(stats.longest_append_ms / 1e3) < HOLD + SLACK, "{stats:?}");
    Ok(run)
}

async fn void_snapshots_go(place: &Place) -> Result<()> {
    for snapshot in of_replication(place, "faulty").await? {
        let name = snapshot.name_any();
        ensure!(snapshot.metadata.deletion_timestamp.is_some(), "the void snapshot {name} is kept");
        until_gone(&place.api::<VolumeSnapshot>(), &name, &format!("removal of {name}"), STORAGE_ANSWERS).await?;
    }
    Ok(())
}

#[test]
fn an_error_of_the_storage_system_voids_the_whole_cut() -> Result<()> {
    on_cluster("fail", async |place| {
        let group = two_members(place).await?;
        let run = failed(&group, ("fail", "the array is on fire"), || Ok(())).await?;
        let said = serde_json::to_string(&run.status())?;
        ensure!(said.contains("the array is on fire"), "the status does not say why: {said}");
        Ok(())
    })
}

#[test]
fn a_storage_system_that_hangs_does_not_hold_writes_beyond_the_limit() -> Result<()> {
    on_cluster("hang", async |place| {
        let group = two_members(place).await?;
        failed(&group, ("hang", "true"), || Ok(())).await.map(drop)
    })
}

/// Without the kill the delay would be short enough for the run to be done.
#[test]
fn an_agent_that_is_killed_during_the_hold_voids_the_cut_and_writes_go_on() -> Result<()> {
    on_cluster("killed", async |place| {
        let group = two_members(place).await?;
        let agent = Process::of_sidecar(place, "store-a", labels::AGENT_CONTAINER).await?;
        let run = failed(&group, ("delay", "2s"), || agent.kill()).await?;
        let member = run.member("a")?;
        ensure!(member.state == MemberState::Broken, "{member:?}");
        Ok(())
    })
}
