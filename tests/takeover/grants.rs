//! A controller that may not read what it needs.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, Phase};

use crate::fixture::connect;
use crate::objects::{DRIVER, bound_claim, snapshot_class};
use crate::processes::Controllers;
use crate::snapshots;
use crate::stages::condition;

/// What is taken from the controller, with the group that it is of.
const TAKEN: [(&str, &str); 4] = [
    ("snapshot.storage.k8s.io", "volumesnapshots"),
    ("snapshot.storage.k8s.io", "volumesnapshotclasses"),
    ("", "persistentvolumes"),
    ("", "resourcequotas"),
];

/// A user of its own, who may do everything but with these resources.
struct Limited {
    name: String,
    client: Client,
}

impl Limited {
    async fn new(client: Client) -> Self {
        let limited = Self { name: format!("limited-{}", std::process::id()), client };
        limited.grant(&TAKEN.map(|(_, resource)| resource)).await;
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": limited.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": limited.name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": limited.name}],
        }))
        .expect("a binding");
        let bindings: Api<ClusterRoleBinding> = Api::all(limited.client.clone());
        bindings.create(&PostParams::default(), &binding).await.expect("the API server accepts the binding");
        limited
    }

    /// Grants everything but this.
    async fn grant(&self, but: &[&str]) {
        let groups = ["apps", "stillpoint.io", "events.k8s.io", "coordination.k8s.io", "authentication.k8s.io"];
        let whole = json!({"apiGroups": groups, "resources": ["*"], "verbs": ["*"]});
        let core = ["persistentvolumeclaims", "pods", "namespaces", "configmaps", "secrets", "events"];
        let core = json!({"apiGroups": [""], "resources": core, "verbs": ["*"]});
        let given = TAKEN.iter().filter(|(_, resource)| !but.contains(resource));
        let given = given.map(|(group, one)| json!({"apiGroups": [group], "resources": [one], "verbs": ["*"]}));
        let rules: Vec<Value> = [whole, core].into_iter().chain(given).collect();
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": self.name}, "rules": rules,
        });
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let params = PatchParams::apply("takeover-tests").force();
        roles.patch(&self.name, &params, &Patch::Apply(&role)).await.expect("the API server accepts the role");
    }

    /// A kubeconfig by which a controller is this user.
    fn kubeconfig(&self) -> std::path::PathBuf {
        let told = std::env::var_os("KUBECONFIG").expect("these tests need an API server");
        let text = std::fs::read_to_string(told).expect("KUBECONFIG names one file");
        let mut config: Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
        for user in config["users"].as_array_mut().expect("users") {
            user["user"]["as"] = json!(self.name);
        }
        let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.kubeconfig", self.name));
        std::fs::write(&path, config.to_string()).expect("a file of the test's own");
        path
    }
}

#[tokio::test]
async fn what_a_controller_may_not_read_is_said_until_it_may() {
    let limited = Limited::new(connect().await).await;
    let controllers = Controllers::start(&[Some(limited.kubeconfig())]).await;
    let fixture = controllers.fixture("grants").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    bound_claim(&fixture, "orders").await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    fixture.replicate("nightly", spec).await;
    let mut missing: Vec<&str> = TAKEN.iter().map(|(_, resource)| *resource).collect();
    while !missing.is_empty() {
        let names = |object: Option<&ConsistencyGroupReplication>, of: &[&str]| -> Option<usize> {
            let status = object?.status.as_ref().filter(|status| status.phase == Some(Phase::Pending))?;
            let message = &status.conditions.iter().find(|one| one.type_ == "Ready")?.message;
            of.iter().position(|resource| {
                message.contains(&format!("{resource}.")) || message.contains(&format!("\"{resource}\""))
            })
        };
        let of = missing.clone();
        let said = move |object: Option<&ConsistencyGroupReplication>| names(object, &of).is_some();
        let pending = fixture.wait_for("nightly", &format!("said to lack one of {missing:?}"), said).await;
        let (_, _, message) = condition(&pending, "Ready");
        assert!(message.contains("forbidden"), "the API server's sentence: {message}");
        missing.remove(names(Some(&pending), &missing).expect("one of them"));
        limited.grant(&missing).await;
    }
    fixture.wait_for_phase("nightly", Phase::Done).await;
}
