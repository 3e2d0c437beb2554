//! Replications: observe, plan, execute.
//!
//! [`observe`] reads Kubernetes and hears agents, [`plan`] decides without IO and without a clock, [`execute`] is the only
//! place that acts, [`status`] writes what users see. [`runs`] turns the wheel for one replication, [`supervise`]
//! starts the runs, as many as [`places`] has room for, [`late`] removes what turns up after its attempt was voided.

mod events;
mod execute;
#[cfg(test)]
mod fixtures;
mod late;
mod observe;
mod places;
mod runs;
mod status;
mod supervise;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::leadership::Tenure;
use super::sessions::Sessions;

/// What the controller's operator configures.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest `holdTimeout` that a replication may ask for.
    pub hold_ceiling: Duration,
    /// Replications that need their agents at the same time; others wait in `Pending`.
    pub max_runs: usize,
    /// Rises with every new leader among the controllers. Agents refuse commands of an older one.
    pub epoch: u64,
    /// The name of this controller's pod, as the reporter of Kubernetes Events.
    pub instance: String,
}

/// Works on all replications of the cluster until `shutdown` is cancelled; returns when every run has given writes back.
/// What fails is tried again.
pub async fn run(client: Client, sessions: Sessions, config: Config, tenure: Tenure, shutdown: CancellationToken) {
    let (endings, voided) = late::Endings::new();
    let sweeper = tokio::spawn(late::sweep(client.clone(), endings.clone(), voided));
    let context = runs::Context {
        events: events::Events::start(client.clone(), config.instance.clone()),
        client,
        sessions,
        tenure,
        places: places::Places::new(config.max_runs),
        config: Arc::new(config),
        taken: runs::Taken::default(),
        started: Instant::now(),
        shutdown,
    };
    supervise::Supervisor::new(context, endings).follow().await;
    sweeper.abort();
}
