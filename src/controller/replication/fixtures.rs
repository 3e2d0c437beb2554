//! What several tests of the replications begin with.

use std::time::{Duration, Instant};

use kube::Client;
use stillpoint_core::run::driver::Settings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::reserved::Reserved;
use super::shell::Context;
use crate::controller::cluster::Cluster;
use crate::controller::leadership::Tenure;
use crate::controller::sessions::Sessions;

/// What runs are given, by a controller that leads for ever in this epoch.
pub fn context(client: Client, epoch: u64) -> Context {
    Context {
        cluster: Cluster::new(client.clone()),
        events: Events::start(client.clone(), "test".to_owned()),
        client,
        sessions: Sessions::default(),
        settings: Settings { epoch, hold_ceiling: Duration::from_secs(30) },
        tenure: Tenure::new(watch::channel(Instant::now()).1, Duration::MAX),
        reserved: Reserved::default(),
        started: Instant::now(),
        shutdown: CancellationToken::new(),
    }
}
