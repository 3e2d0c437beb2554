//! The manifests on a real API server: it takes every object, refuses long holds, and grants the controller what it needs and
//! no more.

use crate::fixture::{DEADLINE, Fixture};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt, discovery};
use serde_json::json;
use std::time::Duration;
use stillpoint::api::ConsistencyGroupReplication;

const SYSTEM: &str = "stillpoint-system";

async fn apply_manifests(client: &Client) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/stillpoint.yaml");
    let yaml = std::fs::read_to_string(path).expect("the manifests exist");
    let objects: Vec<Option<DynamicObject>> = serde_saphyr::from_multiple(&yaml).expect("objects");
    for object in objects.into_iter().flatten() {
        let kind = GroupVersionKind::try_from(object.types.as_ref().expect("a kind")).expect("a version");
        let (resource, _) = discovery::pinned_kind(client, &kind).await.expect("a kind that the API server knows");
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = object.name_any();
        let applied = api.patch(&name, &PatchParams::apply("chart-test").force(), &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{} {name}: {error}", kind.kind));
    }
}

#[tokio::test]
async fn a_hold_above_the_ceiling_is_refused_with_the_value_that_sets_it() {
    let fixture = Fixture::new("ceiling").await;
    apply_manifests(&fixture.client).await;
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
    apply_manifests(&fixture.client).await;
    let anywhere = fixture.namespace.as_str();
    let snapshots = "snapshot.storage.k8s.io";
    for (may, verb, group, resource, name, namespace) in [
        (true, "watch", "stillpoint.io", "consistencygroupreplications", "", ""),
        (true, "patch", "stillpoint.io", "consistencygroupreplications/status", "x", anywhere),
        (true, "create", snapshots, "volumesnapshots", "", anywhere),
        (true, "delete", snapshots, "volumesnapshots", "x", anywhere),
        (true, "list", "", "pods", "", ""),
        (true, "create", "authentication.k8s.io", "tokenreviews", "", ""),
        (true, "create", "", "configmaps", "stillpoint-ca", anywhere),
        (true, "get", "", "secrets", "stillpoint-ca", SYSTEM),
        (true, "update", "coordination.k8s.io", "leases", "stillpoint-controller", SYSTEM),
        (false, "create", "", "configmaps", "other", anywhere),
        (false, "list", "", "configmaps", "", anywhere),
        (false, "get", "", "secrets", "stillpoint-ca", anywhere),
        (false, "get", "", "secrets", "other", SYSTEM),
        (false, "list", "", "secrets", "", SYSTEM),
        (false, "create", "", "pods/exec", "x", anywhere),
        (false, "delete", "", "pods", "x", anywhere),
        (false, "patch", "", "persistentvolumeclaims", "x", anywhere),
        (false, "delete", "stillpoint.io", "consistencygroupreplications", "x", anywhere),
        (false, "patch", snapshots, "volumesnapshots", "x", anywhere),
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
