//! Between wire messages and facts: which report counts as an answer of which assignment, and how commands are written. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agents::{AgentKey, AgentRef, AssignmentKey};
use super::epochs::outranks;
use super::facts::{PodFacts, RunningContainer};
use super::observed::{Answer, AnswerContent};
use super::state::{Command, Member, Moment, Request, Run};
use crate::limits::{MAX_BLOCKERS, MAX_MESSAGE_CHARS, MAX_PATH_CHARS, MAX_WORD_CHARS};
use crate::text::printable;
use crate::wire::{self, agent_message::Report, controller_message};
use stillpoint_api::{AgentPlace, Blocker, BlockingLock, BlockingProcess, Protection, Reason};

/// Why a report was not taken as an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It belongs to no member of this attempt.
    #[error("it is about another epoch, attempt or member")]
    Stale,
    /// It came through the session of an agent that is not responsible for the member.
    #[error("the pod that sent it does not mount the member {claim}")]
    NotItsPod {
        /// The claim's name.
        claim: String,
    },
}

/// Takes a report as the answer of an assignment.
///
/// Only an agent that is responsible for a member may answer for it: sessions are authenticated by a token that is bound to the
/// agent's pod.
///
/// # Errors
/// When the report does not count; it is then to be dropped.
pub fn accept(
    request: &Request,
    run: &Run,
    pods: &BTreeMap<String, PodFacts>,
    agent: &AgentKey,
    report: Report,
    at: Moment,
) -> Result<(AssignmentKey, Answer), Rejected> {
    let attempt = attempt_of(&report).ok_or(Rejected::Stale)?;
    if attempt.epoch != request.epoch || attempt.replication_uid != request.uid || attempt.number != run.attempt {
        return Err(Rejected::Stale);
    }
    let member = run.members.iter().find(|member| member.claim.uid == attempt.member).ok_or(Rejected::Stale)?;
    let assignment = member.assignments.iter().find(|one| one.agent.has_key(agent));
    let assignment = assignment.ok_or_else(|| Rejected::NotItsPod { claim: member.claim.name.clone() })?;
    let pods: Vec<&PodFacts> = assignment.agent.watched_pods(pods).collect();
    let content = content(report, &pods).ok_or(Rejected::Stale)?;
    Ok((member.key_of(&assignment.agent), Answer { at, content }))
}

/// The epoch of a newer leader that the agent says it was commanded in before.
pub fn newer_epoch(report: &Report, own: u64, now: Moment) -> Option<u64> {
    let Report::NotReady(refused) = report else { return None };
    let stale = refused.blockers.iter().filter(|blocker| blocker.reason == Reason::StaleAttempt.as_str());
    stale.map(|blocker| blocker.epoch).filter(|epoch| outranks(*epoch, own, now.wall)).max()
}

/// The attempt that a report belongs to. `None` for Hello, and for a report that names none.
pub fn attempt_of(report: &Report) -> Option<&wire::Attempt> {
    match report {
        Report::Hello(_) => None,
        Report::Waiting(it) => it.attempt.as_ref(),
        Report::Prepared(it) => it.attempt.as_ref(),
        Report::Ready(it) => it.attempt.as_ref(),
        Report::Pending(it) => it.attempt.as_ref(),
        Report::NotReady(it) => it.attempt.as_ref(),
        Report::Released(it) => it.attempt.as_ref(),
    }
}

/// What a report says of a member, whose processes are in these pods. `None` for Hello.
fn content(report: Report, pods: &[&PodFacts]) -> Option<AnswerContent> {
    Some(match report {
        Report::Hello(_) => return None,
        Report::Waiting(it) => {
            AnswerContent::Waiting { more: more(&it.blockers, it.more_blockers), blockers: blockers(it.blockers, pods) }
        }
        Report::Prepared(it) => {
            let protection = match wire::Protection::try_from(it.protection) {
                Ok(wire::Protection::NodeGuardian) => Some(Protection::NodeGuardian),
                Ok(wire::Protection::PodGuardian) => Some(Protection::PodGuardian),
                Ok(wire::Protection::Unspecified) | Err(_) => None,
            };
            AnswerContent::Prepared { protection }
        }
        Report::Ready(it) => {
            AnswerContent::Ready { round: it.round, suspended: Duration::from_micros(it.suspended_us) }
        }
        Report::Pending(it) => AnswerContent::Pending { round: it.round, blockers: blockers(it.blockers, pods) },
        Report::NotReady(it) => AnswerContent::NotReady {
            round: it.round,
            retryable: it.retryable,
            more: more(&it.blockers, it.more_blockers),
            blockers: blockers(it.blockers, pods),
            suspended: Duration::from_micros(it.suspended_us),
        },
        Report::Released(it) => AnswerContent::Released {
            unbroken: it.unbroken,
            reason: printable(&it.reason, MAX_MESSAGE_CHARS),
            suspended: Duration::from_micros(it.suspended_us),
        },
    })
}

fn more(listed: &[wire::Blocker], more: u32) -> u32 {
    more.saturating_add(u32::try_from(listed.len().saturating_sub(MAX_BLOCKERS)).unwrap_or(u32::MAX))
}

fn blockers(blockers: Vec<wire::Blocker>, pods: &[&PodFacts]) -> Vec<Blocker> {
    blockers.into_iter().take(MAX_BLOCKERS).map(|blocker| name_blocker(blocker, pods)).collect()
}

/// Offsets in a file are signed (`off_t`), and so are numbers in a CRD: what is beyond cannot be stored.
const LAST_BYTE: u64 = i64::MAX as u64;

/// Agents know containers by id; people know them by name.
fn name_blocker(blocker: wire::Blocker, pods: &[&PodFacts]) -> Blocker {
    let mut containers = pods.iter().flat_map(|pod| pod.containers.iter().map(|container| (*pod, container)));
    let found = containers.find(|(_, container)| container.id == blocker.container_id);
    // Who watches a single pod means that one.
    let only = || if let [pod] = pods { Some(*pod) } else { None };
    let (pod, container) = found.map_or_else(|| (only(), None), |(pod, container)| (Some(pod), Some(container)));
    let word = |text: &str| printable(text, MAX_WORD_CHARS);
    Blocker {
        reason: word(&blocker.reason),
        message: printable(&blocker.message, MAX_MESSAGE_CHARS),
        pod: pod.map(|pod| pod.name.clone()),
        container: container.map(|container| container.name.clone()),
        process: (blocker.pid != 0).then(|| BlockingProcess { pid: blocker.pid, name: word(&blocker.process) }),
        lock: blocker.lock.map(|lock| BlockingLock {
            kind: word(&lock.kind),
            mode: word(&lock.mode),
            start: lock.start.min(LAST_BYTE),
            end: lock.end.map(|end| end.min(LAST_BYTE)),
        }),
        path: (!blocker.path.is_empty()).then(|| printable(&blocker.path, MAX_PATH_CHARS)),
        seen_for: (blocker.seen_us != 0).then(|| Duration::from_micros(blocker.seen_us).into()),
    }
}

/// Writes a command about a member for one of its agents.
pub fn command(
    request: &Request,
    run: &Run,
    member: &Member,
    agent: &AgentRef,
    pods: &BTreeMap<String, PodFacts>,
    command: Command,
    now: Moment,
) -> wire::ControllerMessage {
    let attempt = Some(wire::Attempt {
        epoch: request.epoch,
        replication_uid: request.uid.clone(),
        number: run.attempt,
        member: member.claim.uid.clone(),
    });
    let left = run.prepare_deadline.map_or(request.prepare_timeout, |end| end.saturating_sub(now.monotonic));
    let command = match command {
        Command::Prepare => controller_message::Command::Prepare(wire::Prepare {
            attempt,
            claim: member.claim.name.clone(),
            mount_path: agent.mount_path().to_owned(),
            containers: agent
                .watched_containers(pods)
                .into_iter()
                .map(|RunningContainer { name, id }| wire::Container { name, id })
                .collect(),
            kubelet_volume: kubelet_volume(member, agent),
            prepare_timeout_ms: milliseconds(left),
            hold_timeout_ms: milliseconds(request.hold_timeout),
            ..wire::Prepare::default()
        }),
        Command::Suspend => controller_message::Command::Suspend(wire::Suspend { attempt, round: run.round }),
        Command::Release => controller_message::Command::Release(wire::Release { attempt }),
    };
    wire::ControllerMessage { command: Some(command) }
}

fn kubelet_volume(member: &Member, agent: &AgentRef) -> Option<wire::KubeletVolume> {
    let watched = match agent.place() {
        AgentPlace::Sidecar => return None,
        AgentPlace::Node => agent.watched(),
    };
    let pod_uids = watched.iter().map(|pod| pod.uid.clone()).collect();
    Some(wire::KubeletVolume { name: member.volume.clone(), pod_uids })
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
