#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::jiff::Timestamp;

use super::super::answers;
use super::super::facts::{AgentMount, RunningContainer};
use super::super::fixtures::{classes, request};
use super::super::state::{Command, Moment, Run};
use super::*;
use crate::wire::{KubeletVolume, controller_message};
use stillpoint_api::{AgentPlace, ClaimName, DeletionPolicy, Replication, ReplicationStatus, Suspension};

fn claim(name: &str) -> Claim {
    Claim {
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: [("app".into(), "shop".into())].into(),
        volume: Some(format!("pv-{name}")),
        ..Claim::default()
    }
}

fn pod(name: &str, claim: &str) -> PodFacts {
    PodFacts {
        name: name.into(),
        uid: format!("uid-{name}"),
        claims: [claim.into()].into(),
        has_agent: true,
        agent_mounts: [(claim.into(), AgentMount { path: "/data".into(), sub_path: false })].into(),
        running: true,
        ..PodFacts::default()
    }
}

fn names(names: &[&str]) -> Source {
    let names = names.iter().map(|name| ClaimName((*name).into())).collect();
    Source { persistent_volume_claim_names: Some(names), selector: None }
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Source {
    let requirement = LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: Some(values.iter().map(|value| (*value).into()).collect()),
    };
    let selector = LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None };
    Source { selector: Some(selector), persistent_volume_claim_names: None }
}

fn snapshots(class: Option<&str>) -> Replication {
    let mut how = Replication::default();
    how.volume_snapshot.get_or_insert_default().volume_snapshot_class_name = class.map(str::to_owned);
    how
}

struct Group {
    spec: ConsistencyGroupReplicationSpec,
    request: Request,
    candidates: Candidates,
}

/// Two claims, each mounted by a pod with an agent, on a driver with a default class.
fn group() -> Group {
    Group {
        spec: ConsistencyGroupReplicationSpec {
            source: names(&["a", "b"]),
            mode: Mode::Replicate,
            suspension: Suspension::default(),
            replication: Some(snapshots(None)),
            deletion_policy: DeletionPolicy::Delete,
            ttl_seconds_after_finished: None,
            retry: None,
        },
        request: request(),
        candidates: Candidates {
            node_agents: BTreeMap::new(),
            claims: vec![claim("a"), claim("b"), claim("c")],
            pods: vec![pod("db-a", "a"), pod("db-b", "b")],
            drivers: ["a", "b", "c"].map(|name| (format!("pv-{name}"), "csi.example".into())).into(),
            facts: classes(&[("fast", "csi.example", true), ("other", "csi.other", true)]),
            taken: BTreeMap::new(),
        },
    }
}

fn resolved(group: &Group) -> Result<Vec<Member>, String> {
    let ceiling = Duration::from_secs(30);
    resolve(&group.spec, &group.request, ceiling, &group.candidates).map_err(|Refusal { verdict, .. }| {
        assert!(verdict.message.len() > 30, "a reason needs a sentence: {}", verdict.message);
        verdict.reason
    })
}

#[test]
fn members_are_resolved_to_uids_volumes_pods_and_classes() {
    let members = resolved(&group()).unwrap();
    let member = &members[0];
    assert_eq!(
        (members.len(), &*member.claim.uid, &*member.volume, &*member.driver),
        (2, "uid-a", "pv-a", "csi.example")
    );
    assert_eq!(member.recipe.class.as_deref(), Some("fast"));
    let agent = &member.assignments[0].agent;
    assert_eq!((&*member.mounts[0].uid, agent.mount_path()), ("uid-db-a", "/data"));
    assert_eq!(agent.key().as_str(), "uid-db-a");
}

/// The group with an agent on the node of its pods, and without sidecars; a second pod mounts the first claim.
fn on_a_node() -> Group {
    let mut group = group();
    group.candidates.node_agents = [("n1".into(), PodRef { name: "agent-x".into(), uid: "uid-agent".into() })].into();
    group.candidates.pods.push(pod("reader", "a"));
    for pod in &mut group.candidates.pods {
        (pod.has_agent, pod.node) = (false, Some("n1".into()));
        pod.agent_mounts.clear();
        pod.containers = vec![RunningContainer { name: "db".into(), id: format!("id-{}", pod.name) }];
    }
    group
}

fn agent_of(member: &Member) -> &AgentRef {
    &member.assignments[0].agent
}

#[test]
fn an_agent_of_the_node_is_asked_about_all_pods_there_that_have_no_sidecar() {
    let group = on_a_node();
    let members = resolved(&group).unwrap();
    let now = Moment { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    let run = Run::new(members, ReplicationStatus::default(), now);
    let (member, agent) = (&run.members[0], agent_of(&run.members[0]));
    assert_eq!((agent.to_string(), agent.key().as_str()), ("the agent of node n1".into(), "uid-agent"));
    assert_eq!((member.mounts.len(), member.assignments.len(), member.uncovered()), (2, 1, None));
    assert_eq!(agent_of(&run.members[1]).watched().len(), 1);
    let pods = group.candidates.pods.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
    let sent = answers::command(&group.request, &run, member, agent, &pods, Command::Prepare, now);
    let Some(controller_message::Command::Prepare(sent)) = sent.command else { panic!("another command") };
    let pod_uids = vec!["uid-db-a".into(), "uid-reader".into()];
    assert_eq!(sent.kubelet_volume, Some(KubeletVolume { name: "pv-a".into(), pod_uids }));
    assert_eq!((sent.containers.len(), sent.mount_path), (2, String::new()));
}

#[test]
fn a_sidecar_that_mounts_the_volume_is_asked_before_the_agent_of_the_node() {
    let mut group = on_a_node();
    group.candidates.pods.truncate(2);
    group.candidates.pods[0] = PodFacts { node: Some("n1".into()), ..pod("db-a", "a") };
    let members = resolved(&group).unwrap();
    let places: Vec<AgentPlace> = members.iter().map(|member| member.assignments[0].agent.place()).collect();
    assert_eq!(places, [AgentPlace::Sidecar, AgentPlace::Node]);
    // One that sees a part alone is not.
    let part = AgentMount { path: "/x".into(), sub_path: true };
    group.candidates.pods[0].agent_mounts.insert("a".into(), part);
    assert_eq!(resolved(&group).unwrap()[0].assignments[0].agent.place(), AgentPlace::Node);
}

#[test]
fn pods_on_several_nodes_and_nodes_without_an_agent_are_refused() {
    let mut group = on_a_node();
    group.candidates.pods[2].node = Some("n2".into());
    assert_eq!(resolved(&group).unwrap_err(), "MountedByMorePods");
    let mut group = on_a_node();
    group.candidates.node_agents.clear();
    assert_eq!(resolved(&group).unwrap_err(), "MountedByMorePods");
    group.candidates.pods.truncate(2);
    assert_eq!(resolved(&group).unwrap_err(), "NoAgent");
}

#[test]
fn every_refusal_has_its_reason() {
    type Spoil = fn(&mut Group);
    #[rustfmt::skip]
    let cases: [(&str, Spoil); 22] = [
        ("HoldTimeoutTooLong", |g| g.request.hold_timeout = Duration::from_secs(31)),
        ("ClaimNotFound", |g| g.spec.source = names(&["a", "gone"])),
        ("NoMembers", |g| g.spec.source = expression("app", "In", &["nothing"])),
        ("NoMembers", |g| g.spec.source = Source { selector: Some(LabelSelector::default()), persistent_volume_claim_names: None }),
        ("NoMembers", |g| g.spec.source = Source::default()),
        ("SelectorInvalid", |g| g.spec.source = expression("app", "Resembles", &["shop"])),
        ("TooManyMembers", |g| { g.spec.source = expression("app", "Exists", &[]); g.candidates.claims = (0..=MAX_MEMBERS).map(|n| claim(&n.to_string())).collect(); }),
        ("ClaimBeingDeleted", |g| g.candidates.claims[0].deleting = true),
        ("ClaimNotBound", |g| g.candidates.claims[0].volume = None),
        ("BlockVolume", |g| g.candidates.claims[0].block = true),
        ("HeldByAnother", |g| drop(g.candidates.taken.insert("uid-b".into(), "hourly".into()))),
        ("MountedByMorePods", |g| g.candidates.pods.push(pod("other", "a"))),
        ("NoAgent", |g| g.candidates.pods[0] = PodFacts { has_agent: false, agent_mounts: BTreeMap::new(), ..pod("db-a", "a") }),
        ("AgentDoesNotMount", |g| g.candidates.pods[0].agent_mounts.clear()),
        ("AgentMountsSubPath", |g| drop(g.candidates.pods[0].agent_mounts.insert("a".into(), AgentMount { path: "/x".into(), sub_path: true }))),
        ("SnapshotApiMissing", |g| g.candidates.facts = Facts::default()),
        ("UnknownReplicaKind", |g| g.request.kind = None),
        ("NotACsiVolume", |g| g.candidates.drivers.clear()),
        ("ReplicaLabelsInvalid", |g| drop(g.request.wishes.labels.insert("stillpoint.io/x".into(), "y".into()))),
        ("ReplicaLabelsInvalid", |g| { g.request.mode = Mode::Check; g.request.wishes.annotations.insert(" ".into(), "y".into()); }),
        ("DriverFreezes", |g| { g.candidates.drivers.insert("pv-b".into(), "topolvm.io".into()); g.candidates.facts = classes(&[("fast", "csi.example", true), ("thin", "topolvm.io", true)]); }),
        ("SnapshotClassDriverMismatch", |g| g.spec.replication = Some(snapshots(Some("other")))),
    ];
    for (reason, spoil) in cases {
        let mut group = group();
        spoil(&mut group);
        assert_eq!(resolved(&group).unwrap_err(), reason);
    }
}

#[test]
fn every_member_that_is_refused_says_why() {
    let mut group = group();
    group.spec.source = names(&["a", "b", "c", "gone"]);
    group.candidates.claims[0].block = true;
    group.candidates.claims[1].volume = None;
    let refusal = resolve(&group.spec, &group.request, Duration::from_secs(30), &group.candidates).unwrap_err();
    assert_eq!(refusal.verdict.reason, "ClaimNotFound");
    assert!(refusal.verdict.message.ends_with("(and 2 more, see status.members)"), "{}", refusal.verdict.message);
    let reasons = |member: &Member| member.blockers().map(|blocker| blocker.reason).collect::<Vec<_>>();
    let members: Vec<_> =
        refusal.members.iter().map(|member| (&*member.claim.name, &*member.claim.uid, reasons(member))).collect();
    assert_eq!(
        members,
        [
            ("gone", "", vec!["ClaimNotFound".to_owned()]),
            ("a", "uid-a", vec!["BlockVolume".to_owned()]),
            ("b", "uid-b", vec!["ClaimNotBound".to_owned()]),
            ("c", "uid-c", vec![]),
        ]
    );
}

#[test]
fn what_concerns_the_whole_group_is_no_members_blocker() {
    let mut group = group();
    group.candidates.facts = Facts::default();
    let refusal = resolve(&group.spec, &group.request, Duration::from_secs(30), &group.candidates).unwrap_err();
    assert_eq!((&*refusal.verdict.reason, refusal.members.len()), ("SnapshotApiMissing", 0));
}

#[test]
fn a_check_is_refused_what_a_replication_is_unless_it_does_not_say_how() {
    type Spoil = fn(&mut Group);
    let cases: [(&str, Spoil); 5] = [
        ("SnapshotApiMissing", |g| g.candidates.facts = Facts::default()),
        ("SnapshotClassNotFound", |g| g.spec.replication = Some(snapshots(Some("nope")))),
        ("NoDefaultSnapshotClass", |g| g.candidates.facts = classes(&[("fast", "csi.example", false)])),
        ("NotACsiVolume", |g| g.candidates.drivers.clear()),
        ("UnknownReplicaKind", |g| {
            g.spec.replication = Some(Replication::default());
            g.request.kind = None;
        }),
    ];
    for (reason, spoil) in cases {
        for mode in [Mode::Check, Mode::Replicate] {
            let mut group = group();
            group.request.mode = mode;
            spoil(&mut group);
            assert_eq!(resolved(&group).unwrap_err(), reason, "{mode:?}");
        }
    }
    let mut group = group();
    (group.request.mode, group.request.kind, group.spec.replication) = (Mode::Check, None, None);
    group.candidates.facts = Facts::default();
    group.candidates.drivers.clear();
    assert_eq!(resolved(&group).unwrap().len(), 2);
}

#[test]
fn a_claim_that_no_pod_mounts_is_a_member() {
    let mut group = group();
    group.candidates.pods.clear();
    assert!(resolved(&group).unwrap().iter().all(|member| member.mounts.is_empty() && member.assignments.is_empty()));
}

#[test]
fn selectors_are_understood_whole() {
    let mut claims = vec![claim("a"), claim("b")];
    claims[1].labels.insert("tier".into(), "cache".into());
    let chosen = |source: &Source| -> Vec<String> {
        select(source, &claims)
            .map_or_else(|_| Vec::new(), |chosen| chosen.claims.iter().map(|claim| claim.name.clone()).collect())
    };
    assert_eq!(chosen(&expression("app", "In", &["shop"])), ["a", "b"]);
    assert_eq!(chosen(&expression("tier", "Exists", &[])), ["b"]);
    assert_eq!(chosen(&expression("tier", "DoesNotExist", &[])), ["a"]);
    assert_eq!(chosen(&expression("tier", "NotIn", &["cache"])), ["a"]);
}

proptest::proptest! {
    /// Whatever a selector says: it is refused with a sentence, or selects what it says; one that says nothing selects nothing.
    #[test]
    fn no_selector_panics_and_none_takes_every_claim_by_itself(
        keys in proptest::collection::vec(("app|tier|.{0,70}", "In|NotIn|Exists|DoesNotExist|.{0,8}", proptest::collection::vec("shop|cache|.{0,70}", 0..3)), 0..4),
        labels in proptest::collection::btree_map("app|tier|.{0,70}", "shop|cache|.{0,70}", 0..3),
    ) {
        let said = !keys.is_empty() || !labels.is_empty();
        let requirements = keys.into_iter().map(|(key, operator, values)| LabelSelectorRequirement {
            key,
            operator,
            values: Some(values),
        });
        let wanted = labels.clone();
        let selector =
            LabelSelector { match_expressions: Some(requirements.collect()), match_labels: Some(labels) };
        let claims = [claim("a"), claim("b")];
        let source = Source { selector: Some(selector), persistent_volume_claim_names: None };
        match select(&source, &claims) {
            Ok(selection) => {
                proptest::prop_assert!(said && selection.missing.is_empty());
                for claim in selection.claims {
                    proptest::prop_assert!(wanted.iter().all(|(key, value)| claim.labels.get(key) == Some(value)));
                }
            }
            Err(verdict) => proptest::prop_assert!(!verdict.message.is_empty()),
        }
    }

    /// What is asked for as text is a spec or is refused; its times are what the text says.
    #[test]
    fn no_spec_panics(
        prepare in "-?[0-9]{1,22}(ns|us|ms|s|m|h)|.{0,12}",
        hold in "[0-9]{1,3}(ms|s)",
        cool_down in "-?[0-9]{1,22}(ns|us|ms|s|m|h)(-?[0-9]s)?",
    ) {
        let spec = serde_json::json!({
            "source": {},
            "suspension": {"prepareTimeout": prepare, "holdTimeout": hold},
            "retry": {"coolDown": cool_down},
        });
        if let Ok(spec) = serde_json::from_value::<ConsistencyGroupReplicationSpec>(spec) {
            let written = serde_json::to_value(&spec).unwrap();
            let read: ConsistencyGroupReplicationSpec = serde_json::from_value(written).unwrap();
            proptest::prop_assert_eq!(read.suspension.hold_timeout, spec.suspension.hold_timeout);
            proptest::prop_assert_eq!(read.retry.map(|retry| retry.pause()), spec.retry.map(|retry| retry.pause()));
        }
    }
}

#[test]
fn a_restored_claim_does_not_join_beside_its_original_by_itself() {
    type Change = fn(&mut Group);
    let restored = "nightly-a-0123456789ab";
    let cases: [(&str, Change, Option<&str>); 6] = [
        ("beside its original", |_| {}, Some("RestoredCopy")),
        ("annotated", |g| g.candidates.claims[1].is_member = true, None),
        ("named", |g| g.spec.source = names(&["a", "b"]), None),
        ("in the place of its original", |g| drop(g.candidates.claims.remove(0)), None),
        (
            "from its own snapshot",
            |g| g.candidates.claims[1].restored_from = Some("nightly-b-0123456789ab".into()),
            None,
        ),
        (
            "from a snapshot of somebody else's",
            |g| g.candidates.claims[1].restored_from = Some("backup-of-a".into()),
            None,
        ),
    ];
    for (name, change, refused) in cases {
        let mut group = group();
        group.spec.source = expression("app", "Exists", &[]);
        group.candidates.claims.truncate(2);
        group.candidates.claims[1].restored_from = Some(restored.into());
        change(&mut group);
        assert_eq!(resolved(&group).err().as_deref(), refused, "{name}");
    }
}
