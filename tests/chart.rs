//! The chart: what it grants, what it refuses, and that the committed manifests are its own.
//!
//! Tests that render need helm on PATH and are ignored without it; `make control-plane` runs them. `make manifests` writes
//! deploy/stillpoint.yaml.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

use std::process::Command;

use kube::core::ApiResource;
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::replica::KINDS;
use support::generated::{assert_generated, in_checkout};
use support::versions::oldest_kubernetes;

fn read(file: &str) -> String {
    std::fs::read_to_string(in_checkout(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a YAML stream.
fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the manifests are YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

fn manifests() -> Vec<Value> {
    documents(&read("deploy/stillpoint.yaml"))
}

fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let wanted = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
    documents.iter().find(wanted).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// Renders the chart; the error is what helm said.
fn render(arguments: &[&str]) -> Result<String, String> {
    let chart = in_checkout("charts/stillpoint");
    let output = Command::new("helm")
        .args(["template", "stillpoint", "--namespace", "stillpoint-system", "--kube-version", &oldest_kubernetes()])
        .args(arguments)
        .arg(chart)
        .output()
        .expect("helm runs: `make control-plane` puts it on PATH");
    let text = |bytes| String::from_utf8(bytes).expect("helm speaks UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
#[ignore = "needs helm; `make control-plane` runs it"]
fn the_manifests_are_what_the_chart_renders() {
    let rendered = render(&["--set", "namespace.create=true"]).expect("the chart renders with its own values");
    let header = "# Rendered from charts/stillpoint by `make manifests`: change the chart, not this file.\n";
    assert_generated("deploy/stillpoint.yaml", &format!("{header}{rendered}"), "make manifests");
}

#[test]
#[ignore = "needs helm; `make control-plane` runs it"]
fn wrong_values_are_refused() {
    for (value, sentence) in [
        ("controller.holdCeiling=61s", "does not match pattern"),
        ("controller.holdCeiling=0s", "does not match pattern"),
        ("controller.holdCeiling=5m", "does not match pattern"),
        ("image.digest=sha256:12", "does not match pattern"),
        ("image.tag=", "image.tag or image.digest must be set"),
        ("image.pullPolicy=Sometimes", "must be one of"),
        ("controler.holdCeiling=10s", "additional properties 'controler' not allowed"),
        ("controller.replicas=0", "minimum: got 0, want 1"),
        ("controller.replicas=9", "maximum: got 9, want 8"),
    ] {
        let refusal = render(&["--set", value]).expect_err(value);
        assert!(refusal.contains(sentence), "{value}: {refusal}");
    }
}

#[test]
#[ignore = "needs helm; `make control-plane` runs it"]
fn optional_parts_follow_their_values() {
    let digest = format!("image.digest=sha256:{}", "0".repeat(64));
    let rendered = render(&[
        "--set",
        "crds.install=false,rbac.aggregateToUserRoles=false,controller.networkPolicy.enabled=true,agent.enabled=false",
        "--set",
        &digest,
        "--set",
        "controller.priorityClassName=,guardian.priorityClassName=",
    ]);
    let documents = documents(&rendered.expect("renders"));
    let kinds: Vec<_> = documents.iter().filter_map(|document| document["kind"].as_str()).collect();
    assert!(!kinds.contains(&"CustomResourceDefinition") && !kinds.contains(&"Namespace"), "{kinds:?}");
    assert!(kinds.contains(&"NetworkPolicy"), "{kinds:?}");
    assert!(documents.iter().all(|document| document["metadata"]["name"] != "stillpoint-agent"), "no agents on nodes");
    assert_eq!(kinds.iter().filter(|kind| **kind == "ClusterRole").count(), 1, "only the controller's own");
    assert!(!kinds.contains(&"ResourceQuota"), "no priority class, no quota for it: {kinds:?}");
    let deployment = find(&documents, "Deployment", "stillpoint-controller");
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    assert!(image.contains("@sha256:0000") && !image.contains(":dev"), "{image}");
}

/// Windows nodes, and nodes behind which there is no kubelet: a pod there is never ready, and neither is the release.
#[test]
fn pods_go_to_linux_nodes_with_a_kubelet() {
    let manifests = manifests();
    let pod = |kind, name| &find(&manifests, kind, name)["spec"]["template"]["spec"];
    let guardian = pod("DaemonSet", "stillpoint-guardian");
    let agent = pod("DaemonSet", "stillpoint-agent");
    for pod in [guardian, agent, pod("Deployment", "stillpoint-controller")] {
        assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    }
    assert_eq!((&agent["affinity"], &agent["tolerations"]), (&guardian["affinity"], &guardian["tolerations"]));
    let terms = &guardian["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let left_out = terms["nodeSelectorTerms"][0]["matchExpressions"].as_array().expect("expressions");
    for (key, value) in [("type", "virtual-kubelet"), ("eks.amazonaws.com/compute-type", "fargate")] {
        let wanted = json!({"key": key, "operator": "NotIn", "values": [value]});
        assert!(left_out.contains(&wanted), "{wanted} is not in {left_out:?}");
    }
}

/// Some clusters admit the system's priority classes only where a quota names them.
#[test]
fn a_quota_admits_the_priority_classes_that_the_pods_have() {
    let manifests = manifests();
    let quota = &find(&manifests, "ResourceQuota", "stillpoint-priority")["spec"];
    let scope = &quota["scopeSelector"]["matchExpressions"][0];
    assert_eq!((&scope["scopeName"], &scope["operator"]), (&json!("PriorityClass"), &json!("In")));
    let guardian = ("DaemonSet", "stillpoint-guardian");
    for (kind, name) in [("Deployment", "stillpoint-controller"), guardian, ("DaemonSet", "stillpoint-agent")] {
        let class = &find(&manifests, kind, name)["spec"]["template"]["spec"]["priorityClassName"];
        assert!(scope["values"].as_array().expect("classes").contains(class), "{class}");
    }
}

/// Agents find the replicas through the Service: all that are ready, and only those.
#[test]
fn every_controller_that_is_ready_is_found() {
    let manifests = manifests();
    let service = &find(&manifests, "Service", "stillpoint-controller")["spec"];
    assert_eq!(service["clusterIP"], "None", "the name resolves to every replica");
    assert!(service["publishNotReadyAddresses"].is_null());
    assert_eq!(service["ipFamilyPolicy"], "SingleStack", "one address for each replica, of whatever family");
    let deployment = &find(&manifests, "Deployment", "stillpoint-controller")["spec"];
    assert_eq!(deployment["replicas"], 2);
    assert_eq!(deployment["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));
    let pod = &deployment["template"];
    let budget = &find(&manifests, "PodDisruptionBudget", "stillpoint-controller")["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    let apart = &pod["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    let selectors = [
        &service["selector"],
        &budget["selector"]["matchLabels"],
        &apart["podAffinityTerm"]["labelSelector"]["matchLabels"],
    ];
    for selector in selectors {
        for (label, value) in selector.as_object().expect("labels") {
            assert_eq!(&pod["metadata"]["labels"][label], value, "{label}");
        }
    }
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], "/readyz");
}

#[test]
fn an_uninstall_keeps_the_crds_and_every_object() {
    let manifests = manifests();
    for crd in stillpoint_api::crds() {
        let crd = find(&manifests, "CustomResourceDefinition", crd.metadata.name.as_deref().expect("a name"));
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

/// The chart takes the kinds from the CRDs that lie in it.
#[test]
fn every_kind_is_granted_to_the_controller_and_to_users() {
    let manifests = manifests();
    for crd in stillpoint_api::crds() {
        let plural = crd.spec.names.plural;
        for (role, resource, verb) in [
            ("stillpoint-controller", plural.clone(), "watch"),
            ("stillpoint-controller", format!("{plural}/status"), "update"),
            ("stillpoint-view", plural.clone(), "list"),
            ("stillpoint-edit", plural.clone(), "create"),
        ] {
            let rules = find(&manifests, "ClusterRole", role)["rules"].as_array().expect("rules");
            let granted = |rule: &Value| has(rule, "resources", &resource) && has(rule, "verbs", verb);
            assert!(rules.iter().any(granted), "{role} may not {verb} {resource}");
        }
    }
}

/// Everything that the controller's service account is granted, as (role's kind, rule).
fn rules(manifests: &[Value]) -> Vec<(&'static str, &Value)> {
    ["ClusterRole", "Role"]
        .into_iter()
        .flat_map(|kind| {
            let rules = find(manifests, kind, "stillpoint-controller")["rules"].as_array().expect("rules");
            rules.iter().map(move |rule| (kind, rule))
        })
        .collect()
}

fn has(rule: &Value, field: &str, word: &str) -> bool {
    rule[field].as_array().is_some_and(|words| words.iter().any(|each| each == word))
}

#[test]
fn the_controller_is_granted_no_more_than_it_needs() {
    let manifests = manifests();
    let subresources =
        ["pods/exec", "pods/attach", "pods/ephemeralcontainers", "pods/portforward", "serviceaccounts/token"];
    for (kind, rule) in rules(&manifests) {
        for field in ["apiGroups", "resources", "verbs"] {
            assert!(!has(rule, field, "*"), "{kind}: no wildcards: {rule}");
        }
        for verb in ["escalate", "bind", "impersonate", "deletecollection"] {
            assert!(!has(rule, "verbs", verb), "{kind}: {rule}");
        }
        for resource in subresources {
            assert!(!has(rule, "resources", resource), "{kind}: {rule}");
        }
        if has(rule, "resources", "pods") || has(rule, "resources", "persistentvolumeclaims") {
            assert_eq!(rule["verbs"], json!(["list", "watch"]), "{kind}: {rule}");
        }
        if has(rule, "resources", "secrets") {
            assert_eq!(kind, "Role", "secrets are read in the controller's own namespace alone: {rule}");
        }
        // A create by POST carries no name, so no rule can limit it to one.
        let only_create = kind == "Role" && rule["verbs"] == json!(["create"]);
        if (has(rule, "resources", "secrets") || has(rule, "resources", "configmaps")) && !only_create {
            assert_eq!(rule["resourceNames"], json!(["stillpoint-ca"]), "{kind}: {rule}");
        }
    }
}

#[test]
fn the_controller_is_granted_what_every_kind_of_replica_needs() {
    let manifests = manifests();
    let granted = |resource: &ApiResource, verb: &str| {
        let names = |rule: &Value| has(rule, "apiGroups", &resource.group) && has(rule, "resources", &resource.plural);
        let all = |rule: &Value| rule.get("resourceNames").is_none();
        rules(&manifests).iter().any(|(_, rule)| names(rule) && all(rule) && has(rule, "verbs", verb))
    };
    for kind in KINDS {
        for resource in kind.reads() {
            assert!(granted(&resource, "list"), "{kind:?}: {} may not be listed", resource.plural);
        }
        for resource in kind.objects() {
            for verb in ["get", "list", "watch", "create", "patch", "delete"] {
                assert!(granted(&resource, verb), "{kind:?}: no {verb} of {}", resource.plural);
            }
        }
    }
}

#[test]
fn the_guardian_has_no_grant_and_no_token() {
    let manifests = manifests();
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        for binding in manifests.iter().filter(|document| document["kind"] == kind) {
            assert!(!binding["subjects"].to_string().contains("stillpoint-guardian"), "{binding}");
        }
    }
    let pod = &find(&manifests, "DaemonSet", "stillpoint-guardian")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    for host in ["hostPID", "hostNetwork", "hostIPC"] {
        assert!(pod[host].is_null(), "{host}");
    }
    let security = &pod["containers"][0]["securityContext"];
    assert!(security["privileged"].is_null());
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"], "add": ["SYS_ADMIN"]}));
    assert_eq!(security["readOnlyRootFilesystem"], true);
}

#[test]
fn an_agent_of_a_node_has_no_grant_one_token_for_the_controller_and_three_capabilities() {
    let manifests = manifests();
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        for binding in manifests.iter().filter(|document| document["kind"] == kind) {
            assert!(!binding["subjects"].to_string().contains("stillpoint-agent"), "{binding}");
        }
    }
    let template = &find(&manifests, "DaemonSet", "stillpoint-agent")["spec"]["template"];
    assert_eq!(
        template["metadata"]["labels"][labels::COMPONENT],
        labels::NODE_AGENT,
        "or the controller does not know it"
    );
    let pod = &template["spec"];
    assert_eq!((&pod["automountServiceAccountToken"], &pod["hostPID"]), (&json!(false), &json!(true)));
    assert!(pod["hostNetwork"].is_null() && pod["hostIPC"].is_null());
    let token = json!({"audience": labels::TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"});
    assert_eq!(pod["volumes"][1]["projected"]["sources"], json!([{"serviceAccountToken": token}]));
    let hosts: Vec<_> =
        pod["volumes"].as_array().expect("volumes").iter().filter_map(|it| it["hostPath"]["path"].as_str()).collect();
    assert_eq!(hosts, ["/run/stillpoint", "/run/stillpoint-agent"], "no volume, and no directory of the kubelet");
    let security = &pod["containers"][0]["securityContext"];
    assert!(security["privileged"].is_null());
    let capabilities = json!({"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"]});
    assert_eq!(security["capabilities"], capabilities);
    assert_eq!(security["readOnlyRootFilesystem"], true);
}

/// The restricted pod security standard (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).
#[test]
fn the_controllers_pod_is_restricted() {
    let manifests = manifests();
    let pod = &find(&manifests, "Deployment", "stillpoint-controller")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert!(pod["volumes"].is_null(), "no volume, and so no hostPath");
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn the_examples_are_objects_of_the_api() {
    for file in ["replication.yaml", "check.yaml", "argo-cd-presync.yaml"] {
        let yaml = read(&format!("deploy/examples/{file}"));
        let written: Value = serde_saphyr::from_str(&yaml).expect("YAML");
        let object: ConsistencyGroupReplication = serde_saphyr::from_str(&yaml).expect("a ConsistencyGroupReplication");
        let kept = serde_json::to_value(&object.spec).expect("serialisable");
        for field in written["spec"].as_object().expect("a spec").keys() {
            assert!(kept.get(field).is_some(), "{file}: the API has no field spec.{field}");
        }
    }
}

/// Argo deletes what has the name of a hook before it makes the hook, and a run with `Delete` takes its snapshots along.
#[test]
fn a_hook_before_a_deployment_deletes_no_cut() {
    let hook = &documents(&read("deploy/examples/argo-cd-presync.yaml"))[0];
    assert_eq!(hook["metadata"]["annotations"]["argocd.argoproj.io/hook"], "PreSync");
    assert!(hook["metadata"]["name"].is_null() && hook["metadata"]["generateName"].is_string(), "each run has its own");
    assert!(hook["metadata"]["annotations"]["argocd.argoproj.io/hook-delete-policy"].is_null());
    assert_eq!(hook["spec"]["deletionPolicy"], "Retain");
}

/// The application starts, becomes ready and ends whether Stillpoint is there or not, and whatever the pod says of its user.
#[test]
fn nothing_of_the_sidecar_keeps_a_pod_from_starting() {
    for file in ["agent-sidecar.yaml", "agent-sidecar-with-guardian.yaml"] {
        let pod = &documents(&read(&format!("deploy/examples/{file}")))[0]["spec"]["template"]["spec"];
        for container in pod["initContainers"].as_array().expect("containers") {
            let security = &container["securityContext"];
            assert_eq!((&security["runAsUser"], &security["runAsNonRoot"]), (&json!(0), &json!(false)), "{file}");
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                assert!(container[probe].is_null(), "{file}: the pod's readiness is the application's own: {probe}");
            }
        }
        for volume in pod["volumes"].as_array().expect("volumes") {
            for source in ["configMap", "secret"] {
                assert!(volume[source].is_null() || volume[source]["optional"] == true, "{file}: {volume}");
            }
        }
    }
}

/// The sidecar is written out twice, because a snippet must be complete and a workload too.
#[test]
fn the_example_workloads_carry_the_sidecar_of_the_snippet() {
    let pod = |document: &Value| document["spec"]["template"]["spec"].clone();
    let snippet = pod(&documents(&read("deploy/examples/agent-sidecar.yaml"))[0]);
    let workloads = documents(&read("deploy/examples/workloads.yaml"));
    let sets: Vec<_> = workloads.iter().filter(|document| document["kind"] == "StatefulSet").map(pod).collect();
    assert_eq!(sets.len(), 3);
    for set in sets {
        assert_eq!(set["initContainers"], snippet["initContainers"]);
        assert_eq!(set["shareProcessNamespace"], true);
        for volume in snippet["volumes"].as_array().expect("volumes") {
            assert!(set["volumes"].as_array().expect("volumes").contains(volume), "{volume}");
        }
    }
}

/// Where a pod brings its own guardian, nothing else about its agent changes.
#[test]
fn the_sidecar_with_a_guardian_differs_by_the_guardian_alone() {
    let pod = |file| documents(&read(file))[0]["spec"]["template"]["spec"].clone();
    let plain = pod("deploy/examples/agent-sidecar.yaml");
    let mut guarded = pod("deploy/examples/agent-sidecar-with-guardian.yaml");
    let containers = guarded["initContainers"].as_array_mut().expect("containers");
    let guardian = containers.remove(0);
    assert_eq!(guardian["args"], json!(["guardian", "--scope=pod", "--socket=/run/stillpoint/guardian.sock"]));
    assert_eq!(guardian["restartPolicy"], "Always", "a sidecar, and not a step before the start");
    let volumes = guarded["volumes"].as_array_mut().expect("volumes");
    let shared = volumes.iter_mut().find(|volume| volume["name"] == "stillpoint-guardian").expect("the socket's");
    assert_eq!(shared["emptyDir"]["medium"], "Memory");
    *shared =
        json!({"name": "stillpoint-guardian", "hostPath": {"path": "/run/stillpoint", "type": "DirectoryOrCreate"}});
    assert_eq!(guarded, plain);
}

#[test]
fn the_memory_limit_has_room_for_all_sessions() {
    let deployment = manifests();
    let deployment = find(&deployment, "Deployment", "stillpoint-controller");
    let limit = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"].clone();
    let mebibytes = stillpoint_core::limits::CONTROLLER_MEMORY / (1024 * 1024);
    assert_eq!(limit, format!("{mebibytes}Mi"), "see CONTROLLER_MEMORY");
}
