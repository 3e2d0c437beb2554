//! The end that Kubernetes asks for.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Returns when SIGTERM or SIGINT comes. A process that is the first of its pid namespace has no default action for them
/// (pid_namespaces(7)), so without this a container would be killed only after its grace period.
///
/// # Errors
/// The handlers cannot be set up.
pub async fn requested() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
