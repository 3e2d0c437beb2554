//! Who the members are, and whether the group can be cut at all: an ordered chain of small checks. Pure.
//!
//! Every refusal comes before any agent has heard of the attempt: nothing is suspended, nothing is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::{Selector, SelectorExt};

use super::facts::{Claim, PodFacts};
use super::state::{Member, MemberPod, Request, Verdict};
use crate::api::{ClaimReference, ConsistencyGroupReplicationSpec, Mode, Source};
use crate::limits::{MAX_HOLD, MAX_MEMBERS};
use crate::replica::csi::{Class, choose_class, snapshot_name};

/// Everything that membership is decided from.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// The claims of the namespace.
    pub claims: Vec<Claim>,
    /// The unfinished pods of the namespace.
    pub pods: Vec<PodFacts>,
    /// CSI drivers by the name of the PersistentVolume; a volume without one is missing.
    pub drivers: BTreeMap<String, String>,
    /// The snapshot classes; `None`: the snapshot API is not installed.
    pub classes: Option<Vec<Class>>,
    /// Claims that another replication works on: UID of the claim, name of the replication.
    pub taken: BTreeMap<String, String>,
}

/// The claims that the source means, by name.
///
/// # Errors
/// When a named claim is missing, none matches, or too many do.
pub fn select<'a>(source: &Source, claims: &'a [Claim]) -> Result<Vec<&'a Claim>, Verdict> {
    let selector: Option<Selector> = source.selector.clone().map(TryInto::try_into).transpose().map_err(|error| {
        Verdict::new("SelectorInvalid", format!("spec.source.selector cannot be understood: {error}"))
    })?;
    let mut chosen: Vec<&Claim> = match (&source.persistent_volume_claim_names, &selector) {
        (Some(names), _) => names
            .iter()
            .map(|name| {
                claims.iter().find(|claim| claim.name == name.0).ok_or_else(|| {
                    Verdict::new(
                        "ClaimNotFound",
                        format!(
                            "PersistentVolumeClaim {} does not exist in this namespace; create it, or leave it out",
                            name.0
                        ),
                    )
                })
            })
            .collect::<Result<_, _>>()?,
        (None, Some(selector)) if !selector.selects_all() => {
            claims.iter().filter(|claim| selector.matches(&claim.labels)).collect()
        }
        // An empty selector would match everything; the CRD refuses it, and so does this.
        (None, _) => Vec::new(),
    };
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    if chosen.is_empty() {
        let selector = selector.map(|selector| format!(" `{selector}`")).unwrap_or_default();
        return Err(Verdict::new(
            "NoMembers",
            format!(
                "no PersistentVolumeClaim of this namespace matches the selector{selector}; label the claims, or name them"
            ),
        ));
    }
    if chosen.len() > MAX_MEMBERS {
        return Err(Verdict::new(
            "TooManyMembers",
            format!("spec.source matches {} claims, and a group has at most {MAX_MEMBERS}; narrow it", chosen.len()),
        ));
    }
    Ok(chosen)
}

/// Resolves the members, or says why the group cannot be cut.
///
/// # Errors
/// The first refusal in the order of the checks below.
pub fn resolve(
    spec: &ConsistencyGroupReplicationSpec,
    request: &Request,
    ceiling: Duration,
    candidates: &Candidates,
) -> Result<Vec<Member>, Verdict> {
    check_hold_timeout(request, ceiling)?;
    let claims = select(&spec.source, &candidates.claims)?;
    claims.into_iter().map(|claim| resolve_member(spec, request, candidates, claim)).collect()
}

fn check_hold_timeout(request: &Request, ceiling: Duration) -> Result<(), Verdict> {
    let ceiling = ceiling.min(MAX_HOLD);
    if request.hold_timeout <= ceiling {
        return Ok(());
    }
    Err(Verdict::new(
        "HoldTimeoutTooLong",
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
    let pod = find_pod(candidates, claim)?;
    let name = snapshot_name(&request.name, &request.uid, 1, &claim.name, &claim.uid);
    let reference = ClaimReference { name: claim.name.clone(), uid: claim.uid.clone() };
    let mut member = Member::new(reference, name, pod);
    member.driver = candidates.drivers.get(volume).cloned().unwrap_or_default();
    if request.mode == Mode::Replicate {
        member.class = Some(find_class(spec, candidates, claim, &member.driver)?);
    }
    member.volume = volume.to_owned();
    Ok(member)
}

fn check_not_deleting(claim: &Claim) -> Result<(), Verdict> {
    if !claim.deleting {
        return Ok(());
    }
    Err(Verdict::new(
        "ClaimBeingDeleted",
        format!("PersistentVolumeClaim {} is being deleted; leave it out of the group", claim.name),
    ))
}

fn check_bound(claim: &Claim) -> Result<&str, Verdict> {
    claim.volume.as_deref().ok_or_else(|| {
        Verdict::new(
            "ClaimNotBound",
            format!("PersistentVolumeClaim {} is not bound to a volume; wait until it is, or leave it out", claim.name),
        )
    })
}

fn check_filesystem(claim: &Claim) -> Result<(), Verdict> {
    if !claim.block {
        return Ok(());
    }
    Err(Verdict::new(
        "BlockVolume",
        format!(
            "PersistentVolumeClaim {} is a raw block volume (volumeMode: Block); only filesystems can be suspended, so leave it out",
            claim.name
        ),
    ))
}

fn check_not_taken(candidates: &Candidates, claim: &Claim) -> Result<(), Verdict> {
    let Some(other) = candidates.taken.get(&claim.uid) else { return Ok(()) };
    Err(Verdict::new(
        "HeldByAnother",
        format!(
            "PersistentVolumeClaim {} is a member of ConsistencyGroupReplication {other}, which is still running; try again when it has ended",
            claim.name
        ),
    ))
}

/// The one pod that mounts the claim, if any does, and how its agent reaches it.
fn find_pod(candidates: &Candidates, claim: &Claim) -> Result<Option<MemberPod>, Verdict> {
    let pods: Vec<&PodFacts> = candidates.pods.iter().filter(|pod| pod.claims.contains(&claim.name)).collect();
    let pod = match pods.as_slice() {
        [] => return Ok(None),
        [pod] => pod,
        // Agents of different pods do not see each other's processes, so none of them can say that no lock is held.
        [first, second, ..] => {
            return Err(Verdict::new(
                "MountedByMorePods",
                format!(
                    "PersistentVolumeClaim {} is mounted by {} pods ({}, {}, …); a member may be mounted by one pod only, because an agent sees the locks of its own pod",
                    claim.name,
                    pods.len(),
                    first.name,
                    second.name
                ),
            ));
        }
    };
    let mount = pod.agent_mounts.get(&claim.name);
    match mount {
        None if pod.has_agent => Err(Verdict::new(
            "AgentDoesNotMount",
            format!(
                "the container stillpoint-agent of pod {} does not mount PersistentVolumeClaim {}; add a volumeMount of the whole volume, readOnly is enough",
                pod.name, claim.name
            ),
        )),
        None => Err(Verdict::new(
            "NoAgent",
            format!(
                "pod {} mounts PersistentVolumeClaim {} but has no agent; add the sidecar stillpoint-agent to its initContainers",
                pod.name, claim.name
            ),
        )),
        Some(mount) if mount.sub_path => Err(Verdict::new(
            "AgentMountsSubPath",
            format!(
                "the container stillpoint-agent of pod {} mounts PersistentVolumeClaim {} with a subPath and does not see the whole filesystem; mount it without",
                pod.name, claim.name
            ),
        )),
        Some(mount) => Ok(Some(MemberPod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            mount_path: mount.path.clone(),
        })),
    }
}

fn find_class(
    spec: &ConsistencyGroupReplicationSpec,
    candidates: &Candidates,
    claim: &Claim,
    driver: &str,
) -> Result<String, Verdict> {
    let Some(classes) = &candidates.classes else {
        return Err(Verdict::new(
            "SnapshotApiMissing",
            "this cluster has no VolumeSnapshot API (snapshot.storage.k8s.io/v1); install the snapshot CRDs and the snapshot controller",
        ));
    };
    if driver.is_empty() {
        return Err(Verdict::new(
            "NotACsiVolume",
            format!(
                "the volume of PersistentVolumeClaim {} has no CSI driver, so it has no snapshots; leave the claim out",
                claim.name
            ),
        ));
    }
    let asked = spec.replication.as_ref().and_then(|how| how.volume_snapshot.volume_snapshot_class_name.as_deref());
    choose_class(asked, driver, classes).map_err(|error| {
        Verdict::new(error.reason(), format!("PersistentVolumeClaim {} cannot be cut: {error}", claim.name))
    })
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
