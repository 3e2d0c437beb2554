//! A controller's end of the sessions, over real TLS, that says what the test tells it to say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stillpoint::rpc::sessions_server::{Sessions, SessionsServer};
use stillpoint_core::wire;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// What an agent must prove itself with.
pub const TOKEN: &str = "a token";
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that agents open sessions with.
pub struct Controller {
    /// Where agents reach it.
    pub address: String,
    /// The certificate that its agents trust.
    pub ca_file: PathBuf,
    /// Holds [`TOKEN`].
    pub token_file: PathBuf,
    sessions: mpsc::Receiver<Session>,
}

/// One agent's session. Dropping it ends it.
pub struct Session {
    commands: mpsc::Sender<Result<wire::ControllerMessage, Status>>,
    reports: Streaming<wire::AgentMessage>,
}

impl Controller {
    /// Listens; the files for its agents go into the directory.
    pub async fn start(directory: &Path) -> Self {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (ca_file, token_file) = (directory.join("ca.crt"), directory.join("token"));
        std::fs::write(&ca_file, certificate.cert.pem()).unwrap();
        std::fs::write(&token_file, TOKEN).unwrap();
        let identity = Identity::from_pem(certificate.cert.pem(), certificate.signing_key.serialize_pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (opened, sessions) = mpsc::channel(8);
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .unwrap()
            .add_service(SessionsServer::new(Service { opened }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { address, ca_file, token_file, sessions }
    }

    /// Waits for the next session of an agent, and its Hello.
    pub async fn session(&mut self) -> Session {
        let mut session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("no session").unwrap();
        assert!(matches!(session.hear().await, Report::Hello(_)), "Hello comes first");
        session
    }
}

impl Session {
    /// Commands the agent.
    pub async fn say(&self, command: Command) {
        self.commands.send(Ok(wire::ControllerMessage { command: Some(command) })).await.unwrap();
    }

    /// Ends the stream from the controller's side.
    pub fn end(&mut self) {
        self.commands = mpsc::channel(1).0;
    }

    /// Waits for what the agent says next.
    pub async fn hear(&mut self) -> Report {
        let message = tokio::time::timeout(PATIENCE, self.reports.message()).await.expect("no answer");
        message.unwrap().expect("the agent ended the session").report.unwrap()
    }
}

struct Service {
    opened: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl Sessions for Service {
    type OpenStream = ReceiverStream<Result<wire::ControllerMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if bearer != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("wrong token"));
        }
        let (commands, outgoing) = mpsc::channel(8);
        self.opened.send(Session { commands, reports: request.into_inner() }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
