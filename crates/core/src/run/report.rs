//! The status that users see, rendered from the run. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::conditions;
use super::observed::Observed;
use super::state::{Member, Moment, Request, Run};
use crate::limits::MAX_STATUS_BLOCKERS;
use stillpoint_api::{Consistency, HoldStatus, MemberState, MemberStatus, Mode, Phase, ReplicationStatus};

/// Renders the status.
pub fn render(request: &Request, run: &Run, observed: &Observed, now: Moment) -> ReplicationStatus {
    let ready = run.members.iter().filter(|member| is_ready(member)).count();
    let replicated = request.mode == Mode::Replicate && run.proven;
    ReplicationStatus {
        phase: Some(run.phase()),
        phases: run.phases.clone(),
        attempt: run.attempt,
        next_attempt_at: run.next_attempt.map(MicroTime),
        leader_epoch: request.epoch,
        observed_generation: request.generation,
        ready_to_use: replicated && run.phase() == Phase::Done,
        creation_time: run.cut_confirmed.filter(|_| replicated).map(|at| at.micro_time()),
        // Applications are not asked to quiesce, so a common crash-consistent cut is what is proven, and not more.
        consistency: replicated.then_some(Consistency::Crash),
        hold: hold(run),
        ready_members: (!run.members.is_empty()).then(|| format!("{ready}/{}", run.members.len())),
        members: members(run),
        conditions: conditions::render(request, run, observed, now),
    }
}

/// Renders the status of an attempt that cannot begin ([`Run::refused`]).
pub fn render_refused(request: &Request, run: &Run, now: Moment) -> ReplicationStatus {
    ReplicationStatus {
        ready_members: None,
        conditions: conditions::refused(request, run, now),
        ..render(request, run, &Observed::default(), now)
    }
}

/// Whether it is ready, or was until it was released.
fn is_ready(member: &Member) -> bool {
    member.ready.is_some() || member.state == MemberState::Unmounted
}

fn hold(run: &Run) -> Option<HoldStatus> {
    let began = run.hold_began?;
    let cut = run.cut_requested.zip(run.cut_confirmed);
    Some(HoldStatus {
        started_at: began.micro_time(),
        ended_at: run.hold_ended.map(|at| at.micro_time()),
        duration: run.hold_ended.map(|at| at.since(&began).into()),
        cut_duration: cut.map(|(requested, confirmed)| confirmed.since(&requested).into()),
    })
}

/// Renders the members. The status as a whole is bounded too: what does not fit is counted.
fn members(run: &Run) -> Vec<MemberStatus> {
    let mut room = MAX_STATUS_BLOCKERS;
    let bounded = |mut member: MemberStatus| {
        let left_out = member.blockers.len().saturating_sub(room);
        member.blockers.truncate(room);
        member.more_blockers = member.more_blockers.saturating_add(u32::try_from(left_out).unwrap_or(u32::MAX));
        room -= member.blockers.len();
        member
    };
    run.members.iter().map(member_status).map(bounded).collect()
}

/// Renders one member.
fn member_status(member: &Member) -> MemberStatus {
    MemberStatus {
        persistent_volume_claim: member.claim.clone(),
        volume: member.volume.clone(),
        driver: member.driver.clone(),
        pod: member.pod.as_ref().map(|pod| pod.name.clone()),
        node: member.pod.as_ref().and_then(|pod| pod.node.clone()),
        state: member.state,
        method: member.method,
        protection: member.protection,
        blockers: member.blockers.clone(),
        more_blockers: member.more_blockers,
        ready_at: member.ready.map(|ready| ready.at.micro_time()),
        released_at: member.released.as_ref().map(|released| released.at.micro_time()),
        suspended_for: member.suspended_for.map(Into::into),
        replica: member.replica.clone(),
    }
}
