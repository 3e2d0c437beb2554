//! Applications that were not prepared for Stillpoint: the agents of their nodes cover them.

use anyhow::{Context, Result, ensure};
use harness::group::{Group, LockHolder, Member, three_filesystems};
use harness::manifests::{LOCKED_FILE, second_pod};
use harness::replication::{of_claims, replicate};
use harness::restore::{Cut, judge};
use stillpoint_api::{AgentPlace, Phase, Protection};

use crate::on_cluster;

const FLOCK: LockHolder = LockHolder { container: "flock", arguments: &["--type", "flock"] };

#[test]
fn pods_without_sidecars_are_cut_at_one_point_in_time() -> Result<()> {
    on_cluster("existing", async |place| {
        let members = three_filesystems(place.cluster.two_nodes()?).into_iter().map(Member::without_agent).collect();
        let group = Group::start(place, members, |_| {}).await?;
        let run = replicate(place, &of_claims("shop", &group.claims()), |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Done), "seen: {:?}", run.seen);
        for member in &run.status().members {
            ensure!(member.agent == Some(AgentPlace::Node), "{member:?}");
            ensure!(member.protection == Some(Protection::NodeGuardian), "{member:?}");
        }
        let cut = Cut { name: "restored".into(), snapshots: run.snapshots(&group.claims())? };
        let verdict = judge(&group, &[cut]).await?.remove(0);
        ensure!(verdict.in_order(), "{verdict:?}");
        ensure!(verdict.logs.iter().all(|log| log.log.records > 0), "{verdict:?}");
        group.written(20).await.map(drop)
    })
}

#[test]
fn a_sidecar_and_an_agent_of_a_node_hold_together_and_each_names_who_holds_a_lock() -> Result<()> {
    on_cluster("mixed", async |place| {
        let [one, two] = place.cluster.two_nodes()?;
        let members = vec![
            Member::new("a", one, "loop-ext4"),
            Member::new("b", two, "loop-xfs").without_agent().with_lock_holders(&[FLOCK]),
        ];
        let group = Group::start(place, members, |_| {}).await?;
        group.lock("b", FLOCK.container).await?;
        let mut wanted = of_claims("blocked", &group.claims());
        wanted.spec.suspension.prepare_timeout = std::time::Duration::from_secs(3).into();
        let run = replicate(place, &wanted, |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Aborted), "seen: {:?}", run.seen);
        let blocker = run.member("b")?.blockers.into_iter().next().context("no blocker")?;
        ensure!(blocker.reason == "LockHeld" && blocker.pod.as_deref() == Some("store-b"), "{blocker:?}");
        ensure!(blocker.container.as_deref() == Some(FLOCK.container), "{blocker:?}");
        let path = blocker.path.as_deref().map(|path| path.trim_start_matches('/'));
        ensure!(path == Some(LOCKED_FILE), "{blocker:?}");

        group.unlock("b", FLOCK.container).await?;
        let run = replicate(place, &of_claims("free", &group.claims()), |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Done), "seen: {:?}", run.seen);
        let agents: Vec<_> = run.status().members.iter().map(|member| member.agent).collect();
        ensure!(agents == [Some(AgentPlace::Sidecar), Some(AgentPlace::Node)], "{agents:?}");
        group.written(20).await.map(drop)
    })
}

#[test]
fn a_volume_that_pods_of_one_node_mount_in_part_is_cut_and_the_pod_with_a_lock_is_named() -> Result<()> {
    on_cluster("shared", async |place| {
        let [one, _] = place.cluster.two_nodes()?;
        let member = Member::new("a", one, "loop-ext4").without_agent().in_directory("db");
        let group = Group::start(place, vec![member.clone()], |_| {}).await?;
        let other = member.with_lock_holders(&[FLOCK]);
        place.create(&second_pod("other", &other)?).await?;
        group.pod_ready("other").await?;
        group.lock_in_pod("other").await?;
        let mut wanted = of_claims("blocked", &group.claims());
        wanted.spec.suspension.prepare_timeout = std::time::Duration::from_secs(3).into();
        let run = replicate(place, &wanted, |_| {}).await?;
        let blocker = run.member("a")?.blockers.into_iter().next().context("no blocker")?;
        ensure!(blocker.reason == "LockHeld" && blocker.pod.as_deref() == Some("other"), "{blocker:?}");

        group.end_pod("other").await?;
        let run = replicate(place, &of_claims("free", &group.claims()), |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Done), "seen: {:?}", run.seen);
        group.written(20).await.map(drop)
    })
}
