//! What every test needs: a client, the CRDs, and a namespace of its own.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use std::time::Duration;
use stillpoint::api::ConsistencyGroupReplication;

/// How long a condition may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A namespace that goes away with the test.
pub struct Fixture {
    pub client: Client,
    pub namespace: String,
}

impl Fixture {
    /// Connects through `KUBECONFIG`, applies the CRD that the types generate and makes a namespace.
    pub async fn new(name: &str) -> Self {
        assert!(
            std::env::var_os("KUBECONFIG").is_some(),
            "these tests need an API server: run `make control-plane`, or set KUBECONFIG to one that you can spare"
        );
        let client = Client::try_default().await.expect("KUBECONFIG names an API server");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = ConsistencyGroupReplication::crd();
        crds.patch(&crd.name_any(), &PatchParams::apply("control-plane-tests").force(), &Patch::Apply(&crd))
            .await
            .expect("the CRD is accepted");
        let crd_name = crd.name_any();
        let established = await_condition(crds, &crd_name, conditions::is_crd_established());
        tokio::time::timeout(DEADLINE, established).await.expect("the CRD is established in time").expect("a watch");

        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut object = Namespace::default();
        object.metadata.generate_name = Some(format!("{name}-"));
        let namespace = namespaces.create(&PostParams::default(), &object).await.expect("a namespace").name_any();
        Self { client, namespace }
    }

    /// Asks for the namespace to be deleted; without a controller-manager it only stops new objects.
    pub async fn delete(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.expect("the namespace is deleted");
    }
}
