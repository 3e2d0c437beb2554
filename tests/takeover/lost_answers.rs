//! Snapshots whose creation is carried out, and nobody is told.

use std::sync::atomic::Ordering;

use serde_json::json;
use stillpoint_api::Phase;

use crate::agents::{Behaviour, FakeAgent, Told};
use crate::fixture::{Fixture, connect};
use crate::objects::{DRIVER, bound_claim, pod_with_agent, snapshot_class};
use crate::processes::Controllers;
use crate::proxy::{Creations, Proxy};
use crate::snapshots::{self, SnapshotController, assert_no_replica_is_left, replicas};
use crate::stages::condition;

/// A run whose creations fare so: the way to the API server, the cluster, the agent of its member.
struct Attempt {
    proxy: Proxy,
    fixture: Fixture,
    agent: FakeAgent,
    _controllers: Controllers,
    _snapshots: SnapshotController,
}

async fn an_attempt_over(creations: Creations, hold: &str) -> Attempt {
    let proxy = Proxy::start(connect().await, creations).await;
    let controllers = Controllers::start(&[Some(proxy.kubeconfig.clone())]).await;
    let fixture = controllers.fixture("lost-answer").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    let snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let spec = json!({
        "source": {"persistentVolumeClaimNames": ["orders"]},
        "suspension": {"holdTimeout": hold},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    });
    fixture.replicate("nightly", spec).await;
    Attempt { proxy, fixture, agent, _controllers: controllers, _snapshots: snapshots }
}

/// Waits until a snapshot of the namespace was there, however short.
async fn seen(client: kube::Client, namespace: &str) {
    use futures::StreamExt;
    use kube::runtime::{WatchStreamExt, watcher};
    let snapshots: kube::Api<stillpoint_api::snapshot::VolumeSnapshot> = kube::Api::namespaced(client, namespace);
    let mut seen = watcher(snapshots, watcher::Config::default()).applied_objects().boxed();
    let first = tokio::time::timeout(crate::fixture::DEADLINE, seen.next()).await;
    first.expect("in time").expect("a watch").expect("a snapshot");
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_found() {
    let attempt = an_attempt_over(Creations::Unanswered, "10s").await;
    attempt.fixture.wait_for_phase("nightly", Phase::Done).await;
    assert_eq!(replicas(&attempt.fixture).await.len(), 1);
    assert_eq!(attempt.agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
}

#[tokio::test]
async fn a_creation_that_fails_for_the_moment_is_asked_for_again() {
    let attempt = an_attempt_over(Creations::FailsOnce, "10s").await;
    attempt.fixture.wait_for_phase("nightly", Phase::Done).await;
    assert_eq!(attempt.proxy.asked.load(Ordering::Relaxed), 2);
    assert_eq!(replicas(&attempt.fixture).await.len(), 1);
    assert_eq!(attempt.agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
}

#[tokio::test]
async fn creations_that_arrive_after_the_end_are_found_and_removed() {
    let Attempt { proxy, fixture, agent, _controllers, _snapshots } = an_attempt_over(Creations::Late, "2s").await;
    let failed = fixture.wait_for_phase("nightly", Phase::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "SnapshotFailed");
    assert!(proxy.asked.load(Ordering::Relaxed) > 1, "it was asked for again");
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend, Told::Release]);
    assert_eq!(replicas(&fixture).await.len(), 0, "none has arrived yet");
    let arrived = tokio::spawn({
        let client = fixture.client.clone();
        let namespace = fixture.namespace.clone();
        async move { seen(client, &namespace).await }
    });
    proxy.let_arrive();
    arrived.await.expect("it arrives");
    assert_no_replica_is_left(&fixture).await;
}
