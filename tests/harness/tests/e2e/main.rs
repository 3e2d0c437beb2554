//! End-to-end tests on a real cluster: `make e2e` brings one up, installs Stillpoint and runs them.
//!
//! Every test has a namespace of its own and takes it away again. A few run at a time: more would make the disk so busy that
//! the measured stalls say nothing.

mod blockers;
mod disturbed;
mod ends;
mod existing;
mod faults;
mod happy;
mod restore;

use anyhow::Result;
use harness::cluster::Cluster;
use harness::installed;
use harness::namespace::Place;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

const TOGETHER: usize = 3;

/// Runs a test in a namespace of its own. Without a cluster it fails and says how to get one: a test that was not run has not
/// passed.
fn on_cluster(purpose: &str, test: impl AsyncFnOnce(&Place) -> Result<()>) -> Result<()> {
    static TURNS: Semaphore = Semaphore::const_new(TOGETHER);
    Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let _turn = TURNS.acquire().await?;
        let cluster = Cluster::connect().await?;
        installed::check(&cluster).await?;
        Place::with(&cluster, purpose, test).await
    })
}
