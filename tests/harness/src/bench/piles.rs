//! A controller beside piles of objects: the memory that it takes, and whether others are served while one tenant floods it.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::{MAX_MEMBERS, MAX_RUNS};
use tokio::time::timeout;

use super::fleet::Fleet;
use super::load::{Stage, Stages};
use super::objects::DRIVER;
use super::runs::{self, Wanted};
use super::scripted::{Script, ScriptedAgent};
use super::system::System;
use super::version::Version;
use crate::namespace::Place;

/// Objects that are made at the same time.
const TOGETHER: usize = 16;
/// Members of the groups that are to be served.
const SERVED_MEMBERS: usize = 10;
/// Bytes of annotations of each pod that is none of a group, as tools leave them.
const ANNOTATION: usize = 8 * 1024;
/// What a tenant has under way at the same time of each. More would show what the API server of the benchmark bears.
const FLOOD_TOGETHER: usize = 2;
/// How long a tenant opens sessions and creates objects in a loop.
const FLOOD: Duration = Duration::from_secs(30);
/// Until a pile is made, or worked off.
const LIMIT: Duration = Duration::from_secs(900);

/// How large the piles are.
#[derive(Clone, Copy, Debug)]
pub struct Piles {
    /// Ended replications, each with the status of 100 members.
    pub finished: usize,
    /// Pods in the namespace of a run.
    pub pods: usize,
    /// Claims in the same one.
    pub claims: usize,
    /// Replications that wait for their turn.
    pub waiting: usize,
}

impl Piles {
    /// As large as a controller is to bear: 1,000 ended replications, 5,000 pods, 3,000 claims, 10,000 replications that wait.
    pub const FULL: Self = Self { finished: 1_000, pods: 5_000, claims: 3_000, waiting: 10_000 };

    /// So many percent of each.
    #[must_use]
    pub fn percent(self, percent: usize) -> Self {
        let part = |of: usize| (of * percent / 100).max(1);
        Self {
            finished: part(self.finished),
            pods: part(self.pods),
            claims: part(self.claims),
            waiting: part(self.waiting),
        }
    }
}

/// What was seen.
pub struct Found {
    /// The controllers after each stage. Peaks are those of the process, which was started anew where a new leader is named.
    pub stages: Vec<Stage>,
    /// How long each run of a neighbour took while the tenant flooded the controller.
    pub served: Vec<Duration>,
    /// Sessions that the tenant opened meanwhile.
    pub sessions: usize,
    /// Replications that it created meanwhile.
    pub created: usize,
}

/// Piles objects up before and beside the controller of a version, and looks at it after every stage. `progress` is told what
/// happens.
///
/// # Errors
/// The controller cannot be run, an object is refused, a run of a neighbour does not end as Done.
pub async fn measure(version: &Version, directory: &Path, piles: Piles, progress: impl Fn(&str)) -> Result<Found> {
    let client = &version.cluster.client;
    let first = System::start(version, &directory.join("first"))?;
    // Named here, filled when no controller works on what is not complete yet.
    let mut crowded = Fleet::new(version, 1, SERVED_MEMBERS, |_| {}).await?;
    let mut neighbour = Fleet::new(version, 1, SERVED_MEMBERS, |_| {}).await?;
    let mut busy = Fleet::new(version, 1, MAX_RUNS, |_| {}).await?;
    drop(first);
    pile_up(crowded.place(), piles, &progress).await?;

    let second = System::start(version, &directory.join("second"))?;
    second.listening().await?;
    let mut stages = Stages::begin(&second);
    crowded.connect(second.port, |_| {}).await?;
    neighbour.connect(second.port, |_| {}).await?;
    stages.end(format!("a new leader, {} finished objects of {MAX_MEMBERS} members", piles.finished)).await?;
    runs::until_done(client, &crowded.groups("crowded", 1, runs::check), LIMIT, |_| {}).await?;
    stages.end(format!("a run beside {} pods and {} claims", piles.pods, piles.claims)).await?;
    busy.connect_as(Script::Waits, second.port, |_| {}).await?;
    create_all(client, &busy.groups("busy", MAX_RUNS, waits_long), &progress).await?;
    let waiting = nothing(busy.place(), "waiting", piles.waiting);
    until_all_say(client, &waiting, &["Pending"], &progress).await?;
    stages.end(format!("{} objects wait for their turn", piles.waiting)).await?;
    let mut seen = stages.seen;
    drop(second);

    let third = System::start(version, &directory.join("third"))?;
    third.listening().await?;
    let mut stages = Stages::begin(&third);
    until_ended(client, &waiting, &progress).await?;
    stages.end(format!("a new leader, which has dealt with those {}", piles.waiting)).await?;
    neighbour.connect(third.port, |_| {}).await?;
    progress("one tenant floods the controller");
    let began = Instant::now();
    let (served, flooded) = tokio::join!(serve(client, &neighbour, began), flood(client, &busy, third.port, began));
    let (served, (sessions, created)) = (served?, flooded?);
    stages.end(format!("{sessions} sessions and {created} objects of one tenant")).await?;
    seen.extend(stages.seen);
    Ok(Found { stages: seen, served, sessions, created })
}

/// Ended replications, and pods and claims that are no members.
async fn pile_up(place: &Place, piles: Piles, progress: &impl Fn(&str)) -> Result<()> {
    let finished = stream::iter((0..piles.finished).map(|number| finished(place, number)));
    each(finished, "finished objects", progress).await?;
    each(stream::iter((0..piles.claims).map(|number| claim(place, number))), "claims", progress).await?;
    each(stream::iter((0..piles.pods).map(|number| pod(place, number, piles.claims))), "pods", progress).await
}

/// Does all of it, some at the same time.
async fn each<F: Future<Output = Result<()>>>(
    all: impl stream::Stream<Item = F>,
    what: &str,
    progress: &impl Fn(&str),
) -> Result<()> {
    let mut done = pin!(all.buffer_unordered(TOGETHER));
    let mut count = 0_usize;
    while done.try_next().await?.is_some() {
        count += 1;
        if count.is_multiple_of(100) {
            progress(&format!("{count} {what}"));
        }
    }
    Ok(())
}

async fn claim(place: &Place, number: usize) -> Result<()> {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": format!("pile-{number}"), "labels": {"app": "pile"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}},
            "storageClassName": "",
            "volumeName": format!("pile-{}-{number}", place.name),
        },
    }))?;
    place.create(&claim).await.map(drop)
}

/// Every pod mounts a claim, so that it may concern somebody.
async fn pod(place: &Place, number: usize, claims: usize) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("pile-{number}"), "annotations": {"example.com/notes": "x".repeat(ANNOTATION)}},
        "spec": {
            "nodeName": "node-1",
            "containers": [{
                "name": "writer",
                "image": "writer",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("pile-{}", number % claims)}}],
        },
    }))?;
    place.create(&pod).await.map(drop)
}

/// A replication that has ended long ago, whose replicas go when it is deleted.
async fn finished(place: &Place, number: usize) -> Result<()> {
    let kind = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let api = Api::<DynamicObject>::namespaced_with(place.client(), &place.name, &kind);
    let name = format!("finished-{number}");
    let claims: Vec<String> = (0..MAX_MEMBERS).map(|member| format!("data-of-a-database-{number}-{member}")).collect();
    let mut object = DynamicObject::new(&name, &kind).within(&place.name);
    object.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
    object.data = json!({"spec": runs::replicate(&claims)});
    api.create(&PostParams::default(), &object).await.with_context(|| format!("{name} is refused"))?;
    let status = Patch::Merge(json!({"status": done(number, &claims)}));
    api.patch_status(&name, &PatchParams::default(), &status).await?;
    Ok(())
}

fn done(number: usize, claims: &[String]) -> Value {
    const AT: &str = "2026-01-01T00:00:00.000000Z";
    let member = |(index, claim): (usize, &String)| {
        json!({
            "persistentVolumeClaim": {"name": claim, "uid": format!("0f3f6c1a-0000-4000-8000-{number:06}{index:06}")},
            "volume": format!("pvc-0f3f6c1a-0000-4000-8000-{number:06}{index:06}"),
            "driver": DRIVER,
            "pod": format!("database-{number}-{index}"),
            "node": "node-1",
            "state": "Released",
            "method": "FilesystemFreeze",
            "protection": "NodeGuardian",
            "readyAt": AT,
            "releasedAt": AT,
            "suspendedFor": "12ms",
            "replica": {
                "kind": "VolumeSnapshot",
                "name": format!("finished-{number}-1-{claim}"),
                "creationTime": AT,
                "requestedAt": AT,
                "cutAt": AT,
                "cutTook": "8ms",
                "readyToUse": true,
            },
        })
    };
    let phase = |phase: &str| json!({"phase": phase, "startedAt": AT});
    json!({
        "phase": "Done",
        "phases": (["Checking", "Ready", "Replicating", "Done"].map(phase)),
        "attempt": 1,
        "leaderEpoch": 1,
        "observedGeneration": 1,
        "readyToUse": true,
        "consistency": "Crash",
        "readyMembers": format!("{0}/{0}", claims.len()),
        "members": claims.iter().enumerate().map(member).collect::<Vec<_>>(),
    })
}

/// A group whose members are never ready in the time of the benchmark.
fn waits_long(claims: &[String]) -> Value {
    json!({
        "source": {"persistentVolumeClaimNames": claims},
        "mode": "Check",
        "suspension": {"prepareTimeout": "1h"},
    })
}

/// Replications of 100 members that do not exist, with long names.
fn nothing(place: &Place, name: &str, count: usize) -> Vec<Wanted> {
    let claims: Vec<String> = (0..MAX_MEMBERS).map(|member| format!("{}-{member}", "not-there".repeat(20))).collect();
    let wanted =
        |number| Wanted { namespace: place.name.clone(), name: format!("{name}-{number}"), spec: runs::check(&claims) };
    (0..count).map(wanted).collect()
}

async fn create_all(client: &Client, wanted: &[Wanted], progress: &impl Fn(&str)) -> Result<()> {
    each(stream::iter(wanted.iter().map(|one| runs::create(client, one))), "objects made", progress).await
}

/// Creates all of them, and waits until each has been in one of these phases.
async fn until_all_say(client: &Client, wanted: &[Wanted], phases: &[&str], progress: &impl Fn(&str)) -> Result<()> {
    let (made, said) = tokio::join!(create_all(client, wanted, &|_| {}), until_said(client, wanted, phases, progress));
    made?;
    said
}

async fn until_ended(client: &Client, wanted: &[Wanted], progress: &impl Fn(&str)) -> Result<()> {
    until_said(client, wanted, &["Done", "Aborted", "Failed"], progress).await
}

async fn until_said(client: &Client, wanted: &[Wanted], phases: &[&str], progress: &impl Fn(&str)) -> Result<()> {
    let Some(namespace) = wanted.first().map(|one| &one.namespace) else { return Ok(()) };
    let kind = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let all = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let mut events = pin!(watcher(all, watcher::Config::default().page_size(500)));
    let mut open: std::collections::BTreeSet<&str> = wanted.iter().map(|one| one.name.as_str()).collect();
    let all = open.len();
    let follow = async {
        while !open.is_empty() {
            let event = events.try_next().await?.context("the watch of the replications ended")?;
            let (Event::Apply(object) | Event::InitApply(object)) = event else { continue };
            let said = object.data["status"]["phase"].as_str().is_some_and(|phase| phases.contains(&phase));
            if said && open.remove(object.name_any().as_str()) && open.len().is_multiple_of(100) {
                progress(&format!("{} of {all} objects are {phases:?}", all - open.len()));
            }
        }
        Ok(())
    };
    timeout(LIMIT, follow).await.with_context(|| format!("not all of {all} objects are {phases:?} after {LIMIT:?}"))?
}

/// Runs of a neighbour, one after the other; how long each took.
async fn serve(client: &Client, neighbour: &Fleet, began: Instant) -> Result<Vec<Duration>> {
    let mut served = Vec::new();
    while began.elapsed() < FLOOD {
        let wanted = neighbour.groups(&format!("served-{}", served.len()), 1, runs::check);
        served.push(runs::until_done(client, &wanted, LIMIT, |_| {}).await?);
    }
    neighbour.expect_connected()?;
    ensure!(!served.is_empty(), "no run of a neighbour ended");
    Ok(served)
}

/// One tenant opens sessions with one token and keeps them, and creates replications. How many of each.
async fn flood(client: &Client, tenant: &Fleet, port: u16, began: Instant) -> Result<(usize, usize)> {
    let going = |_: &usize| std::future::ready(began.elapsed() < FLOOD);
    let sessions = async {
        let (ca, token) = tenant.credentials();
        let opened =
            stream::iter(0..).take_while(going).map(|_| ScriptedAgent::connect(port, ca, token, Script::Obeys));
        // That one is refused is an answer too.
        let kept: Vec<_> = opened.buffer_unordered(FLOOD_TOGETHER).collect().await;
        kept.len()
    };
    let objects = async {
        let kind = |number| Wanted { name: format!("flood-{number}"), ..nothing(tenant.place(), "", 1).remove(0) };
        let create = |number| async move { runs::create(client, &kind(number)).await };
        let made = stream::iter(0..).take_while(going).map(create).buffer_unordered(FLOOD_TOGETHER);
        made.try_fold(0, |count, ()| std::future::ready(Ok(count + 1))).await
    };
    let (sessions, objects) = tokio::join!(sessions, objects);
    Ok((sessions, objects?))
}
