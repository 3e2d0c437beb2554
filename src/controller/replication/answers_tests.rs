#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::jiff::Timestamp;

use super::super::fixtures;
use super::*;
use crate::api::{ClaimReference, ReplicationStatus};

fn setting() -> (Request, Run, BTreeMap<String, PodFacts>, Moment) {
    let now = Moment { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let request = Request { epoch: 7, ..fixtures::request() };
    let pod = MemberPod { name: "db".into(), uid: "pod".into(), node: None, mount_path: "/data".into() };
    let member = Member::new(ClaimReference { name: "data".into(), uid: "claim".into() }, String::new(), Some(pod));
    let containers = vec![RunningContainer { name: "postgres".into(), id: "abc".into() }];
    let facts = PodFacts { name: "db".into(), uid: "pod".into(), containers, ..PodFacts::default() };
    (request, Run::new(vec![member], ReplicationStatus::default(), now), [("pod".into(), facts)].into(), now)
}

fn attempt() -> wire::Attempt {
    wire::Attempt { epoch: 7, replication_uid: "uid".into(), number: 1, member: "claim".into() }
}

#[test]
fn only_the_members_own_pod_and_only_this_attempt_count() {
    let (request, run, pods, now) = setting();
    let take = |attempt: Option<wire::Attempt>, pod: &str| {
        let report = Report::Ready(wire::Ready { attempt, round: 1, suspended_us: 5 });
        accept(&request, &run, &pods, pod, report, now).map(|(member, _)| member)
    };
    assert_eq!(take(Some(attempt()), "pod"), Ok("claim".into()));
    assert_eq!(take(Some(attempt()), "other"), Err(Rejected::NotItsPod { claim: "data".into() }));
    let stale = [
        None,
        Some(wire::Attempt { epoch: 6, ..attempt() }),
        Some(wire::Attempt { replication_uid: "other".into(), ..attempt() }),
        Some(wire::Attempt { number: 2, ..attempt() }),
        Some(wire::Attempt { member: "other".into(), ..attempt() }),
    ];
    for attempt in stale {
        assert_eq!(take(attempt, "pod"), Err(Rejected::Stale));
    }
}

#[test]
fn blockers_are_named_and_bounded() {
    let (request, run, pods, now) = setting();
    let blocker = wire::Blocker {
        reason: "LockHeld".into(),
        message: "x".repeat(5_000),
        container_id: "abc".into(),
        pid: 7,
        process: "postgres".into(),
        ..wire::Blocker::default()
    };
    let report =
        Report::Waiting(wire::Waiting { attempt: Some(attempt()), blockers: vec![blocker; 25], more_blockers: 3 });
    let (_, answer) = accept(&request, &run, &pods, "pod", report, now).unwrap();
    let AnswerContent::Waiting { blockers, more } = answer.content else { panic!("{answer:?}") };
    assert_eq!((blockers.len(), more), (MAX_BLOCKERS, 18));
    let first = &blockers[0];
    assert_eq!((first.pod.as_deref(), first.container.as_deref()), (Some("db"), Some("postgres")));
    assert_eq!(first.message.chars().count(), MAX_MESSAGE_CHARS);
}
