#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};

use super::*;

fn pod(mounts: &Value) -> Option<PodFacts> {
    let pod = json!({
        "metadata": {"name": "db-0", "uid": "u"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "db"}],
            "initContainers": [{"name": "stillpoint-agent", "restartPolicy": "Always", "volumeMounts": mounts}],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "orders"}},
                {"name": "scratch", "ephemeral": {}},
                {"name": "config", "configMap": {"name": "c"}},
            ],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                {"name": "stillpoint-agent", "containerID": "containerd://a", "image": "", "imageID": "", "ready": true, "restartCount": 2, "state": {"running": {}}},
            ],
            "containerStatuses": [
                {"name": "db", "containerID": "containerd://b", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "done", "containerID": "containerd://c", "image": "", "imageID": "", "ready": true, "restartCount": 3, "state": {"terminated": {"exitCode": 0}}},
            ],
        },
    });
    PodFacts::of(serde_json::from_value(pod).unwrap())
}

#[test]
fn a_pod_tells_claims_mounts_and_containers() {
    let facts =
        pod(&json!([{"name": "data", "mountPath": "/members/orders"}, {"name": "config", "mountPath": "/etc/c"}]))
            .unwrap();
    assert_eq!(facts.claims, ["db-0-scratch".to_owned(), "orders".to_owned()].into());
    assert_eq!(
        facts.agent_mounts,
        [("orders".to_owned(), AgentMount { path: "/members/orders".into(), sub_path: false })].into()
    );
    assert_eq!(facts.containers, [RunningContainer { name: "db".into(), id: "b".into() }]);
    assert_eq!(facts.restarts, [("done".to_owned(), 3)].into());
    assert!(facts.has_agent && facts.running);
}

#[test]
fn a_mount_of_a_part_is_known_as_such_and_a_whole_one_wins() {
    let part = json!({"name": "data", "mountPath": "/part", "subPath": "x"});
    let whole = json!({"name": "data", "mountPath": "/whole"});
    assert!(pod(&json!([part])).unwrap().agent_mounts["orders"].sub_path);
    for mounts in [json!([part, whole]), json!([whole, part])] {
        assert_eq!(pod(&mounts).unwrap().agent_mounts["orders"].path, "/whole");
    }
}

#[test]
fn a_finished_pod_mounts_nothing() {
    let spec = json!({"nodeName": "n1", "containers": []});
    let pod = json!({"metadata": {"name": "job"}, "spec": spec, "status": {"phase": "Succeeded"}});
    assert_eq!(PodFacts::of(serde_json::from_value(pod).unwrap()), None);
}

#[test]
fn a_pod_on_no_node_mounts_nothing() {
    for node in [json!(null), json!("")] {
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "orders"}}]);
        let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
        let pod = json!({"metadata": {"name": "stray"}, "spec": spec, "status": {"phase": "Pending"}});
        assert_eq!(PodFacts::of(serde_json::from_value(pod).unwrap()), None);
    }
}

#[test]
fn a_pod_on_the_hosts_network_asks_the_nodes_dns_unless_it_says_otherwise() {
    let asks = |spec: Value| {
        let pod = json!({"metadata": {"name": "db-0"}, "spec": spec});
        PodFacts::of(serde_json::from_value(pod).unwrap()).unwrap().node_dns
    };
    assert!(asks(json!({"nodeName": "n1", "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirst"})));
    assert!(asks(json!({"nodeName": "n1", "containers": [], "hostNetwork": true})));
    assert!(asks(json!({"nodeName": "n1", "containers": [], "dnsPolicy": "Default"})));
    let with_host_net =
        json!({"nodeName": "n1", "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
    assert!(!asks(with_host_net));
    assert!(!asks(json!({"nodeName": "n1", "containers": [], "dnsPolicy": "ClusterFirst"})));
}

#[test]
fn a_claim_is_bound_only_when_its_phase_says_so() {
    let claim = |phase: &str| -> Claim {
        let claim = json!({"metadata": {"name": "a"}, "spec": {"volumeName": "pv", "volumeMode": "Block"}, "status": {"phase": phase}});
        serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap().into()
    };
    assert_eq!((claim("Bound").volume.as_deref(), claim("Lost").volume), (Some("pv"), None));
    assert!(claim("Bound").block);
}
