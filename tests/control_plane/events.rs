//! Kubernetes Events on a replication: every phase, and every blocker when it is first seen.

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::json;
use stillpoint_api::Phase;

use crate::agents::{Behaviour, FakeAgent, lock_blocker};
use crate::fixture::Fixture;
use crate::objects::{bound_claim, pod_with_agent};

/// Type, reason and note of the Events of the namespace.
async fn events(fixture: &Fixture) -> Vec<(String, String, String)> {
    let list = fixture.api::<Event>().list(&ListParams::default()).await.expect("a list");
    let texts = |event: Event| {
        let regarding = event.regarding.and_then(|object| object.name);
        assert_eq!(regarding.as_deref(), Some("nightly"));
        assert!(event.series.is_none(), "nothing is merged");
        (event.type_.unwrap_or_default(), event.reason.unwrap_or_default(), event.note.unwrap_or_default())
    };
    list.items.into_iter().map(texts).collect()
}

#[tokio::test]
async fn phases_and_blockers_are_told_while_the_run_waits() {
    let fixture = Fixture::new("events").await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let locks = vec![lock_blocker("journal"), lock_blocker("index")];
    let _agent = FakeAgent::connect(&fixture, &pod, Behaviour::Waits(locks)).await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "mode": "Check",
        "suspension": {"prepareTimeout": "4s"},
    });
    fixture.replicate("nightly", spec).await;

    let locks = async || {
        let mut notes: Vec<String> =
            events(&fixture).await.into_iter().filter(|(_, reason, _)| reason == "LockHeld").map(|it| it.2).collect();
        notes.sort();
        notes
    };
    fixture.wait_until("both blockers are told", async || locks().await.len() == 2).await;
    fixture.wait_for_phase("nightly", Phase::Checking).await;
    let notes = locks().await;
    assert!(notes[0].starts_with("orders: ") && notes[0].ends_with("of index"), "{notes:?}");
    assert!(notes[1].ends_with("of journal"), "{notes:?}");

    fixture.wait_for_phase("nightly", Phase::Aborted).await;
    let told = async |kind: &str, phase: &str| {
        events(&fixture).await.iter().any(|(type_, reason, _)| type_ == kind && reason == phase)
    };
    fixture.wait_until("the end is told", async || told("Warning", "Aborted").await).await;
    assert!(told("Normal", "Checking").await);
    assert_eq!(locks().await.len(), 2, "what was told is not told again");
}

#[tokio::test]
async fn long_names_in_any_script_are_told_too() {
    let fixture = Fixture::new("event-bytes").await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    // Three bytes each: more than an Event takes, though fewer characters than a status.
    let locks = vec![lock_blocker(&"数据".repeat(220))];
    let _agent = FakeAgent::connect(&fixture, &pod, Behaviour::Waits(locks)).await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "mode": "Check",
        "suspension": {"prepareTimeout": "2s"},
    });
    fixture.replicate("nightly", spec).await;
    let told = async |wanted: &str| {
        let all = events(&fixture).await;
        all.into_iter().find(|(_, reason, note)| reason == wanted && note.contains("数据"))
    };
    for wanted in ["LockHeld", "Aborted"] {
        fixture.wait_until("it is told", async || told(wanted).await.is_some()).await;
        let (_, _, note) = told(wanted).await.expect("it was there");
        assert!(note.len() <= 1024 && note.ends_with('…'), "{note}");
    }
}
