//! The conditions: `Ready`, `Reconciling` and `Stalled` in the sense of kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>), and what they do not say:
//! `WritesSuspended`, `Consistent` and `Blocked`. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::observed::Observed;
use super::state::{Member, Moment, Request, Run, Stage, Verdict};
use super::waiting::WaitingFor;
use crate::limits::MAX_MESSAGE_CHARS;
use crate::text::printable;
use stillpoint_api::{Mode, Phase};

/// A condition before it is compared with the one before it.
struct Draft {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

fn draft(kind: &'static str, status: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Draft {
    Draft { kind, status, reason: reason.into(), message: message.into() }
}

/// Renders the conditions. The time of a transition stays while the status of the condition stays.
pub fn render(request: &Request, run: &Run, observed: &Observed, now: Moment) -> Vec<Condition> {
    let all = [
        ready(request, run, observed),
        reconciling(run),
        stalled(run),
        writes_suspended(run),
        consistent(request, run),
        blocked(run),
    ];
    all.into_iter().map(|draft| settle(draft, request.generation, &run.conditions, now)).collect()
}

/// The conditions of an attempt that was refused before anything was asked, and of which nothing may follow.
pub fn refused(request: &Request, run: &Run, now: Moment) -> Vec<Condition> {
    let Some(verdict) = &run.verdict else { return run.conditions.clone() };
    let message = match run.next_attempt {
        Some(at) => cooling_down(request, run, verdict, at),
        None => format!("{}{}. Nothing was suspended and nothing was cut.", tries(request, run), verdict.message),
    };
    let all = [
        draft("Ready", "False", &verdict.reason, &message),
        reconciling(run),
        stalled(run),
        draft("WritesSuspended", "False", "NotSuspended", "writes go on"),
        draft("Consistent", "False", "NothingCut", "there are no replicas"),
        draft("Blocked", "True", &verdict.reason, &message),
    ];
    all.into_iter().map(|draft| settle(draft, request.generation, &run.conditions, now)).collect()
}

/// The conditions of a run that waits for its turn.
pub fn waiting(generation: Option<i64>, message: &str, before: &[Condition], now: Moment) -> Vec<Condition> {
    let all = [
        draft("Ready", "False", "Waiting", message),
        draft("Reconciling", "True", "Waiting", message),
        draft("Stalled", "False", "Waiting", message),
    ];
    all.into_iter().map(|draft| settle(draft, generation, before, now)).collect()
}

fn settle(draft: Draft, generation: Option<i64>, before: &[Condition], now: Moment) -> Condition {
    let same = before.iter().find(|one| one.type_ == draft.kind && one.status == draft.status);
    Condition {
        type_: draft.kind.to_owned(),
        status: draft.status.to_owned(),
        reason: draft.reason,
        message: printable(&draft.message, MAX_MESSAGE_CHARS),
        last_transition_time: same.map_or(Time(now.wall), |one| one.last_transition_time.clone()),
        observed_generation: generation,
    }
}

fn ready(request: &Request, run: &Run, observed: &Observed) -> Draft {
    let ready = |status, reason: &str, message: String| draft("Ready", status, reason, message);
    let members = run.members.len();
    let phase = run.phase();
    if let (Some(at), Some(verdict)) = (run.next_attempt, &run.verdict) {
        return ready("False", &verdict.reason, cooling_down(request, run, verdict, at));
    }
    match (phase, &run.verdict, request.mode) {
        (Phase::Done, _, Mode::Replicate) => ready(
            "True",
            "Done",
            format!(
                "all {members} members were cut at one common point in time, and every replica can be used{}",
                unmarked(observed)
            ),
        ),
        (Phase::Done, _, Mode::Check) => ready(
            "True",
            "Done",
            format!(
                "all {members} members were ready together: the group can be cut now; nothing was kept (mode Check)"
            ),
        ),
        (Phase::Aborted, Some(verdict), _) => {
            ready("False", &verdict.reason, format!("{}{}. {}", tries(request, run), verdict.message, left(run)))
        }
        (Phase::Failed, Some(verdict), _) => {
            ready("False", &verdict.reason, format!("{}{}. {}", tries(request, run), verdict.message, left(run)))
        }
        _ => ready("False", &format!("{phase:?}"), WaitingFor::of(run, observed).to_string()),
    }
}

/// What is said of replicas that do not carry the proof.
fn unmarked(observed: &Observed) -> String {
    match &observed.marked {
        Some(Err(why)) => format!("; the proof stands here only, and could not be written onto them: {why}"),
        _ => String::new(),
    }
}

/// Which attempt it was, where there may be more than one.
fn tries(request: &Request, run: &Run) -> String {
    match request.attempts() {
        0 | 1 => String::new(),
        all => format!("attempt {} of {all} {}: ", run.attempt, ended(run)),
    }
}

/// How an attempt ended that did not end well.
fn ended(run: &Run) -> &'static str {
    if run.cut_void { "failed" } else { "was aborted" }
}

/// What is left of it.
fn left(run: &Run) -> &'static str {
    if run.cut_void {
        "The cut is void, its replicas were removed and writes go on."
    } else {
        "Nothing was cut and writes go on."
    }
}

/// What is said between two attempts.
fn cooling_down(request: &Request, run: &Run, verdict: &Verdict, next: Timestamp) -> String {
    // The time comes before the reason, whose text may be cut off.
    format!(
        "attempt {} of {} {}, the next one begins at {next:.0}: {}. {}",
        run.attempt,
        request.attempts(),
        ended(run),
        verdict.message,
        left(run)
    )
}

fn reconciling(run: &Run) -> Draft {
    if run.phase().is_final() {
        return draft("Reconciling", "False", format!("{:?}", run.phase()), "the run has ended");
    }
    if let Some(at) = run.next_attempt {
        return draft("Reconciling", "True", "CoolingDown", format!("the next attempt begins at {at:.0}"));
    }
    draft("Reconciling", "True", format!("{:?}", run.phase()), "the run goes on by itself")
}

fn stalled(run: &Run) -> Draft {
    match (run.phase(), &run.verdict) {
        (Phase::Aborted | Phase::Failed, Some(verdict)) => draft(
            "Stalled",
            "True",
            &verdict.reason,
            format!(
                "{}. The run has ended; create another ConsistencyGroupReplication when this is mended.",
                verdict.message
            ),
        ),
        _ => draft("Stalled", "False", format!("{:?}", run.phase()), "nothing needs to be mended"),
    }
}

fn writes_suspended(run: &Run) -> Draft {
    let Some(member) = run.members.iter().find(|member| member.may_be_suspended()) else {
        return draft("WritesSuspended", "False", "NotSuspended", "writes go on");
    };
    let claim = &member.claim.name;
    if run.stage == Stage::Ended {
        let message = format!(
            "the agent of PersistentVolumeClaim {claim} has not said that it resumed; it resumes by itself at holdTimeout"
        );
        return draft("WritesSuspended", "Unknown", "NotAnswered", message);
    }
    let count = run.members.iter().filter(|member| member.may_be_suspended()).count();
    draft(
        "WritesSuspended",
        "True",
        "Suspended",
        format!("writes of {count} members may be suspended (first: {claim})"),
    )
}

fn consistent(request: &Request, run: &Run) -> Draft {
    let consistent = |status, reason: &str, message: &str| draft("Consistent", status, reason, message);
    match (run.phase(), request.mode) {
        (Phase::Aborted | Phase::Failed, _) => consistent("False", "NothingKept", "there are no replicas"),
        (_, Mode::Check) => consistent("Unknown", "CheckOnly", "mode Check keeps no replicas"),
        (_, Mode::Replicate) if run.proven => {
            let message = "every member held without a break from before the first cut until after the last one: one common crash-consistent cut";
            consistent("True", "Crash", message)
        }
        (_, Mode::Replicate) => consistent("Unknown", "NotProvenYet", "the cut is not proven yet"),
    }
}

fn blocked(run: &Run) -> Draft {
    let first = run.members.iter().find_map(|member| Some((member, member.blockers().next()?)));
    match first {
        Some((member, blocker)) if run.phase() != Phase::Done => {
            let all: usize = run.members.iter().map(Member::count_blockers).sum();
            let more = if all > 1 { format!(" (and {} more)", all - 1) } else { String::new() };
            draft("Blocked", "True", &blocker.reason, format!("{}: {}{more}", member.claim.name, blocker.message))
        }
        _ => draft("Blocked", "False", "NoBlockers", "no agent reports anything in the way"),
    }
}
