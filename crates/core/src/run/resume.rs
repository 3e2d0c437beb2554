//! Taking over a run that another controller, or this one before it restarted, has begun. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::agents::{AgentRef, PodRef};
use super::assignments::{Mount, Standing};
use super::facts::PodFacts;
use super::state::{CleanUp, Command, Member, Moment, Request, Run, Stage, Verdict};
use stillpoint_api::{AgentPlace, HoldStatus, MemberState, MemberStatus, Mode, Phase, Reason, ReplicationStatus};

/// Whether a stored status declares an attempt that was begun and has not ended.
pub fn is_under_way(status: &ReplicationStatus) -> bool {
    status.attempt > 0 && status.phase.is_some_and(|phase| phase != Phase::Pending && !phase.is_final())
}

/// The run that a stored status declares.
///
/// A hold that was not proven cannot be any more: the order of messages was lost with the controller that saw it. Then
/// everything that was asked is released and everything that was cut is void. Where the proof is stored and replicas are only
/// not usable yet, the run goes on.
pub fn resume(
    request: &Request,
    status: &ReplicationStatus,
    pods: &BTreeMap<String, PodFacts>,
    node_agents: &BTreeMap<String, PodRef>,
    now: Moment,
) -> Run {
    let mut by_name: HashMap<&str, Vec<&PodFacts>> = HashMap::new();
    for pod in pods.values() {
        by_name.entry(&pod.name).or_default().push(pod);
    }
    let members = status.members.iter().map(|member| {
        let pods = member.pod.as_deref().and_then(|name| by_name.get(name));
        resume_member(member, pods.map_or(&[], Vec::as_slice), node_agents)
    });
    let members = members.collect();
    let mut run = Run::new(members, status.clone(), now);
    run.attempt = status.attempt;
    run.phases.clone_from(&status.phases);
    if status.phase == Some(Phase::Replicating) && status.consistency.is_some() {
        run.proven = true;
        restore_times(&mut run, status, now);
        run.stage = Stage::AwaitingUsable { since: now };
        return run;
    }
    for one in run.assignments_mut() {
        // Nobody knows how far it was asked; a release does no harm.
        one.asked = Some(Command::Suspend);
        one.told_to_suspend = Some(now);
    }
    run.cut_requested = (status.phase == Some(Phase::Replicating)).then_some(now);
    run.verdict = Some(Verdict::new(
        Reason::ControllerRestarted,
        "the leading controller changed before the hold was proven, so the attempt is void",
    ));
    // Phases are written behind the hold: snapshots may exist though the stored phase does not say so yet.
    let clean_up = if request.mode == Mode::Replicate { CleanUp::Needed } else { CleanUp::NotNeeded };
    run.stage = Stage::Abandoning { since: now, clean_up };
    run
}

/// One member; `pods` have the name of the pod that mounted it.
fn resume_member(status: &MemberStatus, pods: &[&PodFacts], node_agents: &BTreeMap<String, PodRef>) -> Member {
    let claim = status.persistent_volume_claim.clone();
    let pod = pods.iter().copied().find(|pod| pod.claims.contains(&claim.name));
    let agent = pod.and_then(|pod| resume_agent(status, pod, node_agents));
    // Without an agent that could be asked, nobody can say of the pod's writes more than the status does.
    let mounts = pod.filter(|_| agent.is_some()).map(Mount::from).into_iter().collect();
    let agents = agent.into_iter().collect();
    let mut member = Member::new(claim, mounts, agents);
    member.volume.clone_from(&status.volume);
    member.driver.clone_from(&status.driver);
    member.replica.clone_from(&status.replica);
    for one in &mut member.assignments {
        one.state = status.state;
        one.method = status.method;
        one.protection = status.protection;
        one.blockers.clone_from(&status.blockers);
        one.more_blockers = status.more_blockers;
        one.suspended_for = status.suspended_for.map(Into::into);
    }
    if member.assignments.is_empty() {
        let gone = status.pod.is_some() && status.state != MemberState::Released;
        member.unassigned = Some(Standing {
            state: if gone { MemberState::Broken } else { status.state },
            method: status.method,
            protection: status.protection,
            blockers: status.blockers.clone(),
            more_blockers: status.more_blockers,
            suspended_for: status.suspended_for.map(Into::into),
            ..Standing::new(status.state)
        });
    }
    member
}

/// The agent that was asked, as it is now. One of a node may have another pod by now: a release does no harm.
fn resume_agent(status: &MemberStatus, pod: &PodFacts, node_agents: &BTreeMap<String, PodRef>) -> Option<AgentRef> {
    let claim = &status.persistent_volume_claim.name;
    match status.agent {
        Some(AgentPlace::Node) => {
            let node = pod.node.as_deref()?;
            Some(AgentRef::node(node, node_agents.get(node)?, &[pod]))
        }
        // A status of an older version says nothing of it.
        Some(AgentPlace::Sidecar) | None => pod.agent_mounts.contains_key(claim).then(|| AgentRef::sidecar(pod, claim)),
    }
}

/// Puts the times of the earlier process onto this one's clocks. Only differences between them are shown.
fn restore_times(run: &mut Run, status: &ReplicationStatus, now: Moment) {
    let place = |wall: Timestamp| {
        let ago = Duration::try_from(now.wall.duration_since(wall)).unwrap_or_default();
        Moment { monotonic: now.monotonic.saturating_sub(ago), wall }
    };
    if let Some(HoldStatus { started_at, ended_at, .. }) = &status.hold {
        run.hold_began = Some(place(started_at.0));
        run.hold_ended = ended_at.as_ref().map(|at| place(at.0));
    }
    run.cut_confirmed = status.creation_time.as_ref().map(|at| place(at.0));
    run.cut_requested = run
        .members
        .iter()
        .filter_map(|member| Some(place(member.replica.as_ref()?.requested_at.as_ref()?.0)))
        .min_by_key(|at| at.monotonic);
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
