//! The end that Kubernetes asks for.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Listens for SIGTERM and SIGINT from now on; the future ends when one comes. A process that is the first of its pid
/// namespace has no default action for them (pid_namespaces(7)), so without this a container would be killed only after its
/// grace period.
///
/// # Errors
/// The handlers cannot be set up.
pub fn listen() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
