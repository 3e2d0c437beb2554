//! The manifests on a real API server: it takes every object, refuses long holds, and grants the controller what it needs and
//! no more.

use std::process::Command;

use crate::fixture::{DEADLINE, Fixture, SYSTEM_NAMESPACE as SYSTEM};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt, discovery};
use serde_json::json;
use std::time::Duration;
use stillpoint_api::ConsistencyGroupReplication;

/// The objects of deploy/stillpoint.yaml.
fn manifests() -> Vec<DynamicObject> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/stillpoint.yaml");
    let yaml = std::fs::read_to_string(path).expect("the manifests exist");
    let objects: Vec<Option<DynamicObject>> = serde_saphyr::from_multiple(&yaml).expect("objects");
    objects.into_iter().flatten().collect()
}

async fn apply(client: &Client, object: &DynamicObject, dry_run: bool) {
    let kind = GroupVersionKind::try_from(object.types.as_ref().expect("a kind")).expect("a version");
    let (resource, _) = discovery::pinned_kind(client, &kind).await.expect("a kind that the API server knows");
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.name_any();
    let params = PatchParams { dry_run, ..PatchParams::apply("chart-test").force() };
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{} {name}: {error}", kind.kind));
}

/// Applies the objects whose group begins so, changed by `adapt`.
async fn apply_group(client: &Client, group: &str, adapt: impl Fn(&mut DynamicObject)) {
    for mut object in manifests() {
        if object.types.as_ref().is_some_and(|types| types.api_version.starts_with(group)) {
            adapt(&mut object);
            apply(client, &object, false).await;
        }
    }
}

#[tokio::test]
async fn every_object_is_taken() {
    let fixture = Fixture::new("manifests").await;
    for object in manifests() {
        apply(&fixture.client, &object, true).await;
    }
}

/// Somebody new runs it as it stands there.
#[tokio::test]
async fn the_command_of_the_readme_adds_the_agent_to_a_statefulset() {
    let fixture = Fixture::new("readme").await;
    let labels = json!({"store": "orders"});
    let store = json!({"name": "store", "image": "store", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let data = json!({"name": "data", "persistentVolumeClaim": {"claimName": "orders"}});
    let set: StatefulSet = fixture
        .create(json!({
            "metadata": {"name": "orders"},
            "spec": {
                "serviceName": "orders",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [store], "volumes": [data]}},
            },
        }))
        .await;
    let readme = include_str!("../../README.md");
    let command = readme.lines().find(|line| line.starts_with("kubectl patch statefulset")).expect("the command");
    let command = command.replace("--namespace shop", &format!("--namespace {}", fixture.namespace));
    let ran = Command::new("sh").args(["-c", &command]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let ran = ran.expect("sh runs");
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));

    let patched = fixture.api::<StatefulSet>().get("orders").await.expect("it is there");
    assert_ne!(patched.metadata.generation, set.metadata.generation, "its pods restart, as the README says");
    let pod = patched.spec.and_then(|spec| spec.template.spec).expect("a pod");
    assert_eq!(pod.share_process_namespace, Some(true));
    let agents = pod.init_containers.unwrap_or_default();
    let [agent] = &agents[..] else { panic!("one sidecar: {agents:?}") };
    let mounts = agent.volume_mounts.iter().flatten();
    let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    for mount in mounts {
        assert!(volumes.contains(&mount.name.as_str()), "no volume {} among {volumes:?}", mount.name);
    }
    assert_eq!((pod.containers.len(), volumes.contains(&"data")), (1, true), "the application is as it was");
}

#[tokio::test]
async fn a_hold_above_the_ceiling_is_refused_with_the_value_that_sets_it() {
    let fixture = Fixture::new("ceiling").await;
    // In force for this test's namespace alone: other tests want to see what the controller says.
    let own = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": fixture.namespace}}});
    apply_group(&fixture.client, "admissionregistration.k8s.io", |object| {
        if object.data["spec"]["policyName"].is_string() {
            object.data["spec"]["matchResources"] = own.clone();
        }
    })
    .await;
    let resource = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(fixture.client.clone(), &fixture.namespace, &resource);
    let create = async |hold: &str| {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "stillpoint.io/v1alpha1",
            "kind": "ConsistencyGroupReplication",
            "metadata": {"name": "long"},
            "spec": {"source": {"persistentVolumeClaimNames": ["a"]}, "mode": "Check", "suspension": {"holdTimeout": hold}},
        }))
        .expect("an object");
        api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object)
            .await
            .map_err(|error| error.to_string())
    };
    // The API server enforces a new policy a moment after it has taken it.
    let refused = async {
        loop {
            match create("30001ms").await {
                Err(refusal) => return refusal,
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let refusal = tokio::time::timeout(DEADLINE, refused).await.expect("the policy is enforced in time");
    let sentence = "spec.suspension.holdTimeout is 30001ms, but this cluster allows at most 30s \
                    (the chart's value controller.holdCeiling)";
    assert!(refusal.contains(sentence), "{refusal}");
    create("30s").await.expect("the ceiling itself is allowed");
}

#[tokio::test]
async fn the_controller_may_do_what_it_must_and_no_more() {
    let fixture = Fixture::new("grants").await;
    apply_group(&fixture.client, "rbac.authorization.k8s.io", |_| {}).await;
    let anywhere = fixture.namespace.as_str();
    let snapshots = "snapshot.storage.k8s.io";
    for (may, verb, group, resource, name, namespace) in [
        (true, "watch", "stillpoint.io", "consistencygroupreplications", "", ""),
        (true, "update", "stillpoint.io", "consistencygroupreplications/status", "x", anywhere),
        (true, "patch", "stillpoint.io", "consistencygroupreplications", "x", anywhere),
        (true, "list", snapshots, "volumesnapshotclasses", "", ""),
        (true, "watch", snapshots, "volumesnapshots", "", ""),
        (true, "create", snapshots, "volumesnapshots", "", anywhere),
        (true, "delete", snapshots, "volumesnapshots", "x", anywhere),
        // It takes the owner off what is to be kept, and deletes what has lived as long as was asked for.
        (true, "patch", snapshots, "volumesnapshots", "x", anywhere),
        (true, "delete", "stillpoint.io", "consistencygroupreplications", "x", anywhere),
        (true, "list", "", "pods", "", ""),
        (true, "list", "", "namespaces", "", ""),
        (true, "watch", "", "namespaces", "", ""),
        (true, "get", "", "persistentvolumes", "x", ""),
        (true, "create", "authentication.k8s.io", "tokenreviews", "", ""),
        (true, "create", "", "configmaps", "stillpoint-ca", anywhere),
        (true, "patch", "", "configmaps", "stillpoint-ca", anywhere),
        (true, "delete", "", "configmaps", "stillpoint-ca", anywhere),
        (true, "create", "events.k8s.io", "events", "", anywhere),
        (true, "create", "", "secrets", "", SYSTEM),
        (true, "get", "", "secrets", "stillpoint-ca", SYSTEM),
        (true, "update", "", "secrets", "stillpoint-ca", SYSTEM),
        (true, "create", "coordination.k8s.io", "leases", "", SYSTEM),
        (true, "get", "coordination.k8s.io", "leases", "stillpoint-controller", SYSTEM),
        (true, "update", "coordination.k8s.io", "leases", "stillpoint-controller", SYSTEM),
        (false, "create", "", "configmaps", "other", anywhere),
        (false, "list", "", "configmaps", "", anywhere),
        (false, "get", "", "secrets", "stillpoint-ca", anywhere),
        (false, "get", "", "secrets", "other", SYSTEM),
        (false, "update", "", "secrets", "other", SYSTEM),
        (false, "update", "", "secrets", "stillpoint-ca", anywhere),
        (false, "list", "", "secrets", "", SYSTEM),
        (false, "patch", "events.k8s.io", "events", "x", anywhere),
        (false, "create", "", "pods/exec", "x", anywhere),
        (false, "delete", "", "pods", "x", anywhere),
        (false, "patch", "", "persistentvolumeclaims", "x", anywhere),
        (false, "create", "stillpoint.io", "consistencygroupreplications", "", anywhere),
        (false, "update", snapshots, "volumesnapshots", "x", anywhere),
        (false, "create", "", "serviceaccounts/token", "x", SYSTEM),
    ] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            verb: text(verb),
            group: text(group),
            resource: text(resource),
            subresource: text(subresource),
            name: text(name),
            namespace: text(namespace),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{SYSTEM}:stillpoint-controller")),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let question = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(fixture.client.clone());
        let answer = reviews.create(&PostParams::default(), &question).await.expect("an answer");
        let allowed = answer.status.is_some_and(|status| status.allowed);
        assert_eq!(allowed, may, "{verb} {resource}/{subresource} {name:?} in {namespace:?}");
    }
}
