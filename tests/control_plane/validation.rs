//! Wrong objects are refused by the API server with a sentence that says what is wrong.

use crate::fixture::Fixture;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stillpoint_api::{ConsistencyGroupReplication, VolumeSnapshotReplication};

/// The object as a user would write it, so that nothing is checked by Rust types first.
fn object(name: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "stillpoint.io/v1alpha1",
        "kind": "ConsistencyGroupReplication",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .expect("an object")
}

fn replications(fixture: &Fixture) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<ConsistencyGroupReplication>(&());
    Api::namespaced_with(fixture.client.clone(), &fixture.namespace, &resource)
}

/// What is wrong, the spec, and what the API server says of it.
type Case = (&'static str, Value, &'static str);

/// Members that cannot be known.
fn wrong_sources() -> Vec<Case> {
    let snapshot = json!({"volumeSnapshot": {}});
    let spec = |source: &Value| json!({"source": source, "replication": snapshot});
    vec![
        (
            "two sources",
            spec(&json!({"selector": {"matchLabels": {"app": "shop"}}, "persistentVolumeClaimNames": ["orders"]})),
            "needs exactly one of selector and persistentVolumeClaimNames",
        ),
        ("no source", spec(&json!({})), "needs exactly one of selector and persistentVolumeClaimNames"),
        ("an empty selector", spec(&json!({"selector": {}})), "selector must not be empty"),
        ("an empty matchLabels", spec(&json!({"selector": {"matchLabels": {}}})), "selector must not be empty"),
        ("no claim", spec(&json!({"persistentVolumeClaimNames": []})), "should have at least 1 items"),
        ("a claim twice", spec(&json!({"persistentVolumeClaimNames": ["a", "a"]})), "names a claim twice"),
    ]
}

/// Times and counts outside their bounds.
fn wrong_times() -> Vec<Case> {
    let names = json!({"persistentVolumeClaimNames": ["orders"]});
    let snapshot = json!({"volumeSnapshot": {}});
    let timeouts = |suspension: Value| json!({"source": names, "replication": snapshot, "suspension": suspension});
    let retry = |retry: Value| json!({"source": names, "replication": snapshot, "retry": retry});
    vec![
        ("a zero holdTimeout", timeouts(json!({"holdTimeout": "0s"})), "holdTimeout must be longer than 0s"),
        ("a negative holdTimeout", timeouts(json!({"holdTimeout": "-3s"})), "holdTimeout must be longer than 0s"),
        ("a zero prepareTimeout", timeouts(json!({"prepareTimeout": "0s"})), "prepareTimeout must be longer than 0s"),
        (
            "a negative prepareTimeout",
            timeouts(json!({"prepareTimeout": "-1m"})),
            "prepareTimeout must be longer than 0s",
        ),
        ("a long prepareTimeout", timeouts(json!({"prepareTimeout": "2h"})), "prepareTimeout must be at most 1h"),
        ("not a duration", timeouts(json!({"holdTimeout": "soon"})), "suspension.holdTimeout"),
        ("no cool-down", retry(json!({"coolDown": "0s"})), "coolDown must be at least 1s"),
        ("a negative cool-down", retry(json!({"coolDown": "-30s"})), "coolDown must be at least 1s"),
        ("a long cool-down", retry(json!({"coolDown": "61m"})), "coolDown must be at most 1h"),
        ("too many attempts", retry(json!({"limit": 11})), "should be less than or equal to 10"),
        ("fewer than none", retry(json!({"limit": -1})), "should be greater than or equal to 0"),
        (
            "a negative ttl",
            json!({"source": names, "replication": snapshot, "ttlSecondsAfterFinished": -1}),
            "should be greater than or equal to 0",
        ),
        (
            "a ttl of centuries",
            json!({"source": names, "replication": snapshot, "ttlSecondsAfterFinished": 4_000_000_000_u64}),
            "should be less than or equal to 315360000",
        ),
    ]
}

/// What cannot be replicated in this way.
fn wrong_replications() -> Vec<Case> {
    let names = json!({"persistentVolumeClaimNames": ["orders"]});
    let wishes = |wishes: Value| json!({"source": names, "replication": {"volumeSnapshot": wishes}});
    vec![
        ("no time to be ready", wishes(json!({"readyTimeout": "0s"})), "readyTimeout must be longer than 0s"),
        (
            "our own label",
            wishes(json!({"labels": {"stillpoint.io/attempt": "9"}})),
            "labels must not begin with stillpoint.io/",
        ),
        (
            "our own annotation",
            wishes(json!({"annotations": {"stillpoint.io/proven-at": "now"}})),
            "annotations must not begin with stillpoint.io/",
        ),
        ("a label of two words", wishes(json!({"labels": {"team": "a b"}})), "labels.team"),
        ("a long annotation", wishes(json!({"annotations": {"note": "x".repeat(257)}})), "annotations.note"),
        ("nothing to replicate with", json!({"source": names}), "spec.replication is required with mode Replicate"),
        ("no kind of replica", json!({"source": names, "replication": {}}), "needs exactly one kind of replica"),
        (
            "an unknown kind of replica",
            json!({"source": names, "replication": {"photograph": {}}}),
            "needs exactly one kind of replica",
        ),
        ("null to replicate with", json!({"source": names, "replication": null}), "spec.replication is required"),
        ("an unknown mode", json!({"source": names, "mode": "Maybe"}), "supported values: \"Replicate\", \"Check\""),
    ]
}

#[tokio::test]
async fn wrong_objects_are_refused_with_a_sentence() {
    let fixture = Fixture::new("validation").await;
    let api = replications(&fixture);
    for (case, spec, sentence) in wrong_sources().into_iter().chain(wrong_times()).chain(wrong_replications()) {
        let refusal = match api.create(&PostParams::default(), &object("wrong", spec)).await {
            Ok(_) => panic!("{case}: the API server accepted it"),
            Err(error) => error.to_string(),
        };
        assert!(refusal.contains(sentence), "{case}: the sentence `{sentence}` is not in: {refusal}");
    }
    let right = json!({"source": {"persistentVolumeClaimNames": ["orders"]}, "replication": {"volumeSnapshot": {}}});
    let long = object(&"x".repeat(64), right);
    let refusal = api.create(&PostParams::default(), &long).await.expect_err("a name of 64 characters").to_string();
    assert!(refusal.contains("at most 63 characters"), "{refusal}");
}

/// Helm and other templates render a map without entries so.
#[tokio::test]
async fn a_kind_of_replica_without_entries_may_be_null() {
    let fixture = Fixture::new("null").await;
    let api = replications(&fixture);
    for (name, how) in [
        ("empty", json!({})),
        ("null", json!(null)),
        ("class", json!({"volumeSnapshotClassName": null, "readyTimeout": null, "labels": null, "annotations": null})),
    ] {
        let spec = json!({
            "source": {"persistentVolumeClaimNames": ["orders"]},
            "replication": {"volumeSnapshot": how},
        });
        api.create(&PostParams::default(), &object(name, spec)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let stored: ConsistencyGroupReplication = fixture.api().get(name).await.expect("it can be read");
        let asked = stored.spec.replication.expect("replication").volume_snapshot;
        assert_eq!(asked, Some(VolumeSnapshotReplication::default()), "{name}");
        // Whoever writes to it later does not lose what it asks for, and does not change the spec by that.
        let label = Patch::Merge(json!({"metadata": {"labels": {"touched": "true"}}}));
        let touched = api.patch(name, &PatchParams::default(), &label).await.expect("a label");
        api.replace(name, &PostParams::default(), &touched).await.expect("an object that was read and written back");
    }
}

#[tokio::test]
async fn a_right_object_gets_its_defaults_and_cannot_be_edited() {
    let fixture = Fixture::new("immutable").await;
    let api = replications(&fixture);
    let spec = json!({
        "source": {"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
        "mode": "Check",
        "retry": {},
    });
    let created = api.create(&PostParams::default(), &object("nightly", spec)).await.expect("accepted");
    assert_eq!(created.data["spec"]["suspension"], json!({"prepareTimeout": "30s", "holdTimeout": "10s"}));
    assert_eq!(created.data["spec"]["deletionPolicy"], "Delete");
    assert_eq!(created.data["spec"]["retry"], json!({"limit": 2, "coolDown": "30s"}));

    let edits = [
        json!({"suspension": {"holdTimeout": "20s"}}),
        json!({"mode": "Replicate", "replication": {"volumeSnapshot": {}}}),
        json!({"source": {"selector": {"matchLabels": {"app": "shop"}}}}),
        json!({"replication": {"volumeSnapshot": {}}}),
        json!({"retry": null}),
        json!({"retry": {"limit": 3}}),
    ];
    for edit in edits {
        let patch = Patch::Merge(json!({"spec": edit}));
        let refusal =
            api.patch("nightly", &PatchParams::default(), &patch).await.expect_err("an edited spec").to_string();
        assert!(refusal.contains("spec is immutable but for"), "{refusal}");
    }
    for edit in [json!({"deletionPolicy": "Retain"}), json!({"ttlSecondsAfterFinished": 60})] {
        let patch = Patch::Merge(json!({"spec": edit}));
        api.patch("nightly", &PatchParams::default(), &patch).await.expect("what becomes of it may be changed");
    }
}
