//! What every call needs, and how calls leave the asynchronous threads.

use tonic::Status;

use crate::error::Error;
use crate::state::Store;
use crate::tools::Tools;

/// The driver of one node.
#[derive(Debug)]
pub struct Driver {
    /// The node's name.
    pub node: String,
    /// Its volumes and snapshots.
    pub store: Store,
    /// Its filesystem tools.
    pub tools: Tools,
}

/// Runs `work`, which may block, to its end, even if the caller gives up waiting meanwhile: half a mount would be worse
/// than one nobody waits for.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Status> {
    let done = match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Status::from),
        Err(error) => Err(Status::internal(format!("the call ended abnormally: {error}"))),
    };
    done.inspect_err(|status| tracing::warn!(code = ?status.code(), "{}", status.message()))
}
