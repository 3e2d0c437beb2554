//! Replications: the shell around the decisions of [`stillpoint_core::run`].
//!
//! [`supervisor`] follows all objects and starts who has a turn, [`shell`] carries out what the driver of one replication
//! decides and tells it what happened, [`requests`] and [`storage`] speak with the API server, [`sweeper`] removes what turns
//! up after its attempt was voided, [`events`] tells people. Nothing here decides.

mod events;
#[cfg(test)]
mod fixtures;
mod removal;
mod requests;
mod reserved;
mod shell;
mod storage;
mod supervisor;
mod sweeper;

use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::leadership::Tenure;
use super::sessions::Sessions;

/// What the controller's operator configures.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest `holdTimeout` that a replication may ask for.
    pub hold_ceiling: Duration,
    /// Replications that need their agents at the same time; others wait in `Pending`.
    pub max_runs: usize,
    /// The controller's own namespace, in which the node agents run.
    pub namespace: String,
    /// The name of this controller's pod, as the reporter of Kubernetes Events.
    pub instance: String,
}

/// Works on all replications of the cluster until `shutdown` is cancelled; returns when every run has resumed its writes.
/// What fails is tried again.
pub async fn run(client: Client, sessions: Sessions, config: Config, tenure: Tenure, shutdown: CancellationToken) {
    let cluster = Cluster::new(client.clone(), &config.namespace);
    let every_replica = cluster.every_replica();
    let context = shell::Context {
        cluster,
        events: events::Events::start(client.clone(), config.instance),
        client: client.clone(),
        sessions,
        tenure,
        hold_ceiling: config.hold_ceiling,
        reserved: reserved::Reserved::default(),
        started: std::time::Instant::now(),
        shutdown,
    };
    let (sweeper, sweeping) = sweeper::start(client, every_replica);
    supervisor::Supervisor::new(context, config.max_runs, sweeper).follow().await;
    sweeping.abort();
}
