//! The page on restoring, command by command, by somebody who has only the documentation.

use anyhow::{Context, Result, ensure};
use harness::cluster::{checkout, client_program};
use harness::group::{Group, Member, WRITER, three_filesystems};
use harness::images::image;
use harness::limits::DELETION;
use harness::manifests::{self, APP_LABEL};
use harness::namespace::Place;
use harness::page::Page;
use harness::replication::{of_claims, replicate};
use harness::restore::read;
use harness::waiting::until_gone;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use stillpoint_api::{ConsistencyGroupReplication, Mode, Phase, Source};

use crate::on_cluster;

const RUN: &str = "shop-nightly";
const PAGE: &str = include_str!("../../../../docs/restore.md");

#[test]
fn a_group_is_restored_by_the_commands_of_the_page() -> Result<()> {
    on_cluster("restore", async |place| {
        let group = sets_with_agents(place).await?;
        let run = replicate(place, &by_label(RUN), |_| {}).await?;
        ensure!(run.phases().last() == Some(&Phase::Done), "{:?}", run.status());
        // The cut is older than the originals.
        group.written(50).await?;
        group.stop_writer().await?;
        let apps: Vec<String> = group.members.iter().map(|member| format!("statefulset/{}", member.pod())).collect();
        let apps = apps.join(" ");
        let variables = [("NAMESPACE", place.name.as_str()), ("RUN", RUN), ("APPS", &apps)];
        let mut page = Page::new(PAGE, &variables)?;

        let shown = page.run("Is the cut proven?").await?;
        ensure!(shown.contains("Done"), "{shown}");
        let listed = page.run("Is the cut proven?").await?;
        for claim in group.claims() {
            let rows = listed.lines().filter(|line| line.split_whitespace().nth(1) == Some(claim));
            ensure!(rows.count() == 1, "{claim} is not listed once: {listed}");
        }

        page.run("Side by side").await?;
        let copies = read(&group, |member| format!("{}-restored", member.name)).await?;
        ensure!(copies.in_order() && copies.logs.iter().all(|log| log.log.records > 0), "{copies:?}");
        let mut again = by_label("again");
        (again.spec.mode, again.spec.replication) = (Mode::Check, None);
        let again = replicate(place, &again, |_| {}).await?;
        ensure!(again.status().members.len() == group.members.len(), "copies joined the group: {:?}", again.status());
        page.run("Side by side").await?;

        for _ in 0..3 {
            page.run("In place").await?;
        }
        let restored = read(&group, |member| member.name.clone()).await?;
        for (restored, copy) in restored.logs.iter().zip(&copies.logs) {
            ensure!(restored.log.records == copy.log.records, "{restored:?} is not the cut: {copy:?}");
        }
        old_volumes_go(place, &mut page).await?;

        page.run("Keep the snapshots when the namespace goes").await?;
        contents_were_kept(place, group.members.len()).await?;
        page.end()
    })
}

/// A run over every claim with the label of the group.
fn by_label(name: &str) -> ConsistencyGroupReplication {
    let (key, value) = APP_LABEL;
    let selector = LabelSelector { match_labels: Some([(key.into(), value.into())].into()), ..Default::default() };
    let mut wanted = of_claims(name, &[]);
    wanted.spec.source = Source { selector: Some(selector), persistent_volume_claim_names: None };
    wanted
}

/// A running application without agents, which get theirs as the README says: with one command for each StatefulSet.
async fn sets_with_agents(place: &Place) -> Result<Group> {
    let members = three_filesystems(place.cluster.two_nodes()?);
    for member in &members {
        place.create(&manifests::claim(member)?).await?;
        place.create(&manifests::service(member)?).await?;
        place.create(&manifests::storage_set(&member.clone().without_agent())?).await?;
        rolled_out(place, member).await?;
    }
    let patch = std::env::temp_dir().join(format!("{}-agent-sidecar.yaml", place.name));
    let example = std::fs::read_to_string(checkout().join("deploy/examples/agent-sidecar.yaml"))?;
    std::fs::write(&patch, example.replace("localhost/stillpoint:dev", &image("stillpoint")))?;
    let patched = patch_all(place, &members, patch.to_str().context("a path in UTF-8")?).await;
    std::fs::remove_file(&patch)?;
    patched?;
    place.create(&manifests::writer_pod(WRITER, &members)?).await?;
    let group = Group { place: place.clone(), members };
    group.is_written().await?;
    Ok(group)
}

async fn patch_all(place: &Place, members: &[Member], patch: &str) -> Result<()> {
    for member in members {
        let arguments = ["patch", "statefulset", &member.pod(), "--namespace", &place.name, "--patch-file", patch];
        client_program("kubectl", &arguments).await?;
        rolled_out(place, member).await?;
    }
    Ok(())
}

async fn rolled_out(place: &Place, member: &Member) -> Result<()> {
    let set = format!("statefulset/{}", member.pod());
    let arguments = ["rollout", "status", &set, "--namespace", &place.name, "--timeout=5m"];
    client_program("kubectl", &arguments).await.map(drop)
}

/// The volumes that were replaced are kept until the page says otherwise.
async fn old_volumes_go(place: &Place, page: &mut Page) -> Result<()> {
    let volumes = Api::<PersistentVolume>::all(place.client());
    let replaced = format!("replaced-by={}.{RUN}", place.name);
    let names = client_program("kubectl", &["get", "pv", "--selector", &replaced, "--output", "name"]).await?;
    ensure!(names.lines().count() == 3, "the originals are not kept: {names}");
    page.run("In place").await?;
    for name in names.lines().filter_map(|name| name.split_once('/')).map(|(_, name)| name) {
        until_gone(&volumes, name, &format!("the end of volume {name}"), DELETION).await?;
    }
    Ok(())
}

/// The contents outlive their snapshots now; they are given back to the driver, so that nothing is left of the test.
async fn contents_were_kept(place: &Place, wanted: usize) -> Result<()> {
    let path = format!(
        "jsonpath={{range .items[?(@.spec.volumeSnapshotRef.namespace==\"{}\")]}}{{.metadata.name}} {{.spec.deletionPolicy}}{{\"\\n\"}}{{end}}",
        place.name
    );
    let shown = client_program("kubectl", &["get", "volumesnapshotcontents", "--output", &path]).await?;
    let kept: Vec<&str> = shown.lines().filter_map(|line| line.strip_suffix(" Retain")).collect();
    ensure!(kept.len() == wanted, "{wanted} contents should say Retain: {shown}");
    for content in kept {
        let patch = r#"{"spec": {"deletionPolicy": "Delete"}}"#;
        client_program("kubectl", &["patch", "volumesnapshotcontent", content, "--type", "merge", "--patch", patch])
            .await?;
    }
    Ok(())
}
