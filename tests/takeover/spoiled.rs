//! An object that cannot be understood, beside others.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, Phase};

use crate::fixture::connect;
use crate::processes::Controllers;

/// Lets every text be a duration.
async fn without_validation(client: kube::Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let crd = stillpoint_api::crds().remove(0);
    let mut crd = serde_json::to_value(&crd).expect("serialisable");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let cool_down = format!("{spec}/properties/retry/properties/coolDown");
    *crd.pointer_mut(&cool_down).expect("the field is there") = json!({"type": "string"});
    for place in [spec.to_owned(), format!("{spec}/properties/retry")] {
        let place = crd.pointer_mut(&place).and_then(Value::as_object_mut).expect("an object");
        place.remove("x-kubernetes-validations");
    }
    let (name, apply) =
        ("consistencygroupreplications.stillpoint.io", PatchParams::apply("control-plane-tests").force());
    crds.patch(name, &apply, &Patch::Apply(&crd)).await.expect("the CRD is accepted");
}

#[tokio::test]
async fn an_object_that_cannot_be_understood_costs_itself_alone() {
    let controllers = Controllers::start(&[None]).await;
    let fixture = controllers.fixture("spoiled").await;
    without_validation(fixture.client.clone()).await;
    let resource = ApiResource::erase::<ConsistencyGroupReplication>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(fixture.client.clone(), &fixture.namespace, &resource);
    let source = json!({"persistentVolumeClaimNames": ["gone"]});
    let spoiled = |name: &str, cool_down: &str| {
        let retry = json!({"limit": 1, "coolDown": cool_down});
        DynamicObject::new(name, &resource).data(json!({"spec": {"source": source, "mode": "Check", "retry": retry}}))
    };
    for (name, cool_down) in [("spoiled-1", "1s-2s"), ("spoiled-2", "99999999999999999999h")] {
        let object = spoiled(name, cool_down);
        let stored = async || api.create(&PostParams::default(), &object).await.is_ok();
        fixture.wait_until("the API server takes every duration", stored).await;
    }
    fixture.replicate("good", json!({"source": source, "mode": "Check"})).await;
    fixture.wait_for_phase("good", Phase::Aborted).await;
    for name in ["spoiled-1", "spoiled-2"] {
        let said = async || {
            let object = api.get(name).await.expect("it is there");
            let message = object.data["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
            object.data["status"]["phase"] == "Pending" && message.contains("the object could not be read")
        };
        fixture.wait_until("it says why it waits", said).await;
        api.delete(name, &DeleteParams::default()).await.expect("deleted");
        fixture.wait_until("it is gone", async || api.get_opt(name).await.expect("an answer").is_none()).await;
    }
    assert!(controllers.replicas[0].probe("/healthz").await);
    fixture.replicate("later", json!({"source": source, "mode": "Check"})).await;
    assert_eq!(fixture.wait_for_phase("later", Phase::Aborted).await.name_any(), "later");
    // Puts the CRD back.
    connect().await;
}
