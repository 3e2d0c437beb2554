//! The CA comes with the opt-in of a namespace, and goes with it.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stillpoint_api::labels;

use crate::fixture::Fixture;

#[tokio::test]
async fn a_namespace_that_opts_out_loses_the_ca() {
    let fixture = Fixture::new("opt-out").await;
    assert!(fixture.published_ca().await.contains("BEGIN CERTIFICATE"));

    let opt_out = Patch::Merge(json!({"metadata": {"labels": {labels::OPT_IN: null}}}));
    let namespaces: Api<Namespace> = Api::all(fixture.client.clone());
    namespaces.patch(&fixture.namespace, &PatchParams::default(), &opt_out).await.expect("opted out");
    let config_maps = fixture.api::<ConfigMap>();
    fixture
        .wait_until("the ConfigMap is gone", async || {
            config_maps.get_opt(labels::CA_CONFIG_MAP).await.expect("an answer").is_none()
        })
        .await;
}
