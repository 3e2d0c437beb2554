#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use prost::Message as _;

use super::super::assignments::Mount;
use super::super::fixtures;
use super::super::observed::Observed;
use super::super::plan::plan;
use super::super::state::Stage;
use super::*;
use crate::limits::MAX_MEMBERS;
use stillpoint_api::{ClaimReference, MemberState, Mode, Phase, ReplicationStatus};

fn setting() -> (Request, Run, BTreeMap<String, PodFacts>, Moment) {
    let now = Moment { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let request = Request { epoch: 7, ..fixtures::request() };
    let containers = vec![RunningContainer { name: "postgres".into(), id: "abc".into() }];
    let facts = PodFacts { name: "db".into(), uid: "pod".into(), containers, ..PodFacts::default() };
    let (mounts, agents) = (vec![Mount::from(&facts)], vec![AgentRef::sidecar(&facts, "data")]);
    let member = Member::new(ClaimReference { name: "data".into(), uid: "claim".into() }, mounts, agents);
    (request, Run::new(vec![member], ReplicationStatus::default(), now), [("pod".into(), facts)].into(), now)
}

fn agent(pod: &str) -> AgentKey {
    AgentKey::of_pod(pod)
}

fn attempt() -> wire::Attempt {
    wire::Attempt { epoch: 7, replication_uid: "uid".into(), number: 1, member: "claim".into() }
}

#[test]
fn only_the_members_own_pod_and_only_this_attempt_count() {
    let (request, run, pods, now) = setting();
    let take = |attempt: Option<wire::Attempt>, pod: &str| {
        let report = Report::Ready(wire::Ready { attempt, round: 1, suspended_us: 5 });
        accept(&request, &run, &pods, &agent(pod), report, now).map(|(key, _)| (key.claim, key.agent))
    };
    assert_eq!(take(Some(attempt()), "pod"), Ok(("claim".into(), agent("pod"))));
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
    let (_, answer) = accept(&request, &run, &pods, &agent("pod"), report, now).unwrap();
    let AnswerContent::Waiting { blockers, more } = answer.content else { panic!("{answer:?}") };
    assert_eq!((blockers.len(), more), (MAX_BLOCKERS, 18));
    let first = &blockers[0];
    assert_eq!((first.pod.as_deref(), first.container.as_deref()), (Some("db"), Some("postgres")));
    assert_eq!(first.message.chars().count(), MAX_MESSAGE_CHARS);
}

#[test]
fn every_protection_that_an_agent_reports_is_shown() {
    let (request, run, pods, now) = setting();
    let shown = |protection: i32| {
        let prepared = wire::Prepared { attempt: Some(attempt()), filesystem: "ext4".into(), protection };
        let (_, answer) = accept(&request, &run, &pods, &agent("pod"), Report::Prepared(prepared), now).unwrap();
        let AnswerContent::Prepared { protection } = answer.content else { panic!("{answer:?}") };
        protection
    };
    assert_eq!(shown(wire::Protection::NodeGuardian.into()), Some(Protection::NodeGuardian));
    assert_eq!(shown(wire::Protection::PodGuardian.into()), Some(Protection::PodGuardian));
    assert_eq!(shown(99), None, "an agent newer than this controller");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        ".{0,20}",
        "[\\x00-\\x1f\u{202e}\u{2028}\u{feff}🎉ä\"\\\\]{0,40}",
        (0..1_000_usize).prop_map(|length| "\u{1b}🎉".repeat(length)),
    ]
}

fn blocker() -> impl Strategy<Value = wire::Blocker> {
    let lock = (text(), text(), any::<u64>(), any::<Option<u64>>());
    let lock = lock.prop_map(|(kind, mode, start, end)| wire::Lock { kind, mode, start, end });
    let texts = (text(), text(), text(), text(), text());
    (texts, any::<i32>(), proptest::option::of(lock), any::<u64>()).prop_map(
        |((reason, message, container_id, process, path), pid, lock, seen_us)| wire::Blocker {
            reason,
            message,
            container_id,
            pid,
            process,
            lock,
            path,
            seen_us,
            epoch: 0,
        },
    )
}

/// Reports that are about the right attempt, and otherwise anything.
fn report() -> impl Strategy<Value = Report> {
    let blockers = proptest::collection::vec(blocker(), 0..14);
    (0..6_u8, blockers, any::<u32>(), 0..4_u32, any::<bool>(), any::<u64>(), text(), any::<i32>()).prop_map(
        |(kind, blockers, more_blockers, round, yes, micros, reason, protection)| {
            let attempt = Some(attempt());
            match kind {
                0 => Report::Waiting(wire::Waiting { attempt, blockers, more_blockers }),
                1 => Report::Prepared(wire::Prepared { attempt, protection, filesystem: reason }),
                2 => Report::Ready(wire::Ready { attempt, round, suspended_us: micros }),
                3 => {
                    let retryable = yes;
                    let suspended_us = micros;
                    Report::NotReady(wire::NotReady {
                        attempt,
                        round,
                        retryable,
                        blockers,
                        more_blockers,
                        suspended_us,
                    })
                }
                4 => Report::Pending(wire::Pending { attempt, round, blockers, suspended_us: micros }),
                _ => Report::Released(wire::Released { attempt, unbroken: yes, reason, suspended_us: micros }),
            }
        },
    )
}

/// The status is what etcd can store, holds nothing that is dangerous to show, and can be read back.
fn check_status(status: &ReplicationStatus) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(status).unwrap();
    prop_assert!(json.len() < 1_500_000, "{} bytes", json.len());
    let dangerous = ["\\u0", "\u{202e}", "\u{2028}"].iter().any(|text| json.contains(text));
    prop_assert!(!dangerous);
    let read: ReplicationStatus = serde_json::from_str(&json).unwrap();
    prop_assert_eq!(&read.phases, &status.phases);
    prop_assert_eq!(read.members.len(), status.members.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let (request, run, pods, now) = setting();
        if let Ok(wire::AgentMessage { report: Some(report) }) = wire::AgentMessage::decode(&bytes[..]) {
            prop_assert!(accept(&request, &run, &pods, &agent("pod"), report, now).is_err(), "garbage is about no attempt of ours");
        }
    }

    /// A good message of which a byte is changed is another message, or about another attempt; it is never more than the
    /// pod's own word.
    #[test]
    fn no_damaged_message_panics(report in report(), at in any::<prop::sample::Index>(), byte: u8) {
        let (request, run, pods, now) = setting();
        let mut bytes = wire::AgentMessage { report: Some(report) }.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(wire::AgentMessage { report: Some(report) }) = wire::AgentMessage::decode(&bytes[..]) {
            prop_assert!(accept(&request, &run, &pods, &agent("other"), report.clone(), now).is_err());
            if let Ok((member, _)) = accept(&request, &run, &pods, &agent("pod"), report, now) {
                prop_assert_eq!(member.claim, "claim");
            }
        }
    }

    /// An agent that says anything at any time to a run: nothing panics, the status stays small and harmless, the run ends,
    /// and it is done only when the agent was asked in this order and said yes each time.
    #[test]
    fn no_agent_talks_a_run_into_anything(
        reports in proptest::collection::vec((report(), 0..2_000_u64), 0..24),
        check: bool,
    ) {
        let (mut request, mut run, pods, mut now) = setting();
        request.mode = if check { Mode::Check } else { Mode::Replicate };
        let mut observed = Observed { watching: true, recorded: true, pods: pods.clone(), ..Observed::default() };
        observed.pods.get_mut("pod").unwrap().running = true;
        observed.connected.insert(agent("pod"));
        let claim = super::super::facts::Claim { name: "data".into(), uid: "claim".into(), ..Default::default() };
        observed.claims.insert("claim".into(), claim);
        let mut said_yes = false;
        for (report, passes) in reports {
            let asked = run.members[0].assignments[0].asked;
            let (member, answer) = accept(&request, &run, &pods, &agent("pod"), report, now).unwrap();
            said_yes |= asked.is_some() && matches!(answer.content, AnswerContent::Released { unbroken: true, .. });
            observed.answers.insert(member, answer);
            let planned = plan(&request, &run, &observed, now);
            for status in &planned.statuses {
                check_status(status)?;
            }
            if planned.run.members[0].assignments[0].asked != run.members[0].assignments[0].asked {
                observed.asking(&AssignmentKey::new("claim", agent("pod")));
            }
            run = planned.run;
            now.monotonic += Duration::from_millis(passes);
        }
        prop_assert!(run.phase() != Phase::Done || (said_yes && run.members[0].state() == MemberState::Released));
        if run.stage == Stage::Ended {
            prop_assert!(run.phase().is_final());
        }
    }

    /// The largest group, of which every agent says the worst.
    #[test]
    fn the_largest_status_can_be_stored(report in report()) {
        let (request, mut run, pods, now) = setting();
        let one = run.members[0].clone();
        run.stage = Stage::Preparing;
        run.prepare_deadline = Some(Duration::from_secs(30));
        run.members = (0..MAX_MEMBERS)
            .map(|number| {
                let mut member = one.clone();
                member.claim.uid = format!("claim-{number}");
                member.claim.name = "n".repeat(253);
                member.assignments[0].asked = Some(Command::Prepare);
                member
            })
            .collect();
        let mut observed = Observed { watching: true, recorded: true, pods: pods.clone(), ..Observed::default() };
        observed.connected.insert(agent("pod"));
        for number in 0..MAX_MEMBERS {
            let mut report = report.clone();
            let attempt = Some(wire::Attempt { member: format!("claim-{number}"), ..attempt() });
            match &mut report {
                Report::Waiting(it) => it.attempt = attempt,
                Report::Prepared(it) => it.attempt = attempt,
                Report::Ready(it) => it.attempt = attempt,
                Report::Pending(it) => it.attempt = attempt,
                Report::NotReady(it) => it.attempt = attempt,
                Report::Released(it) => it.attempt = attempt,
                Report::Hello(_) => {}
            }
            let (member, answer) = accept(&request, &run, &pods, &agent("pod"), report, now).unwrap();
            observed.answers.insert(member, answer);
        }
        for status in plan(&request, &run, &observed, now).statuses {
            check_status(&status)?;
        }
    }
}

#[test]
fn an_agent_that_refuses_an_older_command_tells_the_newer_epoch() {
    let now = Moment { monotonic: Duration::ZERO, wall: k8s_openapi::jiff::Timestamp::UNIX_EPOCH };
    let told = |reason: Reason, epoch| {
        let blockers = vec![wire::Blocker { reason: reason.into(), epoch, ..wire::Blocker::default() }];
        newer_epoch(&Report::NotReady(wire::NotReady { blockers, ..wire::NotReady::default() }), 5, now)
    };
    assert_eq!(told(Reason::StaleAttempt, 9), Some(9));
    assert_eq!(told(Reason::StaleAttempt, 5), None, "an earlier attempt");
    assert_eq!(told(Reason::StaleAttempt, u64::MAX), None, "no leader can have it");
    assert_eq!(told(Reason::LockHeld, 9), None);
}
