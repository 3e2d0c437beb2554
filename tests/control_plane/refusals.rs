//! What cannot be replicated is refused before anything is suspended, with a reason and a sentence that names the object.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, MemberState, Phase};
use stillpoint_core::wire::Blocker;

use crate::agents::{Behaviour, FakeAgent, Told};
use crate::fixture::Fixture;
use crate::objects::{DRIVER, bound_claim, pod_with_agent, running_pod, snapshot_class, unbound_claim};
use crate::stages::condition;

/// The spec of a run over one claim.
fn one(claim: &str, snapshot: Value) -> Value {
    json!({
        "source": {"persistentVolumeClaimNames": [claim]},
        "suspension": {"prepareTimeout": "2s"},
        "replication": {"volumeSnapshot": snapshot},
    })
}

/// Runs and returns the reason and the sentence of the refusal.
async fn refusal(fixture: &Fixture, spec: Value) -> (String, String) {
    let run = fixture.replicate("refused", spec).await;
    let aborted: ConsistencyGroupReplication = fixture.wait_for_phase(&run.name_any(), Phase::Aborted).await;
    let status = aborted.status.expect("a status");
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready");
    let snapshots = fixture.api::<VolumeSnapshot>().list(&Default::default()).await.expect("a list");
    assert!(snapshots.items.is_empty(), "nothing half kept");
    (ready.reason.clone(), ready.message.clone())
}

async fn assert_refused(fixture: &Fixture, spec: Value, reason: &str, names: &[&str]) {
    let (found, message) = refusal(fixture, spec).await;
    assert_eq!(found, reason, "{message}");
    for name in names {
        assert!(message.contains(name), "`{name}` is not in: {message}");
    }
}

#[tokio::test]
async fn no_claim_matches() {
    let fixture = Fixture::new("no-members").await;
    let spec = json!({"source": {"selector": {"matchLabels": {"app": "none"}}}, "mode": "Check"});
    assert_refused(&fixture, spec, "NoMembers", &["app=none"]).await;
}

#[tokio::test]
async fn a_claim_that_does_not_exist() {
    let fixture = Fixture::new("not-found").await;
    assert_refused(&fixture, one("orders", json!({})), "ClaimNotFound", &["orders"]).await;
}

#[tokio::test]
async fn an_unbound_claim() {
    let fixture = Fixture::new("unbound").await;
    unbound_claim(&fixture, "orders", json!({})).await;
    assert_refused(&fixture, one("orders", json!({})), "ClaimNotBound", &["orders"]).await;
}

#[tokio::test]
async fn a_missing_class() {
    let fixture = Fixture::new("no-class").await;
    bound_claim(&fixture, "orders").await;
    let spec = one("orders", json!({"volumeSnapshotClassName": "gold"}));
    assert_refused(&fixture, spec, "SnapshotClassNotFound", &["gold"]).await;
}

#[tokio::test]
async fn a_driver_without_a_default_class() {
    let fixture = Fixture::new("no-default").await;
    bound_claim(&fixture, "orders").await;
    assert_refused(&fixture, one("orders", json!({})), "NoDefaultSnapshotClass", &[DRIVER]).await;
}

#[tokio::test]
async fn a_class_of_another_driver() {
    let fixture = Fixture::new("other-driver").await;
    bound_claim(&fixture, "orders").await;
    let class = snapshot_class(&fixture, "csi.other.stillpoint.io").await;
    let spec = one("orders", json!({"volumeSnapshotClassName": class}));
    assert_refused(&fixture, spec, "SnapshotClassDriverMismatch", &[DRIVER, "csi.other.stillpoint.io", "orders"]).await;
}

#[tokio::test]
async fn a_pod_without_an_agent() {
    let fixture = Fixture::new("no-agent").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    running_pod(&fixture, "orders-0", "orders", json!([])).await;
    let spec = one("orders", json!({"volumeSnapshotClassName": class}));
    assert_refused(&fixture, spec, "NoAgent", &["orders-0"]).await;
}

#[tokio::test]
async fn an_agent_that_is_not_connected() {
    let fixture = Fixture::new("not-connected").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    pod_with_agent(&fixture, "orders").await;
    let spec = one("orders", json!({"volumeSnapshotClassName": class}));
    assert_refused(&fixture, spec, "AgentNotConnected", &["orders"]).await;
}

/// Three members whose agents are clean, and the spec of a run of this mode over them.
async fn three(fixture: &Fixture, mode: &str) -> (Vec<FakeAgent>, Value) {
    let class = snapshot_class(fixture, DRIVER).await;
    let (names, mut agents) = (["a", "b", "c"], Vec::new());
    for name in names {
        bound_claim(fixture, name).await;
        let pod = pod_with_agent(fixture, name).await;
        agents.push(FakeAgent::connect(fixture, &pod, Behaviour::Clean).await);
    }
    let spec = json!({
        "source": {"persistentVolumeClaimNames": names},
        "mode": mode,
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    (agents, spec)
}

#[tokio::test]
async fn a_quota_without_room_for_all_members() {
    for mode in ["Replicate", "Check"] {
        let fixture = Fixture::new("quota").await;
        let (agents, spec) = three(&fixture, mode).await;
        let count = "count/volumesnapshots.snapshot.storage.k8s.io";
        let quota = json!({"metadata": {"name": "small"}, "spec": {"hard": {count: "2"}}});
        fixture.create::<ResourceQuota>(quota).await;
        // Nobody plays the controller that counts.
        let status = Patch::Merge(json!({"status": {"hard": {count: "2"}, "used": {count: "0"}}}));
        let quotas = fixture.api::<ResourceQuota>();
        quotas.patch_status("small", &PatchParams::default(), &status).await.expect("a status");
        assert_refused(&fixture, spec, "QuotaExceeded", &["ResourceQuota small", "allows 2", "3 more"]).await;
        assert!(agents.iter().all(|agent| agent.told().is_empty()), "{mode}: nobody is asked");
    }
}

/// Refuses the snapshots of a namespace that have no label `team`.
async fn policy(fixture: &Fixture) {
    let name = format!("{}-policy", fixture.namespace);
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["snapshot.storage.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["volumesnapshots"],
            }]},
            "validations": [{"expression": "'team' in object.metadata.labels", "message": "snapshots need a team"}],
        },
    }))
    .expect("a policy");
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": fixture.namespace}}},
        },
    }))
    .expect("a binding");
    let params = PostParams::default();
    Api::all(fixture.client.clone()).create(&params, &policy).await.expect("the API server accepts the policy");
    Api::all(fixture.client.clone()).create(&params, &binding).await.expect("the API server accepts the binding");
    let snapshot: VolumeSnapshot = serde_json::from_value(
        json!({"metadata": {"name": "try", "labels": {}}, "spec": {"source": {"persistentVolumeClaimName": "a"}}}),
    )
    .expect("a snapshot");
    let tried = PostParams { dry_run: true, ..PostParams::default() };
    let refuses = async || fixture.api::<VolumeSnapshot>().create(&tried, &snapshot).await.is_err();
    fixture.wait_until("the policy holds", refuses).await;
}

#[tokio::test]
async fn a_policy_that_refuses_the_replicas() {
    for mode in ["Replicate", "Check"] {
        let fixture = Fixture::new("policy").await;
        let (agents, spec) = three(&fixture, mode).await;
        policy(&fixture).await;
        assert_refused(&fixture, spec, "ReplicaRefused", &["VolumeSnapshot", "snapshots need a team"]).await;
        assert!(agents.iter().all(|agent| agent.told().is_empty()), "{mode}: nobody is asked");
    }
}

#[tokio::test]
async fn a_check_is_refused_what_a_replication_would_be() {
    let check = |snapshot: Value| {
        let mut spec = one("orders", snapshot);
        spec["mode"] = json!("Check");
        spec
    };
    let fixture = Fixture::new("check-class").await;
    bound_claim(&fixture, "orders").await;
    let named = check(json!({"volumeSnapshotClassName": "nope"}));
    assert_refused(&fixture, named, "SnapshotClassNotFound", &["nope"]).await;
    let fixture = Fixture::new("check-default").await;
    bound_claim(&fixture, "orders").await;
    assert_refused(&fixture, check(json!({})), "NoDefaultSnapshotClass", &[DRIVER]).await;
    let fixture = Fixture::new("check-driver").await;
    let volume = format!("{}-orders", fixture.namespace);
    unbound_claim(&fixture, "orders", json!({"volumeName": volume})).await;
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    let claims = fixture.api::<PersistentVolumeClaim>();
    claims.patch_status("orders", &PatchParams::default(), &bound).await.expect("the claim is bound");
    assert_refused(&fixture, check(json!({})), "NotACsiVolume", &["orders"]).await;
}

#[tokio::test]
async fn the_end_of_a_check_says_what_was_not_looked_at() {
    let fixture = Fixture::new("check-end").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let how = json!({"volumeSnapshot": {"volumeSnapshotClassName": class}});
    for (name, replication, says) in [
        ("with", how, "unless the snapshot controller does not run"),
        ("without", Value::Null, "spec.replication does not say how"),
    ] {
        let mut spec = json!({"source": {"persistentVolumeClaimNames": ["orders"]}, "mode": "Check"});
        if !replication.is_null() {
            spec["replication"] = replication;
        }
        fixture.replicate(name, spec).await;
        let done = fixture.wait_for_phase(name, Phase::Done).await;
        let (_, _, message) = condition(&done, "Ready");
        assert!(message.contains(says) && message.contains("was not looked at"), "{message}");
    }
}

#[tokio::test]
async fn a_claim_that_two_pods_mount() {
    let fixture = Fixture::new("two-pods").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    pod_with_agent(&fixture, "orders").await;
    running_pod(&fixture, "reader", "orders", json!([])).await;
    let spec = one("orders", json!({"volumeSnapshotClassName": class}));
    assert_refused(&fixture, spec, "MountedByMorePods", &["orders", "reader"]).await;
}

/// It is pending for want of a node, and writes nothing: beside the pod that runs, and alone.
#[tokio::test]
async fn a_pod_on_no_node_stands_in_nobodys_way() {
    let fixture = Fixture::new("no-node").await;
    for claim in ["orders", "ledger"] {
        bound_claim(&fixture, claim).await;
        let stray = json!({
            "metadata": {"name": format!("stray-{claim}")},
            "spec": {
                "nodeSelector": {"no": "where"},
                "containers": [{"name": "stray", "image": "stray"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            },
        });
        fixture.create::<Pod>(stray).await;
    }
    let pod = pod_with_agent(&fixture, "orders").await;
    let _agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let spec = json!({"source": {"persistentVolumeClaimNames": ["orders", "ledger"]}, "mode": "Check"});
    let run = fixture.replicate("checked", spec).await;
    let done = fixture.wait_for_phase(&run.name_any(), Phase::Done).await;
    let states: Vec<_> =
        done.status.expect("a status").members.into_iter().map(|member| (member.pod, member.state)).collect();
    assert_eq!(states[0], (None, MemberState::Unmounted), "ledger");
    assert_eq!(states[1].0.as_deref(), Some("orders"));
}

#[tokio::test]
async fn a_hold_above_the_ceiling() {
    let fixture = Fixture::new("too-long").await;
    bound_claim(&fixture, "orders").await;
    let mut spec = one("orders", json!({}));
    spec["suspension"]["holdTimeout"] = json!("10m");
    assert_refused(&fixture, spec, "HoldTimeoutTooLong", &["600s", "30s"]).await;
}

#[tokio::test]
async fn every_member_that_is_refused_is_named_with_its_blocker() {
    let fixture = Fixture::new("two-refused").await;
    let claim = unbound_claim(&fixture, "orders", json!({})).await;
    let spec = json!({"source": {"persistentVolumeClaimNames": ["orders", "ledger"]}, "mode": "Check"});
    assert_refused(&fixture, spec, "ClaimNotFound", &["ledger", "(and 1 more, see status.members)"]).await;
    let refused = fixture.wait_for_phase("refused", Phase::Aborted).await;
    let members: Vec<(String, String, String)> = refused
        .status
        .expect("a status")
        .members
        .into_iter()
        .map(|member| {
            let claim = member.persistent_volume_claim;
            (claim.name, claim.uid, member.blockers[0].reason.clone())
        })
        .collect();
    let text = str::to_owned;
    let expected = [
        (text("ledger"), String::new(), text("ClaimNotFound")),
        (text("orders"), claim.uid().expect("a UID"), text("ClaimNotBound")),
    ];
    assert_eq!(members, expected);
}

#[tokio::test]
async fn a_claim_that_another_run_holds() {
    let fixture = Fixture::new("held").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    // Nobody plays the snapshot controller: the first run stays in the hold.
    let spec = one("orders", json!({"volumeSnapshotClassName": class}));
    fixture.replicate("first", spec).await;
    fixture.wait_for_phase("first", Phase::Replicating).await;
    let check = json!({"source": {"persistentVolumeClaimNames": ["orders"]}, "mode": "Check"});
    fixture.replicate("second", check).await;
    let refused = fixture.wait_for_phase("second", Phase::Aborted).await.status.expect("a status");
    let blocker = &refused.members[0].blockers[0];
    assert_eq!(blocker.reason, "HeldByAnother");
    assert!(blocker.message.contains("orders") && blocker.message.contains("first"), "{}", blocker.message);
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend], "the first run goes on");
}

#[tokio::test]
async fn what_an_agent_cannot_suspend_is_told_by_its_reason() {
    let fixture = Fixture::new("reasons").await;
    // What the agent makes of EPERM, EOPNOTSUPP and EBUSY of FIFREEZE, and of locks that it cannot look for.
    for reason in ["MissingCapability", "CannotFreeze", "AlreadyFrozen", "Blind"] {
        let name = reason.to_lowercase();
        bound_claim(&fixture, &name).await;
        let pod = pod_with_agent(&fixture, &name).await;
        let message = format!("the agent says {reason}");
        let blocker = Blocker { reason: reason.to_owned(), message: message.clone(), ..Blocker::default() };
        let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Blocked(vec![blocker])).await;
        fixture.replicate(&name, json!({"source": {"persistentVolumeClaimNames": [name]}, "mode": "Check"})).await;

        let status = fixture.wait_for_phase(&name, Phase::Aborted).await.status.expect("a status");
        for kind in ["Ready", "Stalled", "Blocked"] {
            let condition = status.conditions.iter().find(|condition| condition.type_ == kind).expect(kind);
            assert_eq!(condition.reason, reason, "{kind}");
            assert!(condition.message.contains(&message) && condition.message.contains(&name), "{condition:?}");
        }
        let member = &status.members[0];
        assert_eq!((member.state, member.blockers[0].reason.as_str()), (MemberState::NotReady, reason));
        assert_eq!(agent.told(), [Told::Prepare, Told::Release]);
    }
}

#[tokio::test]
async fn a_claim_deleted_in_the_middle() {
    let fixture = Fixture::new("claim-deleted").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    // Nobody plays the snapshot controller: the run stays in the hold.
    fixture.replicate("refused", one("orders", json!({"volumeSnapshotClassName": class}))).await;
    fixture.wait_for_phase("refused", Phase::Replicating).await;
    fixture.api::<PersistentVolumeClaim>().delete("orders", &DeleteParams::default()).await.expect("deleted");
    let failed = fixture.wait_for_phase("refused", Phase::Failed).await;
    let conditions = failed.status.expect("a status").conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready");
    assert_eq!(ready.reason, "ClaimDeleted", "{}", ready.message);
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
}
