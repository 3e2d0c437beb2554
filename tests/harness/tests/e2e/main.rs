//! End-to-end tests on a real cluster: `make e2e` brings one up, installs Stillpoint and runs them.
//!
//! Every test has a namespace of its own and takes it away again. One runs at a time, because they measure how long writes
//! stall.

mod blockers;
mod ends;
mod faults;
mod happy;

use anyhow::Result;
use harness::cluster::Cluster;
use harness::installed;
use harness::namespace::Place;
use tokio::runtime::Builder;
use tokio::sync::Mutex;

/// Runs a test in a namespace of its own. Without a cluster it fails and says how to get one: a test that was not run has not
/// passed.
fn on_cluster(purpose: &str, test: impl AsyncFnOnce(&Place) -> Result<()>) -> Result<()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let _turn = TURN.lock().await;
        let cluster = Cluster::connect().await?;
        installed::check(&cluster).await?;
        Place::with(&cluster, purpose, test).await
    })
}
