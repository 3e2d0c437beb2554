//! A way to the API server on which answers get lost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Bytes of one request. etcd refuses more.
const LARGEST: usize = 4 * 1024 * 1024;

/// What becomes of the requests that create snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creations {
    /// They are carried out, and the connection breaks before the answer.
    Unanswered,
    /// The first one is answered as by an API server that has just lost its etcd leader, and has no effect.
    FailsOnce,
    /// They wait on the way, and the connection breaks; they arrive when the test says so.
    Late,
}

/// A proxy with a kubeconfig that leads through it.
pub struct Proxy {
    pub kubeconfig: PathBuf,
    /// Requests for snapshots so far.
    pub asked: Arc<AtomicUsize>,
    arrive: watch::Sender<bool>,
}

impl Proxy {
    /// Starts.
    pub async fn start(client: Client, creations: Creations) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let (arrive, arrived) = watch::channel(creations != Creations::Late);
        let routes = Router::new().fallback({
            let asked = Arc::clone(&asked);
            move |request: Request| {
                let (client, asked, mut arrived) = (client.clone(), Arc::clone(&asked), arrived.clone());
                async move {
                    let tries = request.uri().query().is_some_and(|query| query.contains("dryRun"));
                    let creates = request.method() == Method::POST
                        && request.uri().path().ends_with("/volumesnapshots")
                        && !tries;
                    if !creates {
                        return forward(&client, request).await;
                    }
                    let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                    if creations == Creations::FailsOnce {
                        return if first { leader_changed() } else { forward(&client, request).await };
                    }
                    tokio::spawn(async move {
                        arrived.wait_for(|arrived| *arrived).await.expect("the test goes on");
                        forward(&client, request).await
                    });
                    // Nothing more is sent on this connection.
                    panic!("the answer is lost");
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { kubeconfig: kubeconfig(address), asked, arrive }
    }

    /// Lets what waits on the way arrive.
    pub fn let_arrive(&self) {
        self.arrive.send_replace(true);
    }
}

fn leader_changed() -> Response {
    let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
        "message": "etcdserver: leader changed", "reason": "InternalError"}"#;
    Response::builder()
        .status(500)
        .header("content-type", "application/json")
        .body(Body::from(status))
        .expect("an answer")
}

async fn forward(client: &Client, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST).await.expect("a body").to_vec();
    // The host is the proxy's; the client puts the API server's in its place.
    parts.headers.remove("host");
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body));
    let answer = client.send(request).await.expect("the API server answers");
    answer.map(Body::new)
}

fn kubeconfig(address: SocketAddr) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}.kubeconfig", address.port()));
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: proxy,\n\
         clusters: [{{name: proxy, cluster: {{server: 'http://{address}'}}}}],\n\
         users: [{{name: proxy, user: {{}}}}],\n\
         contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]}}\n"
    );
    std::fs::write(&path, text).expect("a file of the test's own");
    path
}
