//! The status that users see, rendered from the run. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};

use super::conditions;
use super::observed::Observed;
use super::state::{Member, Moment, Request, Run, note_phase};
use crate::limits::MAX_STATUS_BLOCKERS;
use stillpoint_api::{Consistency, HoldStatus, MemberStatus, Mode, Phase, ReplicationStatus};

/// Renders the status.
pub fn render(request: &Request, run: &Run, observed: &Observed, now: Moment) -> ReplicationStatus {
    let ready = run.members.iter().filter(|member| member.was_ready()).count();
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
        longest_suspension: run.longest.clone(),
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

/// The status of one that cannot begin yet, and why; `None`: it says so already.
pub fn render_postponed(
    request: &Request,
    mut before: ReplicationStatus,
    why: &str,
    now: Moment,
) -> Option<ReplicationStatus> {
    let message = conditions::tried_again(why);
    let conditions = conditions::waiting(request.generation, &message, &before.conditions, now);
    let told = |one: &Condition| before.conditions.iter().any(|it| it.type_ == one.type_ && it.message == one.message);
    if conditions.iter().all(told) {
        return None;
    }
    before.conditions.retain(|one| conditions.iter().all(|it| it.type_ != one.type_));
    before.conditions.splice(0..0, conditions);
    if before.phase.is_none() {
        before.phase = Some(Phase::Pending);
        note_phase(&mut before.phases, Phase::Pending, now);
    }
    Some(ReplicationStatus { leader_epoch: request.epoch, observed_generation: request.generation, ..before })
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

/// Renders one member. Of several pods that mount it the first is shown.
fn member_status(member: &Member) -> MemberStatus {
    let mount = member.mounts.first();
    let standing = member.standing();
    MemberStatus {
        persistent_volume_claim: member.claim.clone(),
        volume: member.volume.clone(),
        driver: member.driver.clone(),
        pod: mount.map(|pod| pod.name.clone()),
        node: mount.and_then(|pod| pod.node.clone()),
        agent: member.assignments.first().map(|one| one.agent.place()),
        state: standing.state,
        method: standing.method,
        protection: standing.protection,
        blockers: standing.blockers,
        more_blockers: standing.more_blockers,
        ready_at: standing.ready_at.map(|at| at.micro_time()),
        released_at: standing.released_at.map(|at| at.micro_time()),
        suspended_for: standing.suspended_for.map(Into::into),
        replica: member.replica.clone(),
    }
}
