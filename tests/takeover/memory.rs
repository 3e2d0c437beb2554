//! What a controller needs of memory when users are many, or careless.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use rustix::process::Signal;
use serde_json::json;
use stillpoint_api::{ConsistencyGroupReplication, Phase};
use stillpoint_core::limits::CONTROLLER_BASE;

use crate::fixture::Fixture;
use crate::objects::bound_claim;
use crate::processes::{Controllers, Replica};

/// Objects of each kind. Their whole content is several times as large as what a controller may need.
const RUNS: usize = 300;
const PODS: usize = 1_500;
/// Objects that are made at the same time.
const TOGETHER: usize = 8;

fn assert_small(replica: &Replica, when: &str) {
    let (now, most) = replica.resident();
    println!("{when}: {} MB resident, {} MB at the most", now / 1_000_000, most / 1_000_000);
    assert!(most < CONTROLLER_BASE, "{when}: {most} bytes were resident");
}

async fn make<T: Future>(all: impl Iterator<Item = T>) {
    stream::iter(all).buffer_unordered(TOGETHER).for_each(|_| async {}).await;
}

async fn ended(fixture: &Fixture) -> usize {
    let all = fixture.api::<ConsistencyGroupReplication>().list(&ListParams::default()).await.expect("a list");
    all.items
        .iter()
        .filter(|run| run.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_final))
        .count()
}

#[tokio::test]
#[ignore = "takes a minute; `make control-plane` runs it"]
async fn large_objects_of_one_tenant_do_not_fill_a_controller() {
    let mut controllers = Controllers::start(&[None, None]).await;
    let fixture = controllers.fixture("large").await;
    bound_claim(&fixture, "data").await;
    let claim = |run: usize, number: usize| format!("{:x<243}", format!("claim-{run}-{number}-"));
    make((0..RUNS).map(|run| {
        let names: Vec<String> = (0..100).map(|number| claim(run, number)).collect();
        let name = format!("large-{run}");
        let fixture = &fixture;
        async move {
            fixture.replicate(&name, json!({"source": {"persistentVolumeClaimNames": names}, "mode": "Check"})).await
        }
    }))
    .await;
    make((0..PODS).map(|number| {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{number}"), "annotations": {"large": "x".repeat(8 * 1024)}},
            "spec": {
                "schedulingGates": [{"name": "example.com/never"}],
                "containers": [{"name": "application", "image": "application"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("claim-{number}")}}],
            },
        }))
        .expect("a pod");
        let pods = fixture.api::<Pod>();
        async move { pods.create(&PostParams::default(), &pod).await.expect("the API server accepts the pod") }
    }))
    .await;
    while ended(&fixture).await < RUNS {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_small(&controllers.replicas[0], "after the runs");
    // The next leader finds all of them at its start.
    let first = controllers.replicas.remove(0);
    first.signal(Signal::KILL);
    controllers.wait_for_leader(0).await;
    let check = json!({"source": {"persistentVolumeClaimNames": ["data"]}, "mode": "Check"});
    fixture.replicate("others", check).await;
    fixture.wait_for_phase("others", Phase::Done).await;
    assert_small(&controllers.replicas[0], "the next leader");
}
