//! What becomes of objects whose run has ended, and of their copies.

use futures::future::join_all;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, Phase, labels};
use stillpoint_core::limits::MAX_GOODBYES;

use crate::fixture::{Fixture, SYSTEM_NAMESPACE};
use crate::objects::{DRIVER, bound_claim, snapshot_class};
use crate::snapshots::{self, assert_no_replica_is_left, replicas};
use crate::stages::{Stage, bring_to, condition, delete, play, wait_until_gone};

/// A run that is done, of a claim that nobody mounts.
async fn done(fixture: &Fixture, class: &str, name: &str) -> ConsistencyGroupReplication {
    bound_claim(fixture, name).await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": [name]},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    fixture.replicate(name, spec).await;
    fixture.wait_for_phase(name, Phase::Done).await
}

async fn wait_until_let_go(fixture: &Fixture, name: &str) -> ConsistencyGroupReplication {
    let let_go = |object: Option<&ConsistencyGroupReplication>| object.is_some_and(|it| it.finalizers().is_empty());
    fixture.wait_for(name, "let go", let_go).await
}

fn in_the_background() -> DeleteParams {
    DeleteParams::default()
}

#[tokio::test]
async fn a_copy_of_a_run_does_nothing_and_says_so() {
    let fixture = Fixture::new("copy").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let original = done(&fixture, &class, "nightly").await;
    let uid = original.uid().expect("a UID");
    let replica = replicas(&fixture).await.remove(0);
    delete(&fixture, &original).await;
    // As `kubectl get -o yaml`, then `kubectl apply`: the server sets what is its own anew.
    let mut copy = original.clone();
    copy.metadata.resource_version = None;
    copy.metadata.uid = None;
    // Kept by another name: this is no replica of the copy, and the copy's end must not touch it.
    let mut kept = VolumeSnapshot { status: None, ..replica };
    kept.metadata.resource_version = None;
    kept.metadata.owner_references = None;
    fixture.api::<VolumeSnapshot>().create(&PostParams::default(), &kept).await.expect("restored too");
    fixture.api::<ConsistencyGroupReplication>().create(&PostParams::default(), &copy).await.expect("restored");

    let aborted = fixture.wait_for_phase("nightly", Phase::Aborted).await;
    let (_, reason, message) = condition(&aborted, "Ready");
    assert_eq!(reason, "IsCopy");
    assert!(message.contains(&format!("a copy of run nightly with UID {uid}")), "{message}");
    let copy = wait_until_let_go(&fixture, "nightly").await;
    delete(&fixture, &copy).await;
    assert_eq!(replicas(&fixture).await.len(), 1, "it owns nothing, and made nothing");
}

#[tokio::test]
async fn what_is_orphaned_or_retained_at_last_is_kept() {
    let fixture = Fixture::new("orphan").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let api = fixture.api::<ConsistencyGroupReplication>();

    let orphaned = done(&fixture, &class, "orphaned").await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    api.delete("orphaned", &orphan).await.expect("deleted");
    let let_go = |object: Option<&ConsistencyGroupReplication>| object.is_some_and(|it| it.finalizers() == ["orphan"]);
    fixture.wait_for("orphaned", "let go", let_go).await;
    // Nobody plays the garbage collector but this.
    let mine = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("orphaned", &PatchParams::default(), &mine).await.expect("orphaned");
    wait_until_gone(&fixture, &orphaned).await;
    assert_eq!(replicas(&fixture).await.len(), 1);

    // The garbage collector was faster.
    done(&fixture, &class, "faster").await;
    let freed = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    for replica in replicas(&fixture).await {
        let snapshots = fixture.api::<VolumeSnapshot>();
        snapshots.patch(&replica.name_any(), &PatchParams::default(), &freed).await.expect("freed");
    }
    let faster = api.get("faster").await.expect("a replication");
    delete(&fixture, &faster).await;
    assert_eq!(replicas(&fixture).await.len(), 2);

    let retained = done(&fixture, &class, "retained").await;
    let policy = Patch::Merge(json!({"spec": {"deletionPolicy": "Retain"}}));
    api.patch("retained", &PatchParams::default(), &policy).await.expect("the policy may be changed");
    let retained = wait_until_let_go(&fixture, &retained.name_any()).await;
    let status = retained.status.as_ref().expect("a status");
    assert_eq!(status.observed_generation, retained.metadata.generation);
    let replicas_now = replicas(&fixture).await;
    assert!(replicas_now.iter().all(|one| one.owner_references().is_empty()), "nothing goes with its owner");
    let back = Patch::Merge(json!({"spec": {"deletionPolicy": "Delete"}}));
    let refusal = api.patch("retained", &PatchParams::default(), &back).await.expect_err("a way back").to_string();
    assert!(refusal.contains("may be changed to Retain, and not back"), "{refusal}");
    delete(&fixture, &retained).await;
    assert_eq!(replicas(&fixture).await.len(), 3);
}

/// A policy that denies to delete snapshots in one namespace.
struct Denied {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    name: String,
}

impl Denied {
    async fn begin(fixture: &Fixture) -> Self {
        let name = format!("deny-{}", fixture.namespace);
        let (policies, bindings) = (Api::all(fixture.client.clone()), Api::all(fixture.client.clone()));
        let policy = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": ["snapshot.storage.k8s.io"],
                    "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["volumesnapshots"]}]},
                "validations": [{"expression": "false", "message": "the vault keeps its snapshots"}],
            },
        }))
        .expect("a policy");
        let binding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector":
                {"matchLabels": {"kubernetes.io/metadata.name": fixture.namespace}}}},
        }))
        .expect("a binding");
        policies.create(&PostParams::default(), &policy).await.expect("a policy");
        bindings.create(&PostParams::default(), &binding).await.expect("a binding");
        let denied = Self { policies, bindings, name };
        fixture.wait_until("the policy is at work", async || !may_delete(fixture).await).await;
        denied
    }

    async fn end(self) {
        self.bindings.delete(&self.name, &in_the_background()).await.expect("deleted");
        self.policies.delete(&self.name, &in_the_background()).await.expect("deleted");
    }
}

async fn may_delete(fixture: &Fixture) -> bool {
    let snapshots = fixture.api::<VolumeSnapshot>();
    let name = replicas(fixture).await.first().map(ResourceExt::name_any).expect("a snapshot");
    snapshots.delete(&name, &DeleteParams { dry_run: true, ..in_the_background() }).await.is_ok()
}

#[tokio::test]
async fn a_refused_deletion_holds_up_nobody_else_and_says_so() {
    let (vault, other) = (Fixture::new("vault").await, Fixture::new("other").await);
    let class = snapshot_class(&vault, DRIVER).await;
    let _vault_snapshots = snapshots::play(&vault, |_| Some(snapshots::usable()));
    let _other_snapshots = snapshots::play(&other, |_| Some(snapshots::usable()));
    // More than are dealt with at the same time.
    let names = (0..=MAX_GOODBYES).map(|number| format!("run-{number}"));
    let runs = join_all(names.map(|name| async { done(&vault, &class, &{ name }).await })).await;
    let denied = Denied::begin(&vault).await;
    let api = vault.api::<ConsistencyGroupReplication>();
    for run in &runs {
        api.delete(&run.name_any(), &in_the_background()).await.expect("deleted");
    }
    let said = |object: Option<&ConsistencyGroupReplication>| {
        let conditions = object.and_then(|it| it.status.as_ref()).map_or(&[][..], |status| &status.conditions);
        conditions.iter().any(|one| one.type_ == "CleanedUp")
    };
    for run in &runs {
        let run = vault.wait_for(&run.name_any(), "said", said).await;
        let (status, reason, message) = condition(&run, "CleanedUp");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "DeletionRefused"));
        assert!(message.contains("the vault keeps its snapshots"), "{message}");
    }

    let elsewhere = done(&other, &class, "nightly").await;
    delete(&other, &elsewhere).await;
    assert_no_replica_is_left(&other).await;
    let told = async || {
        let events = vault.api::<Event>().list(&ListParams::default()).await.expect("a list");
        let refused = events.items.iter().filter(|event| event.reason.as_deref() == Some("DeletionRefused"));
        refused.count() == runs.len()
    };
    vault.wait_until("each refusal is told once", told).await;

    denied.end().await;
    for run in &runs {
        wait_until_gone(&vault, run).await;
    }
    assert_no_replica_is_left(&vault).await;
}

#[tokio::test]
async fn what_is_said_of_a_void_cut_whose_snapshot_stays_is_true() {
    let fixture = Fixture::new("kept").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = play(&fixture);
    let staged = bring_to(&fixture, &class, Stage::Cutting, "1s").await;
    let name = staged.run.name_any();
    let keep = |finalizers| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let snapshot = replicas(&fixture).await.remove(0).name_any();
    let snapshots = fixture.api::<VolumeSnapshot>();
    snapshots.patch(&snapshot, &PatchParams::default(), &keep(json!(["example.com/keep"]))).await.expect("kept");
    let claims = fixture.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    claims.delete(&name, &in_the_background()).await.expect("deleted");

    let failed = fixture.wait_for_phase(&name, Phase::Failed).await;
    let (_, _, message) = condition(&failed, "Ready");
    assert!(!message.contains("removed"), "{message}");
    assert_eq!(condition(&failed, "Consistent").1, "Void");
    let (status, reason, message) = condition(&failed, "CleanedUp");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "BeingDeleted"));
    assert!(message.starts_with(&format!("VolumeSnapshot {snapshot} is being deleted")), "{message}");
    assert_eq!(failed.finalizers(), [labels::FINALIZER], "the object waits");

    snapshots.patch(&snapshot, &PatchParams::default(), &keep(json!(null))).await.expect("not kept");
    let let_go = wait_until_let_go(&fixture, &name).await;
    assert_eq!(condition(&let_go, "CleanedUp").0, "True");
    assert_no_replica_is_left(&fixture).await;
}

/// The snapshot controller begins with this one, and later goes on to the next: it binds a snapshot to what it has made.
const BEGUN: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";

#[tokio::test]
async fn a_snapshot_whose_content_is_just_being_made_is_deleted_when_it_is_bound() {
    let fixture = Fixture::new("unbound").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    for claim in ["first", "second"] {
        bound_claim(&fixture, claim).await;
    }
    let run = fixture
        .replicate(
            "nightly",
            json!({
                "source": {"persistentVolumeClaimNames": ["first", "second"]},
                "suspension": {"holdTimeout": "30s"},
                "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
            }),
        )
        .await;
    fixture.wait_for_phase("nightly", Phase::Replicating).await;
    fixture.wait_until("both are asked for", async || replicas(&fixture).await.len() == 2).await;
    let of = async |claim| {
        let is = |one: &VolumeSnapshot| one.spec.source.persistent_volume_claim_name.as_deref() == Some(claim);
        replicas(&fixture).await.into_iter().find(is)
    };
    let first = of("first").await.expect("a snapshot").name_any();
    let snapshots = fixture.api::<VolumeSnapshot>();
    let finalizers = async |finalizers| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        snapshots.patch(&first, &PatchParams::default(), &patch).await
    };
    finalizers(json!([BEGUN])).await.expect("begun");
    let api = fixture.api::<ConsistencyGroupReplication>();
    api.delete("nightly", &in_the_background()).await.expect("deleted");

    // The first one is dealt with before the second one.
    fixture.wait_until("the other one is gone", async || of("second").await.is_none()).await;
    finalizers(json!([BEGUN, BOUND])).await.expect("an object that is not deleted may get another finalizer");
    let deleted = async || of("first").await.is_some_and(|it| it.metadata.deletion_timestamp.is_some());
    fixture.wait_until("it is deleted", deleted).await;
    finalizers(json!(null)).await.expect("its content is gone");
    wait_until_gone(&fixture, &run).await;
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn where_nothing_is_to_be_cleaned_up_no_finalizer_is_left() {
    let fixture = Fixture::new("let-go").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    bound_claim(&fixture, "data").await;
    let source = json!({"persistentVolumeClaimNames": ["data"]});
    let replication = json!({"volumeSnapshot": {"volumeSnapshotClassName": class}});
    for (name, spec, phase) in [
        ("check", json!({"source": source, "mode": "Check"}), Phase::Done),
        ("aborted", json!({"source": {"persistentVolumeClaimNames": ["absent"]}, "mode": "Check"}), Phase::Aborted),
        (
            "refused",
            json!({"source": {"persistentVolumeClaimNames": ["absent"]}, "replication": replication}),
            Phase::Aborted,
        ),
        ("retained", json!({"source": source, "replication": replication, "deletionPolicy": "Retain"}), Phase::Done),
    ] {
        fixture.replicate(name, spec).await;
        fixture.wait_for_phase(name, phase).await;
        let ended = wait_until_let_go(&fixture, name).await;
        assert_eq!(ended.annotations().get(labels::RUN_UID), ended.uid().as_ref(), "{name}");
    }
    let kept = done(&fixture, &class, "kept").await;
    assert_eq!(kept.finalizers(), [labels::FINALIZER], "its snapshots go with it");
}

#[tokio::test]
async fn an_ended_run_is_deleted_when_its_time_is_over() {
    let fixture = Fixture::new("ttl").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let run = done(&fixture, &class, "nightly").await;
    let ttl = Patch::Merge(json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    let api = fixture.api::<ConsistencyGroupReplication>();
    api.patch("nightly", &PatchParams::default(), &ttl).await.expect("it may be set later");
    wait_until_gone(&fixture, &run).await;
    assert_no_replica_is_left(&fixture).await;
}

#[tokio::test]
async fn a_status_with_an_epoch_that_no_leader_can_have_is_taken_over() {
    let fixture = Fixture::new("epoch").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = play(&fixture);
    let staged = bring_to(&fixture, &class, Stage::Preparing, "1s").await;
    let name = staged.run.name_any();
    let spoiled = Patch::Merge(json!({"status": {"leaderEpoch": 9_000_000_000_u64}}));
    let api = fixture.api::<ConsistencyGroupReplication>();
    api.patch_status(&name, &PatchParams::default(), &spoiled).await.expect("patched");
    api.delete(&name, &in_the_background()).await.expect("deleted");
    wait_until_gone(&fixture, &staged.run).await;
}

#[tokio::test]
async fn epochs_outlive_a_restored_lease() {
    let fixture = Fixture::new("restored").await;
    bound_claim(&fixture, "data").await;
    fixture.replicate("first", json!({"source": {"persistentVolumeClaimNames": ["data"]}, "mode": "Check"})).await;
    let first = fixture.wait_for_phase("first", Phase::Done).await;
    let epoch = first.status.expect("a status").leader_epoch;
    // As if the Lease were restored from a backup: a later leader was there, and nobody has its count.
    let later = Patch::Merge(json!({"status": {"leaderEpoch": epoch + 100}}));
    let api = fixture.api::<ConsistencyGroupReplication>();
    api.patch_status("first", &PatchParams::default(), &later).await.expect("patched");
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(fixture.client.clone(), SYSTEM_NAMESPACE);
    let raised = async || {
        let lease = leases.get("stillpoint-controller").await.expect("a Lease");
        let count = lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        u64::try_from(count).is_ok_and(|count| count > epoch + 100)
    };
    fixture.wait_until("the count is raised", raised).await;
    fixture.replicate("second", json!({"source": {"persistentVolumeClaimNames": ["data"]}, "mode": "Check"})).await;
    let second = fixture.wait_for_phase("second", Phase::Done).await;
    assert!(second.status.expect("a status").leader_epoch > epoch + 100);
}
