//! Restores snapshots into new claims and judges what they show together.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use workload::log::Summary;
use workload::order::{NamedLog, Verdict};

use crate::group::{Group, Member};
use crate::limits::{DELETION, POD, VOLUMES_PER_CHECK};
use crate::manifests;
use crate::namespace::Place;
use crate::waiting::{until, until_gone};

/// One cut to be judged: a name of its own and the snapshots of all members, in the order of writing.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Prefix of the names of what is restored.
    pub name: String,
    /// Snapshots of the group's members.
    pub snapshots: Vec<String>,
}

impl Cut {
    /// Name of the claim into which a member is restored.
    pub fn claim(&self, member: &Member) -> String {
        format!("{}-{}", self.name, member.name)
    }
}

/// A claim to be restored.
struct Restored {
    claim: String,
    snapshot: String,
    storage_class: String,
    node: String,
}

/// Restores all cuts, reads them and judges each; removes what it restored. Volumes of one node can only be read there, so
/// every node has its own checking pods, and the rule is applied here.
///
/// # Errors
/// A claim cannot be restored or read.
pub async fn judge(group: &Group, cuts: &[Cut]) -> Result<Vec<Verdict>> {
    let place = &group.place;
    let mut by_node: BTreeMap<String, Vec<Restored>> = BTreeMap::new();
    for cut in cuts {
        for (member, snapshot) in group.members.iter().zip(&cut.snapshots) {
            by_node.entry(member.node.clone()).or_default().push(Restored {
                claim: cut.claim(member),
                snapshot: snapshot.clone(),
                storage_class: member.storage_class.clone(),
                node: member.node.clone(),
            });
        }
    }
    let checks = by_node.values().flat_map(|all| all.chunks(VOLUMES_PER_CHECK));
    let logs = try_join_all(checks.map(|restored| check(place, restored))).await?;
    let logs: HashMap<String, Summary> = logs.into_iter().flatten().map(|log| (log.name, log.log)).collect();
    cuts.iter().map(|cut| verdict(group, cut, &logs)).collect()
}

fn verdict(group: &Group, cut: &Cut, logs: &HashMap<String, Summary>) -> Result<Verdict> {
    let named = group.members.iter().map(|member| {
        let log = logs.get(&cut.claim(member));
        let log = log.with_context(|| format!("nobody read what was restored of {} in {}", member.name, cut.name))?;
        Ok(NamedLog { name: member.name.clone(), log: log.clone() })
    });
    Ok(Verdict::new(named.collect::<Result<_>>()?))
}

/// Reads a claim of each member that is there, and judges them together. The claims stay.
///
/// # Errors
/// A claim cannot be read.
pub async fn read(group: &Group, claim_of: impl Fn(&Member) -> String) -> Result<Verdict> {
    let logs = try_join_all(group.members.iter().map(async |member| {
        let claim = claim_of(member);
        let read = read_claims(&group.place, &member.node, &[&claim]).await?;
        let log = read.into_iter().next().with_context(|| format!("nobody read claim {claim}"))?.log;
        anyhow::Ok(NamedLog { name: member.name.clone(), log })
    }));
    Ok(Verdict::new(logs.await?))
}

/// Restores claims of one node, reads them in one pod and removes all of it again.
async fn check(place: &Place, restored: &[Restored]) -> Result<Vec<NamedLog>> {
    let [first, ..] = restored else { return Ok(Vec::new()) };
    try_join_all(restored.iter().map(async |each| {
        let claim = manifests::restored_claim(&each.claim, &each.snapshot, &each.storage_class)?;
        place.create(&claim).await
    }))
    .await?;
    let claims: Vec<&str> = restored.iter().map(|each| each.claim.as_str()).collect();
    let report = read_claims(place, &first.node, &claims).await?;
    for claim in claims {
        place.api::<PersistentVolumeClaim>().delete(claim, &DeleteParams::default()).await?;
    }
    Ok(report)
}

/// Reads claims of one node in one pod, which goes again.
async fn read_claims(place: &Place, node: &str, claims: &[&str]) -> Result<Vec<NamedLog>> {
    let [first, ..] = claims else { return Ok(Vec::new()) };
    let pod = format!("check-{first}");
    place.create(&manifests::checking_pod(&pod, node, claims)?).await?;
    let pods = place.api::<Pod>();
    let report =
        until(&pods, &pod, &format!("the report of pod {pod}"), POD, |found| found.map_or(Ok(None), report)).await?;
    pods.delete(&pod, &DeleteParams::default()).await?;
    until_gone(&pods, &pod, &format!("the end of pod {pod}"), DELETION).await?;
    Ok(report)
}

/// What a checking pod reported, once it has ended.
fn report(pod: &Pod) -> Result<Option<Vec<NamedLog>>> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let state = statuses.and_then(|all| all.first()).and_then(|container| container.state.as_ref());
    let Some(ended) = state.and_then(|state| state.terminated.as_ref()) else { return Ok(None) };
    let message = ended.message.as_deref().unwrap_or_default();
    if ended.exit_code != 0 {
        bail!("the check failed: {message}");
    }
    serde_json::from_str(message).map(Some).with_context(|| format!("the check reported {message:?}"))
}
