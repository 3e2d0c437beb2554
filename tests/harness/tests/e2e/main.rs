//! End-to-end tests on a real cluster: `tests/cluster/cluster up`, images loaded, KUBECONFIG set.
//!
//! Every test has a namespace of its own and takes it away again. One runs at a time, because they measure how long writes
//! stall.

mod blockers;
mod ends;
mod faults;
mod happy;

use std::sync::OnceLock;

use anyhow::Result;
use harness::cluster::Cluster;
use harness::install::install;
use harness::namespace::Place;
use tokio::runtime::Builder;
use tokio::sync::Mutex;

/// Runs a test in a namespace of its own. Without a cluster it fails and says how to get one: a test that was not run has not
/// passed.
fn on_cluster(purpose: &str, test: impl AsyncFnOnce(&Place) -> Result<()>) -> Result<()> {
    static TURN: OnceLock<Mutex<bool>> = OnceLock::new();
    Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut installed = TURN.get_or_init(|| Mutex::new(false)).lock().await;
        let cluster = Cluster::connect().await?;
        if !*installed {
            install(&cluster).await?;
            *installed = true;
        }
        Place::with(&cluster, purpose, test).await
    })
}
