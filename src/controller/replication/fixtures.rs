//! What several tests of the replications begin with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::events::Events;
use super::places::Places;
use super::runs::{Context, Taken};
use crate::controller::leadership::Tenure;
use crate::controller::sessions::Sessions;

/// What runs are given, by a controller that leads for ever.
pub fn context(client: Client, config: Config) -> Context {
    Context {
        events: Events::start(client.clone(), config.instance.clone()),
        client,
        sessions: Sessions::default(),
        tenure: Tenure::new(watch::channel(Instant::now()).1, Duration::MAX),
        places: Places::new(config.max_runs),
        config: Arc::new(config),
        taken: Taken::default(),
        started: Instant::now(),
        shutdown: CancellationToken::new(),
    }
}
