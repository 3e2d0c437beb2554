#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::jiff::Timestamp;
use stillpoint_api::{ClaimReference, MemberState, ReplicationStatus};

use super::super::agents::AgentRef;
use super::super::assignments::Mount;
use super::super::facts::{AgentMount, Claim, PodFacts};
use super::super::fixtures;
use super::super::state::{Command, Member};
use super::*;
use crate::wire;
use crate::wire::agent_message::Report;

const MEMBERS: usize = 100;

fn at(ms: u64) -> Moment {
    Moment { monotonic: Duration::from_secs(1) + Duration::from_millis(ms), wall: Timestamp::UNIX_EPOCH }
}

fn object() -> ConsistencyGroupReplication {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "1"},
        "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "replication": {"volumeSnapshot": {}}},
    }))
    .unwrap()
}

/// An attempt with members whose agents are connected, and whose declaration is stored.
fn attempt() -> AttemptDriver {
    let mut facts = Facts::default();
    let mut agents = BTreeSet::new();
    let members = (0..MEMBERS).map(|number| {
        let (name, claim_uid, pod_uid) = (format!("data-{number}"), format!("claim-{number}"), format!("pod-{number}"));
        let claim = Claim { name: name.clone(), uid: claim_uid.clone(), ..Claim::default() };
        facts.claims.insert(claim_uid.clone(), claim);
        let pod = PodFacts {
            name: pod_uid.clone(),
            uid: pod_uid.clone(),
            running: true,
            claims: [name.clone()].into(),
            agent_mounts: [(name.clone(), AgentMount { path: "/data".into(), sub_path: false })].into(),
            ..PodFacts::default()
        };
        let (mounts, agent) = (vec![Mount::from(&pod)], AgentRef::sidecar(&pod, &name));
        agents.insert(agent.key());
        facts.pods.insert(pod_uid, pod);
        Member::new(ClaimReference { name, uid: claim_uid }, mounts, vec![agent])
    });
    let run = Run::new(members.collect(), ReplicationStatus::default(), at(0));
    let mut attempt = AttemptDriver::new(fixtures::request(), run, object(), facts, agents);
    settle(&mut attempt, at(0));
    attempt
}

/// Turns until nothing more is to be done now; statuses are stored at once. Gives the commands and the other effects.
fn settle(attempt: &mut AttemptDriver, now: Moment) -> (Vec<Command>, Vec<Effect>) {
    let (mut commands, mut others) = (Vec::new(), Vec::new());
    loop {
        let mut stored = false;
        for effect in attempt.turn(now, true) {
            match effect {
                Effect::PutStatus(object) => {
                    others.extend(attempt.hear(Input::Stored(Ok(object)), now));
                    stored = true;
                }
                Effect::Send { command, .. } => commands.push(command),
                other => others.push(other),
            }
        }
        if !stored {
            return (commands, others);
        }
    }
}

fn report(attempt: &mut AttemptDriver, member: usize, make: impl Fn(Option<wire::Attempt>) -> Report, now: Moment) {
    let of = wire::Attempt {
        epoch: attempt.request.epoch,
        replication_uid: "uid".into(),
        number: 1,
        member: format!("claim-{member}"),
    };
    let agent = AgentKey::of_pod(format!("pod-{member}"));
    attempt.hear(Input::Report(agent, make(Some(of))), now);
}

fn ready(attempt: Option<wire::Attempt>) -> Report {
    Report::Ready(wire::Ready { attempt, round: 1, suspended_us: 0 })
}

/// All agents have prepared, and were told to suspend.
fn suspending() -> AttemptDriver {
    let mut attempt = attempt();
    for member in 0..MEMBERS {
        report(
            &mut attempt,
            member,
            |attempt| Report::Prepared(wire::Prepared { attempt, ..Default::default() }),
            at(1),
        );
    }
    let (commands, _) = settle(&mut attempt, at(1));
    assert_eq!(commands, [Command::Suspend; MEMBERS]);
    attempt
}

#[test]
fn a_hold_of_many_members_is_planned_a_few_times() {
    let mut attempt = suspending();
    let mut planned = 0;
    for member in 0..MEMBERS {
        let before = attempt.run.clone();
        report(&mut attempt, member, ready, at(2));
        let (_, effects) = settle(&mut attempt, at(2));
        planned += usize::from(attempt.run != before);
        let cuts = effects.iter().any(|effect| matches!(effect, Effect::Ask(_)));
        assert_eq!(cuts, member == MEMBERS - 1, "all or nothing");
    }
    assert!(planned <= 3, "planned {planned} times for {MEMBERS} answers");
}

#[test]
fn an_answer_that_others_are_waited_for_with_is_shown_soon() {
    let mut attempt = suspending();
    report(&mut attempt, 0, ready, at(2));
    settle(&mut attempt, at(2));
    report(&mut attempt, 1, ready, at(3));
    settle(&mut attempt, at(3));
    assert_eq!(attempt.run.members[1].state(), MemberState::Suspending);
    let soon = at(3).monotonic + STATUS_INTERVAL;
    assert!(attempt.wake_at().is_some_and(|wake| wake <= soon));
    settle(&mut attempt, Moment { monotonic: soon, ..at(3) });
    assert_eq!(attempt.run.members[1].state(), MemberState::Ready);
}

#[test]
fn a_refusal_is_planned_at_once() {
    let mut attempt = suspending();
    report(&mut attempt, 0, ready, at(2));
    settle(&mut attempt, at(2));
    let refuse = |attempt| Report::NotReady(wire::NotReady { attempt, round: 1, ..Default::default() });
    report(&mut attempt, 1, refuse, at(3));
    let (commands, _) = settle(&mut attempt, at(3));
    assert!(commands.contains(&Command::Release), "{commands:?}");
}

#[test]
fn connections_for_the_cut_are_opened_before_the_hold_and_again_when_they_may_be_gone() {
    let warm = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Warm(99))).count();
    let mut attempt = attempt();
    let late = 61_000;
    for member in 0..MEMBERS {
        report(
            &mut attempt,
            member,
            |attempt| Report::Prepared(wire::Prepared { attempt, ..Default::default() }),
            at(1),
        );
    }
    assert_eq!(warm(&settle(&mut attempt, at(1)).1), 0, "they are there");

    let mut attempt = self::attempt();
    attempt.request.prepare_timeout = Duration::from_secs(600);
    attempt.run.prepare_deadline = Some(Duration::from_secs(600));
    for member in 0..MEMBERS {
        report(
            &mut attempt,
            member,
            |attempt| Report::Prepared(wire::Prepared { attempt, ..Default::default() }),
            at(late),
        );
    }
    assert_eq!(warm(&settle(&mut attempt, at(late)).1), 1, "hyper may have closed them");
}

#[test]
fn what_takes_the_place_of_a_replica_that_is_gone_is_none() {
    let name = ObjectName { kind: "VolumeSnapshot".into(), name: "cut".into() };
    let object = |uid: &str| {
        let resource = kube::core::ApiResource::erase::<stillpoint_api::snapshot::VolumeSnapshot>(&());
        let mut object = DynamicObject::new("cut", &resource);
        object.metadata.uid = Some(uid.to_owned());
        Some(Box::new(object))
    };
    let mut attempt = suspending();
    for asked in [false, true] {
        attempt.run.cut_requested = asked.then_some(at(2));
        for replica in [object("first"), object("another")] {
            attempt.hear(Input::Replica(name.clone(), replica), at(3));
        }
        assert_eq!(attempt.observed.replicas.contains_key(&name), !asked, "another one, and the first was not told of");
        attempt.hear(Input::Asked { name: name.clone(), result: Ok(object("late").unwrap()) }, at(4));
        assert_eq!(attempt.observed.replicas.contains_key(&name), !asked);
        attempt.observed.replicas.clear();
    }
}
