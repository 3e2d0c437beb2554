//! What several tests of the replications begin with.

use std::time::{Duration, Instant};

use kube::Client;
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
        cluster: Cluster::new(client.clone(), "stillpoint-system"),
        events: Events::start(client.clone(), "test".to_owned()),
        client,
        sessions: Sessions::default(),
        hold_ceiling: Duration::from_secs(30),
        tenure: tenure(epoch, Duration::MAX),
        reserved: Reserved::default(),
        started: Instant::now(),
        shutdown: CancellationToken::new(),
    }
}

/// The tenure of a leader in this epoch that was renewed just now.
pub fn tenure(epoch: u64, lasts: Duration) -> Tenure {
    Tenure::new(watch::channel(Instant::now()).1, lasts, watch::channel(epoch).1, watch::Sender::new(0))
}
