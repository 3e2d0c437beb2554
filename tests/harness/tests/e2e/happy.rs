//! A group that can be cut is cut.

use anyhow::{Context, Result, ensure};
use harness::cluster::client_program;
use harness::group::{Group, three_filesystems};
use harness::manifests::APP_LABEL;
use harness::replication::{of_claims, replicate};
use harness::restore::{Cut, judge};
use harness::snapshots::{Witness, of_replication};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use stillpoint_api::{Consistency, MemberState, Method, Mode, Phase, Protection, Source, labels};

use crate::on_cluster;

#[test]
fn three_filesystems_on_two_nodes_are_cut_at_one_point_in_time() -> Result<()> {
    on_cluster("happy", async |place| {
        let group = Group::start(place, three_filesystems(place.cluster.two_nodes()?), |_| {}).await?;
        group.reset_stats().await?;
        let mut wanted = of_claims("shop", &group.claims());
        let (key, value) = APP_LABEL;
        let selector = LabelSelector { match_labels: Some([(key.into(), value.into())].into()), ..Default::default() };
        wanted.spec.source = Source { selector: Some(selector), persistent_volume_claim_names: None };
        let run = replicate(place, &wanted, |_| {}).await?;
        let longest = group.stats().await?.longest_append_ms;

        let way: Vec<Phase> = run.phases().into_iter().filter(|phase| *phase != Phase::Pending).collect();
        ensure!(way == [Phase::Checking, Phase::Ready, Phase::Replicating, Phase::Done], "seen: {:?}", run.seen);
        let status = run.status();
        let listed: Vec<Phase> = status.phases.iter().map(|entry| entry.phase).collect();
        ensure!(listed.ends_with(&way), "the status lists {listed:?}, the watch showed {way:?}");
        ensure!(status.phases.is_sorted_by_key(|entry| entry.started_at.0), "{:?}", status.phases);
        ensure!(status.ready_to_use && status.creation_time.is_some(), "{status:?}");
        ensure!(status.ready_members.as_deref() == Some("3/3"), "{:?}", status.ready_members);
        ensure!(status.consistency == Some(Consistency::Crash), "{:?}", status.consistency);
        let hold = status.hold.as_ref().and_then(|hold| hold.duration).context("the status has no hold")?;
        println!("hold {hold}, longest append {longest:.0} ms");
        for member in &status.members {
            ensure!(member.state == MemberState::Released && member.suspended_for.is_some(), "{member:?}");
            ensure!(member.method == Some(Method::FilesystemFreeze), "{member:?}");
            ensure!(member.protection == Some(Protection::NodeGuardian), "{member:?}");
        }

        let kubectl = ["wait", "--for=condition=Ready", "cgr/shop", "--timeout=10s", "-n", &place.name];
        client_program("kubectl", &kubectl).await?;
        let snapshots = of_replication(place, "shop").await?;
        ensure!(snapshots.len() == 3, "{} snapshots carry the label", snapshots.len());
        for snapshot in &snapshots {
            let claim = snapshot.spec.source.persistent_volume_claim_name.clone();
            ensure!(snapshot.annotations().get(labels::CLAIM) == claim.as_ref(), "{:?}", snapshot.metadata);
            ensure!(
                snapshot.labels().get(labels::REPLICATION_UID) == run.last.uid().as_ref(),
                "{:?}",
                snapshot.metadata
            );
        }

        let cut = Cut { name: "restored".into(), snapshots: run.snapshots(&group.claims())? };
        let verdict = judge(&group, &[cut]).await?.remove(0);
        ensure!(verdict.in_order(), "{verdict:?}");
        ensure!(verdict.logs.iter().all(|log| log.log.records > 0), "{verdict:?}");
        group.written(20).await.map(drop)
    })
}

#[test]
fn check_answers_and_keeps_nothing() -> Result<()> {
    on_cluster("check", async |place| {
        let group = Group::start(place, three_filesystems(place.cluster.two_nodes()?), |_| {}).await?;
        let witness = Witness::begin(place).await?;
        let mut wanted = of_claims("question", &group.claims());
        wanted.spec.mode = Mode::Check;
        wanted.spec.replication = None;
        let run = replicate(place, &wanted, |_| {}).await?;
        let way: Vec<Phase> = run.phases().into_iter().filter(|phase| *phase != Phase::Pending).collect();
        ensure!(way == [Phase::Checking, Phase::Ready, Phase::Done], "seen: {:?}", run.seen);
        let made = witness.end().await?;
        ensure!(made.is_empty(), "snapshots were made: {made:?}");
        group.written(20).await.map(drop)
    })
}
