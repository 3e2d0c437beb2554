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
use super::state::Request;
use crate::api::{DeletionPolicy, Mode};
use crate::controller::leadership::Tenure;
use crate::controller::sessions::Sessions;

/// A request with the API's default timeouts, without another attempt.
pub fn request() -> Request {
    Request {
        name: "nightly".into(),
        namespace: "shop".into(),
        uid: "uid".into(),
        generation: Some(1),
        mode: Mode::Replicate,
        prepare_timeout: Duration::from_secs(30),
        hold_timeout: Duration::from_secs(10),
        deletion_policy: DeletionPolicy::Delete,
        retry: None,
        owner: None,
        epoch: 1,
    }
}

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
