//! How the controller speaks to the API server: with a limit of time, and passing on what it said as one sentence.

use std::time::Duration;

use anyhow::Context as _;
use kube::core::Status;

/// A request with a limit of time.
///
/// # Errors
/// When it fails, or takes longer.
pub async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(limit, request).await.context("the API server did not answer in time")?;
    answer.map_err(|error| anyhow::anyhow!(sentence(&error)))
}

/// The same; `None`: the API server does not have what is asked for.
///
/// # Errors
/// When it fails otherwise, or takes longer.
pub async fn within_if_there<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> anyhow::Result<Option<T>> {
    let there = async {
        match request.await {
            Err(kube::Error::Api(status)) if is_absent(&status) => Ok(None),
            answer => answer.map(Some),
        }
    };
    within(limit, there).await
}

/// Whether the API server does not have it: of a resource that nobody serves it says so in plain text, without the reason that
/// [`Status::is_not_found`] looks for.
pub fn is_absent(status: &Status) -> bool {
    status.code == 404
}

/// What the API server said, without the fields of its answer that the sentence repeats.
pub fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}
