//! What every test needs: the CRDs, the controller, and a namespace of its own.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use stillpoint::controller;
use stillpoint_api::{ConsistencyGroupReplication, Phase, labels};
use tokio::sync::OnceCell;

/// How long a condition may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between looks at what no watch tells.
const POLL: Duration = Duration::from_millis(100);
/// Where the controller keeps its CA and its Lease.
pub const SYSTEM_NAMESPACE: &str = "stillpoint-system";

/// The address of the one controller of this process.
static CONTROLLER: OnceCell<SocketAddr> = OnceCell::const_new();

/// A namespace of the test's own, opted in.
pub struct Fixture {
    /// Of the API server.
    pub client: Client,
    /// Its name.
    pub namespace: String,
    /// Where agents reach the controllers.
    pub controllers: Vec<SocketAddr>,
    /// The controllers' own namespace.
    pub system: String,
}

impl Fixture {
    /// Connects through `KUBECONFIG`, applies the CRD, starts the controller if it does not run yet, makes a namespace.
    pub async fn new(name: &str) -> Self {
        let client = connect().await;
        let controller = *CONTROLLER.get_or_init(|| start(client.clone())).await;
        Self::with(client, name, vec![controller], SYSTEM_NAMESPACE.to_owned()).await
    }

    /// Makes a namespace for these controllers.
    pub async fn with(client: Client, name: &str, controllers: Vec<SocketAddr>, system: String) -> Self {
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some(format!("{name}-"));
        namespace.labels_mut().insert(labels::OPT_IN.to_owned(), labels::OPT_IN_VALUE.to_owned());
        let namespace = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        let fixture = Self { client, namespace: namespace.name_any(), controllers, system };
        // Without a controller-manager nobody makes it, and pods are refused without.
        fixture.create::<ServiceAccount>(json!({"metadata": {"name": "default"}})).await;
        fixture
    }

    /// The same with the controllers' own namespace in the place of the test's.
    pub async fn of_the_system(&self) -> Self {
        let Self { client, controllers, system, .. } = self;
        let fixture = Self {
            client: client.clone(),
            namespace: system.clone(),
            controllers: controllers.clone(),
            system: system.clone(),
        };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let apply = PatchParams::apply("control-plane-tests").force();
        fixture.api::<ServiceAccount>().patch("default", &apply, &Patch::Apply(account)).await.expect("an account");
        fixture
    }

    /// Objects of one kind in the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object of the namespace from its manifest, kind and version left out.
    pub async fn create<K>(&self, manifest: serde_json::Value) -> K
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(manifest).expect("a manifest");
        self.api().create(&PostParams::default(), &object).await.expect("the API server accepts it")
    }

    /// Waits until an object of the namespace meets a condition, and returns it.
    pub async fn wait_for<K>(&self, name: &str, what: &str, condition: impl Condition<K>) -> K
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        match tokio::time::timeout(DEADLINE, await_condition(self.api::<K>(), name, condition)).await {
            Ok(found) => found.expect("a watch").expect("the object is there"),
            Err(_) => {
                panic!("{name}: not {what} within {DEADLINE:?}; it is {:#?}", self.api::<K>().get_opt(name).await)
            }
        }
    }

    /// Waits until something holds that no single object tells.
    pub async fn wait_until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let looks = async {
            while !holds().await {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(DEADLINE, looks).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
    }

    /// The CA that the controller published into the namespace.
    pub async fn published_ca(&self) -> String {
        let map: ConfigMap =
            self.wait_for(labels::CA_CONFIG_MAP, "published", |map: Option<&ConfigMap>| map.is_some()).await;
        map.data.unwrap_or_default().remove("ca.crt").expect("ca.crt")
    }

    /// Asks for a replication.
    pub async fn replicate(&self, name: &str, spec: serde_json::Value) -> ConsistencyGroupReplication {
        self.create(json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Waits until a replication has ended, one way or another.
    pub async fn wait_for_end(&self, name: &str) -> ConsistencyGroupReplication {
        let ended = |object: Option<&ConsistencyGroupReplication>| {
            object.and_then(|object| object.status.as_ref()?.phase).is_some_and(Phase::is_final)
        };
        self.wait_for(name, "ended", ended).await
    }

    /// Waits until a replication is in a phase.
    pub async fn wait_for_phase(&self, name: &str, phase: Phase) -> ConsistencyGroupReplication {
        let reached = move |object: Option<&ConsistencyGroupReplication>| {
            object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.phase == Some(phase))
        };
        self.wait_for(name, &format!("{phase:?}"), reached).await
    }
}

/// Connects through `KUBECONFIG` and applies the CRDs.
pub async fn connect() -> Client {
    assert!(
        std::env::var_os("KUBECONFIG").is_some(),
        "these tests need an API server: run `make control-plane`, or set KUBECONFIG to one that you can spare"
    );
    let client = Client::try_default().await.expect("KUBECONFIG names an API server");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("control-plane-tests").force();
    for crd in stillpoint_api::crds() {
        let name = crd.name_any();
        crds.patch(&name, &apply, &Patch::Apply(&crd)).await.expect("the CRD is accepted");
        let established = await_condition(crds.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(DEADLINE, established).await.expect("the CRD is established in time").expect("a watch");
    }
    client
}

/// Runs the controller in a thread that ends with the process.
async fn start(client: Client) -> SocketAddr {
    let apply = PatchParams::apply("control-plane-tests").force();
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}});
    Api::<Namespace>::all(client).patch(SYSTEM_NAMESPACE, &apply, &Patch::Apply(&system)).await.expect("a namespace");

    let (listen, health) = (free_address(), free_address());
    let args = controller::Args {
        listen,
        health,
        namespace: SYSTEM_NAMESPACE.to_owned(),
        pod_name: Some(format!("controller-{}", std::process::id())),
        service: "stillpoint-controller".to_owned(),
        hold_ceiling: Duration::from_secs(30).into(),
        lease_duration: Duration::from_secs(15).into(),
    };
    std::thread::spawn(move || controller::run(args).expect("the controller runs"));
    listen
}

/// A free port of the loopback device.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}
