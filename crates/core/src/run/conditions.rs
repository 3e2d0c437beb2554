//! The conditions: `Ready`, `Reconciling` and `Stalled` in the sense of kstatus
//! (<https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>), and what they do not say:
//! `WritesSuspended`, `Consistent` and `Blocked`. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::assignments::Assignment;
use super::observed::Observed;
use super::state::{Member, Moment, Request, Run, Verdict};
use super::waiting::WaitingFor;
use crate::limits::{CLEAN_UP_RETRY_MAX, MAX_MESSAGE_CHARS};
use crate::replica::removal::Left;
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
        consistent(request, run, observed),
        blocked(run),
    ];
    let all = all.into_iter().chain(left(observed.left()));
    all.map(|draft| settle(draft, request.generation, &run.conditions, now)).collect()
}

/// The condition that says what is left of replicas that were to be removed. It is there once something was left.
pub const CLEANED_UP: &str = "CleanedUp";

/// The conditions after a clean-up that has left this; `None`: they say so already.
pub fn cleaned_up(
    generation: Option<i64>,
    before: &[Condition],
    still_there: &[Left],
    now: Moment,
) -> Option<Vec<Condition>> {
    let at = before.iter().position(|one| one.type_ == CLEANED_UP);
    let draft = match (left(still_there), at) {
        (Some(left), _) => left,
        (None, Some(_)) => draft(CLEANED_UP, "True", "NothingLeft", "nothing is left that was to be removed"),
        (None, None) => return None,
    };
    let condition = settle(draft, generation, before, now);
    let mut after = before.to_vec();
    match at {
        Some(at) if after[at] == condition => return None,
        Some(at) => after[at] = condition,
        None => after.push(condition),
    }
    Some(after)
}

fn left(left: &[Left]) -> Option<Draft> {
    let first = left.iter().find(|left| left.refused).or(left.first())?;
    let more = more(left.len());
    let reason = if first.refused { "DeletionRefused" } else { "BeingDeleted" };
    let pause = CLEAN_UP_RETRY_MAX.as_secs();
    let message = format!("{}{more}. It is tried again, with pauses of up to {pause} s.", first.what);
    Some(draft(CLEANED_UP, "False", reason, message))
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

/// What is said of one that cannot begin yet.
pub fn tried_again(why: &str) -> String {
    format!("{why}; it is tried again until it can begin")
}

/// What is said behind the first of so many.
fn more(all: usize) -> String {
    if all > 1 { format!(" (and {} more)", all - 1) } else { String::new() }
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
                "all {members} members were ready together, and {}; nothing was kept (mode Check)",
                looked_at(request)
            ),
        ),
        (Phase::Aborted | Phase::Failed, Some(verdict), _) => {
            let message = format!(
                "{}{}. {}{}",
                tries(request, run),
                verdict.message,
                rest(run, observed.left()),
                not_retried(run)
            );
            ready("False", &verdict.reason, message)
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

/// What a check found out of replicas, and what it did not look at.
fn looked_at(request: &Request) -> String {
    match request.kind {
        Some(kind) => {
            let words = kind.words();
            let (many, untried) = (words.many, words.untried);
            format!(
                "their {many} would be accepted: the group can be cut now, unless {untried}, which was not looked at"
            )
        }
        None => "whether replicas of them can be made was not looked at, because spec.replication does not say how"
            .to_owned(),
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
fn rest(run: &Run, still_there: &[Left]) -> String {
    let writes = writes(run);
    match (run.cut_void, still_there) {
        (false, _) => format!("Nothing was cut{writes}."),
        (true, []) => format!("The cut is void, its replicas were removed{writes}."),
        (true, _) => format!("The cut is void; the condition {CLEANED_UP} says what became of its replicas{writes}."),
    }
}

/// What is known of the writes of a run that has ended, to be put behind half a sentence.
fn writes(run: &Run) -> String {
    let open =
        |(member, one): (&Member, &Assignment)| one.may_suspend().then(|| (member.claim.name.clone(), one.ready));
    match run.assignments().find_map(open) {
        None => " and writes go on".to_owned(),
        Some((claim, Some(_))) => {
            format!(", and writes to PersistentVolumeClaim {claim} go on at the latest when its holdTimeout is over")
        }
        Some((claim, None)) => {
            format!(", but it is not known whether writes to PersistentVolumeClaim {claim} go on")
        }
    }
}

/// Why no other attempt follows although `spec.retry` allows one.
fn not_retried(run: &Run) -> String {
    run.not_retried.as_ref().map(|why| format!(" No other attempt follows by itself: {why}.")).unwrap_or_default()
}

/// What is said between two attempts. There is another one only when nothing is left of replicas.
fn cooling_down(request: &Request, run: &Run, verdict: &Verdict, next: Timestamp) -> String {
    // The time comes before the reason, whose text may be cut off.
    format!(
        "attempt {} of {} {}, the next one begins at {next:.0}: {}. {}",
        run.attempt,
        request.attempts(),
        ended(run),
        verdict.message,
        rest(run, &[])
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
    let unknown = run.assignments().filter_map(|(member, one)| Some((member, one, one.unknown_since()?)));
    if let Some((member, one, since)) = unknown.min_by_key(|(.., since)| since.monotonic) {
        let message = format!(
            "{} has not answered for PersistentVolumeClaim {} since {:.0}: it is not known whether its writes are suspended; see the agent's log",
            one.agent, member.claim.name, since.wall
        );
        return draft("WritesSuspended", "Unknown", "NotAnswered", message);
    }
    let mut suspended = run.members.iter().filter(|member| member.may_be_suspended());
    let Some(first) = suspended.next() else {
        return draft("WritesSuspended", "False", "NotSuspended", "writes go on");
    };
    let message = format!("writes of {} members may be suspended (first: {})", 1 + suspended.count(), first.claim.name);
    draft("WritesSuspended", "True", "Suspended", message)
}

fn consistent(request: &Request, run: &Run, observed: &Observed) -> Draft {
    let consistent = |status, reason: &str, message: &str| draft("Consistent", status, reason, message);
    match (run.phase(), request.mode) {
        (Phase::Aborted | Phase::Failed, _) => match observed.left() {
            [] => consistent("False", "NothingKept", "there are no replicas"),
            _ => consistent("False", "Void", "the cut is void; use no replica that is left of it"),
        },
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
            let more = more(all);
            draft("Blocked", "True", &blocker.reason, format!("{}: {}{more}", member.claim.name, blocker.message))
        }
        _ => draft("Blocked", "False", "NoBlockers", "no agent reports anything in the way"),
    }
}
