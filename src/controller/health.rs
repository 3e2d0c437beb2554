//! Tells the kubelet over plain HTTP whether the controller lives (`/healthz`) and can take sessions (`/readyz`).

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The API server has not yet given the CA, or taken a new one. Sessions are not served before.
    WaitingForAuthority,
    /// Agents can open sessions.
    Ready,
}

impl Stage {
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::WaitingForAuthority => {
                (StatusCode::SERVICE_UNAVAILABLE, "waiting for the API server to give or take the CA\n")
            }
            Self::Ready => (StatusCode::OK, "ready\n"),
        }
    }
}

/// Serves until the listener fails.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, stage: watch::Receiver<Stage>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async move || stage.borrow().answer()));
    axum::serve(listener, routes).await
}
