//! Kubernetes takes away pods and namespaces in the middle of a hold, or a volume is full: writes come back all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join;
use harness::classes::SnapshotClass;
use harness::cluster::client_program;
use harness::group::{Group, Member};
use harness::limits::{DELETION, WRITING};
use harness::manifests::storage_pod;
use harness::namespace::Place;
use harness::replication::{Run, of_claims, replicate};
use harness::restore::{Cut, judge};
use harness::snapshots::contents_of;
use harness::waiting::until_gone;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, EvictParams};
use stillpoint_api::{MemberState, Phase};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::on_cluster;

const HOLD: Duration = Duration::from_secs(4);
/// How late every cut begins, so that something can happen during the hold. Without it the run would be done.
const CUT_DELAY: &str = "2s";

async fn two_members(place: &Place) -> Result<Group> {
    let [one, two] = place.cluster.two_nodes()?;
    let members = vec![Member::new("a", one, "loop-ext4"), Member::new("b", two, "loop-xfs")];
    Group::start(place, members, |_| {}).await
}

/// Replicates with cuts that begin late, and does `act` during the hold.
async fn disturbed(group: &Group, act: impl AsyncFnOnce() -> Result<()>) -> Result<Run> {
    let class = SnapshotClass::new(&group.place, "late");
    class.create(&[("delay", CUT_DELAY)]).await?;
    let mut wanted = of_claims("disturbed", &group.claims());
    wanted.spec.suspension.hold_timeout = HOLD.into();
    if let Some(replication) = &mut wanted.spec.replication {
        replication.volume_snapshot.get_or_insert_default().volume_snapshot_class_name = Some(class.name().into());
    }
    let (sender, held) = oneshot::channel();
    let mut sender = Some(sender);
    let run = replicate(&group.place, &wanted, |state| {
        let phase = state.status.as_ref().and_then(|status| status.phase);
        if let Some(sender) = sender.take_if(|_| phase == Some(Phase::Replicating)) {
            // Nobody listens only when the other half has failed, and that is what is told then.
            let _ = sender.send(());
        }
    });
    let acted = async {
        held.await.context("there was no hold")?;
        act().await
    };
    let ended = try_join(run, acted).await.map(|(run, ())| run);
    class.delete().await?;
    ended
}

/// The replacement of a pod that is gone or on its way out.
async fn replace(group: &Group, member: &Member) -> Result<()> {
    group.place.create(&storage_pod(member)?).await?;
    group.written(20).await.context("after the pod was replaced").map(drop)
}

#[test]
fn a_pod_that_is_deleted_by_force_during_a_hold_is_replaced_on_its_node_and_writes() -> Result<()> {
    on_cluster("force-delete", async |place| {
        let group = two_members(place).await?;
        let [first, _] = &group.members[..] else { panic!("two members") };
        let run = disturbed(&group, async || {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
            place.api::<Pod>().delete(&first.pod(), &now).await?;
            replace(&group, first).await
        })
        .await?;
        ensure!(run.phases().last() == Some(&Phase::Failed), "seen: {:?}, {:?}", run.seen, run.status());
        let pod = place.api::<Pod>().get(&first.pod()).await?;
        let node = pod.spec.and_then(|spec| spec.node_name);
        ensure!(node.as_ref() == Some(&first.node), "the replacement is on {node:?}");
        Ok(())
    })
}

#[test]
fn a_node_that_is_drained_during_a_hold_keeps_nothing_suspended() -> Result<()> {
    on_cluster("drain", async |place| {
        let group = two_members(place).await?;
        let [first, _] = &group.members[..] else { panic!("two members") };
        let pods = place.api::<Pod>();
        let run = disturbed(&group, async || {
            pods.evict(&first.pod(), &EvictParams::default()).await.context("the eviction is refused")?;
            until_gone(&pods, &first.pod(), "the end of the evicted pod", DELETION).await?;
            replace(&group, first).await
        })
        .await?;
        match run.phases().last() {
            Some(Phase::Done) => in_order(&group, &run).await,
            last => {
                ensure!(last == Some(&Phase::Failed), "seen: {:?}, {:?}", run.seen, run.status());
                Ok(())
            }
        }
    })
}

/// A cut that claims to be consistent must be.
async fn in_order(group: &Group, run: &Run) -> Result<()> {
    let cut = Cut { name: "restored".into(), snapshots: run.snapshots(&group.claims())? };
    let verdict = judge(group, &[cut]).await?.remove(0);
    ensure!(verdict.in_order(), "{verdict:?}");
    Ok(())
}

#[test]
fn a_namespace_that_is_deleted_during_a_hold_goes_with_everything() -> Result<()> {
    on_cluster("namespace", async |place| {
        let doomed = Place::new(&place.cluster, "doomed").await?;
        let group = two_members(&doomed).await?;
        let namespaces = Api::<Namespace>::all(place.client());
        // The run cannot be followed to its end: it goes too.
        let _ = disturbed(&group, async || {
            namespaces.delete(&doomed.name, &DeleteParams::default()).await?;
            Ok(())
        })
        .await;
        until_gone(&namespaces, &doomed.name, "the end of the deleted namespace", DELETION).await?;
        let left = contents_of(&doomed).await?;
        ensure!(left.is_empty(), "snapshot contents are left: {left:?}");
        Ok(())
    })
}

#[test]
fn a_full_volume_is_cut_and_can_be_written_again_when_there_is_room() -> Result<()> {
    on_cluster("full", async |place| {
        let group = two_members(place).await?;
        let [first, _] = &group.members[..] else { panic!("two members") };
        let ballast = format!("{}/ballast", on_node(place, first).await?);
        let fill = ["node-exec", &first.node, "--", "sh", "-c", "! dd if=/dev/zero of=\"$1\" bs=64k", "sh", &ballast];
        client_program("tests/cluster/cluster", &fill).await.context("filling the volume")?;
        let refused = async {
            while group.stats().await?.last_error.is_none_or(|error| !error.contains("refused")) {}
            anyhow::Ok(())
        };
        timeout(WRITING, refused).await.context("the writer still finds room")??;
        let run = replicate(place, &of_claims("full", &group.claims()), |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Done), "seen: {:?}, {:?}", run.seen, run.status());
        in_order(&group, &run).await?;
        let empty = ["node-exec", &first.node, "--", "rm", &ballast];
        client_program("tests/cluster/cluster", &empty).await.context("making room again")?;
        group.written(20).await.map(drop)
    })
}

/// Where a member's volume is mounted on its node.
async fn on_node(place: &Place, member: &Member) -> Result<String> {
    let pod = place.api::<Pod>().get(&member.pod()).await?;
    let claim = place.api::<PersistentVolumeClaim>().get(&member.name).await?;
    let uid = pod.metadata.uid.context("the pod has no UID")?;
    let volume = claim.spec.and_then(|spec| spec.volume_name).context("the claim has no volume")?;
    Ok(format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount"))
}

#[test]
fn a_node_without_a_guardian_is_named_and_nothing_is_suspended() -> Result<()> {
    on_cluster("no-guardian", async |place| {
        let [one, two] = place.cluster.two_nodes()?;
        let members = vec![Member::new("a", one, "loop-ext4").without_guardian(), Member::new("b", two, "loop-xfs")];
        let group = Group::start(place, members, |_| {}).await?;
        let mut wanted = of_claims("unguarded", &group.claims());
        wanted.spec.suspension.prepare_timeout = Duration::from_secs(3).into();
        let run = replicate(place, &wanted, |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Aborted), "seen: {:?}, {:?}", run.seen, run.status());
        let member = run.member("a")?;
        ensure!(member.state == MemberState::NotReady, "{member:?}");
        ensure!(member.blockers.iter().any(|blocker| blocker.reason == "NoGuardian"), "{:?}", member.blockers);
        ensure!(run.status().hold.is_none(), "writes were suspended: {:?}", run.status());
        group.written(20).await.map(drop)
    })
}
