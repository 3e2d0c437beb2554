//! Who the members are, and whether the group can be cut at all: an ordered chain of small checks. Pure.
//!
//! Every refusal comes before any agent has heard of the attempt: nothing is suspended, nothing is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::{Selector, SelectorExt};

use super::agents::{AgentRef, PodRef};
use super::assignments::Mount;
use super::facts::{Claim, PodFacts};
use super::state::{Member, Request, Verdict};
use crate::limits::{MAX_HOLD, MAX_MEMBERS};
use crate::replica::MemberFacts;
use crate::replica::ask::{Recipe, may_be_replica_of};
use crate::replica::seen::Facts;
use stillpoint_api::labels::MEMBER;
use stillpoint_api::{ClaimReference, ConsistencyGroupReplicationSpec, Method, Mode, Reason, Source};

/// Everything that membership is decided from.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// The claims of the namespace.
    pub claims: Vec<Claim>,
    /// The pods of the namespace that can write.
    pub pods: Vec<PodFacts>,
    /// The agents of nodes: their pods, by the node.
    pub node_agents: BTreeMap<String, PodRef>,
    /// CSI drivers by the name of the PersistentVolume; a volume without one is missing.
    pub drivers: BTreeMap<String, String>,
    /// What the kind of replica that is asked for reads of the cluster.
    pub facts: Facts,
    /// Claims that another replication works on: UID of the claim, name of the replication.
    pub taken: BTreeMap<String, String>,
}

/// What a source means.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// The claims, by name.
    pub claims: Vec<&'a Claim>,
    /// Names of claims that do not exist.
    pub missing: Vec<&'a str>,
}

/// Why a group cannot be cut.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The first reason, and how many more there are.
    pub verdict: Verdict,
    /// All members, with what stands in their way; none where the members are not known, or not the trouble.
    pub members: Vec<Member>,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, members: Vec::new() }
    }
}

/// The claims that the source means.
///
/// # Errors
/// When none matches, or too many do.
pub fn select<'a>(source: &'a Source, claims: &'a [Claim]) -> Result<Selection<'a>, Verdict> {
    let selector: Option<Selector> = source.selector.clone().map(TryInto::try_into).transpose().map_err(|error| {
        Verdict::new(Reason::SelectorInvalid, format!("spec.source.selector cannot be understood: {error}"))
    })?;
    let mut missing = Vec::new();
    let mut chosen: Vec<&Claim> = match (&source.persistent_volume_claim_names, &selector) {
        (Some(names), _) => {
            let find = |name: &str| claims.iter().find(|claim| claim.name == name);
            missing.extend(names.iter().map(|name| name.0.as_str()).filter(|name| find(name).is_none()));
            names.iter().filter_map(|name| find(&name.0)).collect()
        }
        (None, Some(selector)) if !selector.selects_all() => {
            claims.iter().filter(|claim| selector.matches(&claim.labels)).collect()
        }
        // An empty selector would match everything; the CRD refuses it, and so does this.
        (None, _) => Vec::new(),
    };
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    if chosen.is_empty() && missing.is_empty() {
        let selector = selector.map(|selector| format!(" `{selector}`")).unwrap_or_default();
        return Err(Verdict::new(
            Reason::NoMembers,
            format!(
                "no PersistentVolumeClaim of this namespace matches the selector{selector}; label the claims, or name them"
            ),
        ));
    }
    if chosen.len() > MAX_MEMBERS {
        return Err(Verdict::new(
            Reason::TooManyMembers,
            format!("spec.source matches {} claims, and a group has at most {MAX_MEMBERS}; narrow it", chosen.len()),
        ));
    }
    Ok(Selection { claims: chosen, missing })
}

/// Resolves the members, or says why the group cannot be cut.
///
/// # Errors
/// The first refusal that concerns the whole group, or else one for each member that has any: whoever mends one shall not
/// learn of the next only then.
pub fn resolve(
    spec: &ConsistencyGroupReplicationSpec,
    request: &Request,
    ceiling: Duration,
    candidates: &Candidates,
) -> Result<Vec<Member>, Refusal> {
    check_hold_timeout(request, ceiling)?;
    let selection = select(&spec.source, &candidates.claims)?;
    check_kind(spec, request, candidates)?;
    let missing = selection.missing.into_iter().map(|name| {
        let claim = ClaimReference { name: name.to_owned(), uid: String::new() };
        (claim, Err(claim_not_found(name)))
    });
    let all = selection.claims.clone();
    let found = selection.claims.into_iter().map(|claim| {
        let reference = ClaimReference { name: claim.name.clone(), uid: claim.uid.clone() };
        let joins = check_not_restored(&spec.source, &all, claim);
        (reference, joins.and_then(|()| resolve_member(spec, request, candidates, claim)))
    });
    let mut refusals = Vec::new();
    let members = missing.chain(found).map(|(claim, resolved)| {
        resolved.unwrap_or_else(|verdict| {
            let member = Member::refused(claim, &verdict);
            refusals.push(verdict);
            member
        })
    });
    let members = members.collect();
    let Some(first) = refusals.first() else { return Ok(members) };
    let more = match refusals.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more, see status.members)"),
    };
    Err(Refusal { verdict: Verdict::again(&first.reason, format!("{}{more}", first.message)), members })
}

fn claim_not_found(name: &str) -> Verdict {
    Verdict::new(
        Reason::ClaimNotFound,
        format!("PersistentVolumeClaim {name} does not exist in this namespace; create it, or leave it out"),
    )
}

fn check_kind(
    spec: &ConsistencyGroupReplicationSpec,
    request: &Request,
    candidates: &Candidates,
) -> Result<(), Verdict> {
    request.wishes.check()?;
    match request.kind {
        Some(kind) => kind.available(&candidates.facts),
        // A check may leave out how; then its end says what was not looked at.
        None if request.mode == Mode::Check && spec.replication.is_none() => Ok(()),
        // The CRD refuses it, but a CRD may be newer than this controller.
        None => Err(Verdict::new(
            Reason::UnknownReplicaKind,
            "spec.replication asks for no kind of replica that this version of Stillpoint knows; name one that it knows, or update it",
        )),
    }
}

fn check_hold_timeout(request: &Request, ceiling: Duration) -> Result<(), Verdict> {
    let ceiling = ceiling.min(MAX_HOLD);
    if request.hold_timeout <= ceiling {
        return Ok(());
    }
    Err(Verdict::new(
        Reason::HoldTimeoutTooLong,
        format!(
            "spec.suspension.holdTimeout is {:?}, and this cluster allows at most {ceiling:?}; shorten it, or raise the chart's ceiling",
            request.hold_timeout
        ),
    ))
}

fn resolve_member(
    spec: &ConsistencyGroupReplicationSpec,
    request: &Request,
    candidates: &Candidates,
    claim: &Claim,
) -> Result<Member, Verdict> {
    check_not_deleting(claim)?;
    let volume = check_bound(claim)?;
    check_filesystem(claim)?;
    check_not_taken(candidates, claim)?;
    let Cover { pods, agent } = cover(candidates, claim)?;
    let (mounts, agents) = (pods.into_iter().map(Mount::from).collect(), agent.into_iter().collect());
    let reference = ClaimReference { name: claim.name.clone(), uid: claim.uid.clone() };
    let mut member = Member::new(reference, mounts, agents);
    member.driver = candidates.drivers.get(volume).cloned().unwrap_or_default();
    member.recipe = find_recipe(spec, request, candidates, &MemberFacts { claim, driver: &member.driver })?;
    member.volume = volume.to_owned();
    Ok(member)
}

/// A claim that was restored from a replica, side by side with the member that the replica shows, carries the labels of its
/// original. It does not join the group by that alone: half of the next cut would be the copy.
fn check_not_restored(source: &Source, all: &[&Claim], claim: &Claim) -> Result<(), Verdict> {
    let by_name = source.persistent_volume_claim_names.is_some();
    let Some(replica) = claim.restored_from.as_ref().filter(|_| !by_name && !claim.is_member) else { return Ok(()) };
    let is_original = |other: &&&Claim| may_be_replica_of(replica, &other.name);
    if may_be_replica_of(replica, &claim.name) {
        return Ok(());
    }
    let Some(original) = all.iter().find(is_original) else { return Ok(()) };
    Err(Verdict::new(
        Reason::RestoredCopy,
        format!(
            "PersistentVolumeClaim {} was restored from VolumeSnapshot {replica} of member {}, and the selector matches both; take the label off the copy, or annotate it with {MEMBER}: \"true\" if it is to be a member too",
            claim.name, original.name
        ),
    ))
}

fn check_not_deleting(claim: &Claim) -> Result<(), Verdict> {
    if !claim.deleting {
        return Ok(());
    }
    Err(Verdict::new(
        Reason::ClaimBeingDeleted,
        format!("PersistentVolumeClaim {} is being deleted; leave it out of the group", claim.name),
    ))
}

fn check_bound(claim: &Claim) -> Result<&str, Verdict> {
    claim.volume.as_deref().ok_or_else(|| {
        Verdict::new(
            Reason::ClaimNotBound,
            format!("PersistentVolumeClaim {} is not bound to a volume; wait until it is, or leave it out", claim.name),
        )
    })
}

fn check_filesystem(claim: &Claim) -> Result<(), Verdict> {
    if !claim.block {
        return Ok(());
    }
    Err(Verdict::new(
        Reason::BlockVolume,
        format!(
            "PersistentVolumeClaim {} is a raw block volume (volumeMode: Block); only filesystems can be suspended, so leave it out",
            claim.name
        ),
    ))
}

fn check_not_taken(candidates: &Candidates, claim: &Claim) -> Result<(), Verdict> {
    let Some(other) = candidates.taken.get(&claim.uid) else { return Ok(()) };
    Err(Verdict::new(
        Reason::HeldByAnother,
        format!(
            "PersistentVolumeClaim {} is a member of ConsistencyGroupReplication {other}, which is still running; try again when it has ended",
            claim.name
        ),
    ))
}

/// Who writes to a member, and who is asked about it.
struct Cover<'a> {
    pods: Vec<&'a PodFacts>,
    agent: Option<AgentRef>,
}

/// Finds the pods that mount the claim, if any do, and the agent that sees all of them: the sidecar of the only pod, or the agent of
/// the node.
fn cover<'a>(candidates: &'a Candidates, claim: &Claim) -> Result<Cover<'a>, Verdict> {
    let pods: Vec<&PodFacts> = candidates.pods.iter().filter(|pod| pod.claims.contains(&claim.name)).collect();
    let Some(first) = pods.first() else { return Ok(Cover { pods, agent: None }) };
    if let [pod] = pods.as_slice()
        && pod.agent_mounts.get(&claim.name).is_some_and(|mount| !mount.sub_path)
    {
        let agent = Some(AgentRef::sidecar(pod, &claim.name));
        return Ok(Cover { pods, agent });
    }
    // Each node has a filesystem of its own over the same files, and what suspends one says nothing of the other.
    if let Some(other) = pods.iter().find(|pod| pod.node != first.node) {
        return Err(mounted_by_more(claim, &pods, other, "on several nodes"));
    }
    let node = first.node.as_deref().unwrap_or_default();
    match (candidates.node_agents.get(node), pods.as_slice()) {
        (Some(own), _) => {
            let agent = Some(AgentRef::node(node, own, &pods));
            Ok(Cover { pods, agent })
        }
        (None, [pod]) => Err(uncovered(claim, pod, node)),
        (None, [_, second, ..]) => Err(mounted_by_more(
            claim,
            &pods,
            second,
            &format!("and node {node} has no agent, which could see all of them"),
        )),
        (None, []) => Ok(Cover { pods, agent: None }),
    }
}

fn mounted_by_more(claim: &Claim, pods: &[&PodFacts], second: &PodFacts, why: &str) -> Verdict {
    let first = pods.first().map_or("", |pod| &pod.name);
    let more = if pods.len() > 2 { ", …" } else { "" };
    Verdict::new(
        Reason::MountedByMorePods,
        format!(
            "PersistentVolumeClaim {} is mounted by {} pods ({first}, {}{more}) {why}; a member may be mounted by one pod with a sidecar, or by pods of one node that has an agent",
            claim.name,
            pods.len(),
            second.name
        ),
    )
}

/// Why no agent sees the writes of the only pod.
fn uncovered(claim: &Claim, pod: &PodFacts, node: &str) -> Verdict {
    let claim = &claim.name;
    let PodFacts { name, has_agent, agent_mounts, .. } = pod;
    match agent_mounts.get(claim) {
        None if *has_agent => Verdict::new(
            Reason::AgentDoesNotMount,
            format!(
                "the container stillpoint-agent of pod {name} does not mount PersistentVolumeClaim {claim}, and node {node} has no agent; add a volumeMount of the whole volume, readOnly is enough"
            ),
        ),
        None => Verdict::new(
            Reason::NoAgent,
            format!(
                "pod {name} mounts PersistentVolumeClaim {claim}, and neither the pod nor node {node} has an agent; let the DaemonSet stillpoint-agent run on the node, or add the sidecar stillpoint-agent to the pod's initContainers"
            ),
        ),
        Some(_) => Verdict::new(
            Reason::AgentMountsSubPath,
            format!(
                "the container stillpoint-agent of pod {name} mounts PersistentVolumeClaim {claim} with a subPath and does not see the whole filesystem, and node {node} has no agent; mount it without"
            ),
        ),
    }
}

fn find_recipe(
    spec: &ConsistencyGroupReplicationSpec,
    request: &Request,
    candidates: &Candidates,
    member: &MemberFacts<'_>,
) -> Result<Recipe, Verdict> {
    let (Some(kind), Some(how)) = (request.kind, &spec.replication) else { return Ok(Recipe::default()) };
    let recipe = kind.resolve(how, member, &candidates.facts)?;
    match kind.excludes(Method::FilesystemFreeze, member, &recipe, &candidates.facts) {
        Some(verdict) => Err(verdict),
        None => Ok(recipe),
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
