//! The session server end to end in one process: real TCP, TLS and gRPC; only the API server's answer is made up. The
//! "token" that a test's agent sends is its pod's UID.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, Streaming};

use super::*;
use crate::controller::certificates::{Authority, ServerCertificate, server_names};
use crate::rpc::sessions_client::SessionsClient;
use stillpoint_api::labels::TOKEN_AUDIENCE;
use stillpoint_core::limits::{
    MAX_NAMESPACE_SESSIONS, MAX_SESSIONS, MAX_UNPROVEN_CONNECTIONS, MAX_WIRE_MESSAGE, RUN_QUEUE, SESSION_QUEUE,
};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{AgentMessage, Attempt, ControllerMessage, Hello, Ready, Release, Released};

/// No step of these tests takes long; one that takes this long is stuck.
const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(what: F) -> F::Output {
    timeout(DEADLINE, what).await.expect("not within the deadline")
}

struct World {
    address: SocketAddr,
    authority: Authority,
    certificate: Arc<ServerCertificate>,
    sessions: Sessions,
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let authority = Authority::generate(SystemTime::now()).expect("a CA");
        let names = server_names("stillpoint-controller", "stillpoint-system");
        let certificate = ServerCertificate::issue(&authority, names, SystemTime::now()).expect("a certificate");
        let tls = certificate.tls_config().expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sessions, stop) = (Sessions::default(), CancellationToken::new());
        let mut config = Config::new(Arc::new(|token| async move { Ok(review_of(&token)) }.boxed()));
        change(&mut config);
        let server = tokio::spawn(serve(listener, tls, sessions.clone(), config, stop.clone()));
        Self { address, authority, certificate, sessions, stop, server }
    }

    async fn channel(&self, authority: &Authority) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.certificate_pem()))
            .domain_name("stillpoint-controller.stillpoint-system.svc");
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).expect("an address");
        endpoint.tls_config(tls).expect("TLS").connect().await
    }

    /// Opens a stream with this `authorization`, and says nothing.
    async fn open(&self, authorization: Option<&str>) -> Result<Agent, Status> {
        let channel = soon(self.channel(&self.authority)).await.expect("a connection");
        self.open_on(channel, authorization).await
    }

    async fn open_on(&self, channel: Channel, authorization: Option<&str>) -> Result<Agent, Status> {
        let (reports, outbound) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outbound));
        if let Some(authorization) = authorization {
            request.metadata_mut().insert("authorization", authorization.parse().expect("a header value"));
        }
        let commands = soon(SessionsClient::new(channel).open(request)).await?.into_inner();
        Ok(Agent { reports, commands })
    }

    /// Opens a session that can be used.
    async fn connect(&self, pod_uid: &str) -> Agent {
        let mut listener = self.sessions.attach("nothing", [key(pod_uid)]);
        let opened = self.open(Some(&format!("Bearer {pod_uid}"))).await.expect("a session");
        opened.say(hello()).await;
        while soon(listener.recv()).await.expect("an event") != connected(pod_uid) {}
        opened
    }
}

struct Agent {
    reports: mpsc::Sender<AgentMessage>,
    commands: Streaming<ControllerMessage>,
}

impl Agent {
    async fn say(&self, report: Report) {
        soon(self.reports.send(AgentMessage { report: Some(report) })).await.expect("an open stream");
    }

    /// How the session ended: no command may come before.
    async fn end(&mut self) -> Status {
        soon(self.commands.message()).await.expect_err("the end of the session")
    }
}

fn review_of(token: &str) -> TokenReviewStatus {
    let bound = |pod_uid: &str| {
        BTreeMap::from([
            ("authentication.kubernetes.io/pod-name".to_owned(), vec![format!("pod-{pod_uid}")]),
            ("authentication.kubernetes.io/pod-uid".to_owned(), vec![pod_uid.to_owned()]),
        ])
    };
    TokenReviewStatus {
        authenticated: Some(token != "expired"),
        audiences: Some(vec![if token == "other-audience" { "other" } else { TOKEN_AUDIENCE }.to_owned()]),
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:default".to_owned()),
            extra: (token != "unbound").then(|| bound(token)),
            ..UserInfo::default()
        }),
        error: None,
    }
}

fn hello() -> Report {
    Report::Hello(Hello { version: "1".to_owned(), kernel: "6.12".to_owned() })
}

fn attempt(replication_uid: &str) -> Option<Attempt> {
    Some(Attempt { epoch: 7, replication_uid: replication_uid.to_owned(), number: 1, member: "claim".to_owned() })
}

fn ready(replication_uid: &str) -> Report {
    Report::Ready(Ready { attempt: attempt(replication_uid), round: 1, suspended_us: 5 })
}

fn release(replication_uid: &str) -> ControllerMessage {
    ControllerMessage { command: Some(Command::Release(Release { attempt: attempt(replication_uid) })) }
}

fn key(pod_uid: &str) -> AgentKey {
    AgentKey::of_pod(pod_uid)
}

fn lost(pod_uid: &str) -> AgentEvent {
    AgentEvent::Lost { agent: key(pod_uid) }
}

fn connected(pod_uid: &str) -> AgentEvent {
    AgentEvent::Connected { agent: key(pod_uid) }
}

#[tokio::test]
async fn commands_and_reports_travel() {
    let world = World::start().await;
    let mut run = world.sessions.attach("run", [key("pod")]);
    let mut other = world.sessions.attach("other run", [key("other pod")]);
    let mut agent = world.connect("pod").await;
    assert!(world.sessions.connected(&key("pod")));
    assert_eq!(soon(run.recv()).await, Some(connected("pod")));

    world.sessions.send(&key("pod"), release("run")).expect("a session");
    assert_eq!(soon(agent.commands.message()).await.expect("a stream"), Some(release("run")));
    agent.say(ready("run")).await;
    let report = AgentEvent::Report { agent: key("pod"), report: ready("run") };
    assert_eq!(soon(run.recv()).await, Some(report));

    drop(agent);
    assert_eq!(soon(run.recv()).await, Some(lost("pod")));
    assert!(!world.sessions.connected(&key("pod")));
    assert_eq!(world.sessions.send(&key("pod"), release("run")), Err(SendError::NoSession));
    // The other run hears of its own members' pods, and of nothing that came before.
    let _other_agent = world.connect("other pod").await;
    assert_eq!(soon(other.recv()).await, Some(connected("other pod")));
}

#[tokio::test]
async fn who_cannot_prove_to_be_a_pods_agent_is_refused() {
    let world = World::start().await;
    let table = [
        (None, Code::Unauthenticated, "has no token"),
        (Some("Basic pod"), Code::Unauthenticated, "has no token"),
        (Some("Bearer "), Code::Unauthenticated, "has no token"),
        (Some("Bearer expired"), Code::Unauthenticated, "does not accept the token"),
        (Some("Bearer other-audience"), Code::PermissionDenied, "audience"),
        (Some("Bearer unbound"), Code::PermissionDenied, "not bound to a pod"),
    ];
    for (authorization, code, sentence) in table {
        let status = world.open(authorization).await.err().expect("a refusal");
        assert_eq!(status.code(), code, "{authorization:?}: {status}");
        assert!(status.message().contains(sentence), "{authorization:?}: {status}");
    }
}

#[tokio::test]
async fn without_an_answer_of_the_api_server_there_is_no_session() {
    let world = World::start_with(|config| {
        config.review = Arc::new(|_| async { Err("connection refused".to_owned()) }.boxed());
    });
    let status = world.await.open(Some("Bearer pod")).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("connection refused"), "{status}");
}

#[tokio::test]
async fn an_agent_trusts_only_its_ca() {
    let world = World::start().await;
    let stranger = Authority::generate(SystemTime::now()).expect("a CA");
    soon(world.channel(&stranger)).await.expect_err("a refused certificate");
    soon(world.channel(&world.authority)).await.expect("a trusted certificate");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let world = World::start().await;
    let mut agent = world.connect("pod").await;
    // Issued by another CA, so that it can be told from the first.
    let next = Authority::generate(SystemTime::now()).expect("a CA");
    soon(world.channel(&next)).await.expect_err("not yet");
    world.certificate.renew(&next, SystemTime::now()).expect("a certificate");
    soon(world.channel(&next)).await.expect("the new certificate");
    soon(world.channel(&world.authority)).await.expect_err("the old certificate is not shown any more");
    world.sessions.send(&key("pod"), release("run")).expect("the session from before");
    assert_eq!(soon(agent.commands.message()).await.expect("a stream"), Some(release("run")));
}

#[tokio::test]
async fn a_new_session_of_a_pod_replaces_the_old() {
    let world = World::start().await;
    let mut run = world.sessions.attach("run", [key("pod")]);
    let mut old = world.connect("pod").await;
    let mut new = world.connect("pod").await;
    for expected in [connected("pod"), lost("pod"), connected("pod")] {
        assert_eq!(soon(run.recv()).await, Some(expected));
    }
    assert_eq!(old.end().await.code(), Code::Aborted);
    drop(old);
    // The end of the old one, which the server sees now, is none of the new one.
    world.sessions.send(&key("pod"), release("run")).expect("the new session");
    assert_eq!(soon(new.commands.message()).await.expect("a stream"), Some(release("run")));
    new.say(ready("run")).await;
    let report = AgentEvent::Report { agent: key("pod"), report: ready("run") };
    assert_eq!(soon(run.recv()).await, Some(report));
}

/// Connections of a server that are open, as the kernel says.
fn open_connections(server: SocketAddr) -> usize {
    let established = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&format!(":{:04X}", server.port())) && fields[3] == "01"
    };
    std::fs::read_to_string("/proc/self/net/tcp").expect("connections").lines().filter(established).count()
}

#[tokio::test]
async fn one_token_that_opens_session_after_session_keeps_one_connection() {
    let world = World::start().await;
    // More than one address may have without a session; and nobody lets go of any of them.
    let (mut channels, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..MAX_UNPROVEN_CONNECTIONS + 10 {
        // One that comes before the earlier ones are let go may be refused.
        let channel = soon(async {
            loop {
                if let Ok(channel) = world.channel(&world.authority).await {
                    return channel;
                }
            }
        })
        .await;
        sessions.push(world.open_on(channel.clone(), Some("Bearer pod")).await.expect("a session"));
        channels.push(channel);
    }
    soon(async {
        while open_connections(world.address) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut last = sessions.pop().expect("the last one");
    last.say(hello()).await;
    soon(async {
        while world.sessions.send(&key("pod"), release("run")).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(soon(last.commands.message()).await.expect("a stream"), Some(release("run")));
}

#[tokio::test]
async fn hello_comes_first_and_once() {
    let world = World::start().await;
    let mut early = world.open(Some("Bearer early")).await.expect("a session");
    early.say(ready("run")).await;
    assert_eq!(early.end().await.code(), Code::FailedPrecondition);
    assert!(!world.sessions.connected(&key("early")));

    let mut twice = world.connect("twice").await;
    twice.say(hello()).await;
    assert_eq!(twice.end().await.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_silent_agent_is_sent_away() {
    let world = World::start_with(|config| config.hello_timeout = Duration::from_millis(50)).await;
    let mut agent = world.open(Some("Bearer pod")).await.expect("a session");
    assert_eq!(agent.end().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_flood_ends_its_session() {
    let world = World::start().await;
    let mut run = world.sessions.attach("run", [key("pod")]);
    let mut agent = world.connect("pod").await;
    let reports = agent.reports.clone();
    let flood = tokio::spawn(async move {
        let message = AgentMessage { report: Some(ready("run")) };
        while reports.send(message.clone()).await.is_ok() {}
    });
    assert_eq!(agent.end().await.code(), Code::ResourceExhausted);
    flood.abort();
    // No command made the pod a member of this run, so nothing of the flood reached it.
    assert_eq!(soon(run.recv()).await, Some(connected("pod")));
    assert_eq!(soon(run.recv()).await, Some(lost("pod")));
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_its_session() {
    let world = World::start().await;
    let mut agent = world.connect("pod").await;
    let reason = "x".repeat(MAX_WIRE_MESSAGE);
    agent.say(Report::Released(Released { attempt: attempt("run"), reason, ..Released::default() })).await;
    assert_eq!(agent.end().await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_connection_without_a_session_is_closed() {
    let world = World::start_with(|config| config.admission_timeout = Duration::from_millis(50)).await;
    let mut admitted = world.connect("pod").await;
    let mut roots = RootCertStore::empty();
    let pem = world.authority.certificate_pem();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a CA");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(world.address).await.expect("a connection");
    let name = ServerName::try_from("stillpoint-controller.stillpoint-system.svc").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut idle = soon(connector.connect(name, stream)).await.expect("TLS");
    // The server ends it, in order or not, after its own HTTP/2 preface.
    let _ = soon(idle.read_to_end(&mut Vec::new())).await;
    world.sessions.send(&key("pod"), release("run")).expect("the admitted session");
    assert_eq!(soon(admitted.commands.message()).await.expect("a stream"), Some(release("run")));
}

#[tokio::test]
async fn stopping_ends_every_session_with_try_again() {
    let world = World::start().await;
    let mut agent = world.connect("pod").await;
    world.stop.cancel();
    assert_eq!(agent.end().await.code(), Code::Unavailable);
    drop(agent);
    soon(world.server).await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_session_that_does_not_take_its_commands_is_closed() {
    let sessions = Sessions::default();
    let mut run = sessions.attach("run", [key("pod")]);
    let mut session = sessions.open("shop", &key("pod")).expect("room");
    assert_eq!(sessions.send(&key("pod"), release("run")), Err(SendError::NoSession), "before Hello");
    session.greet();
    session.greet();
    for _ in 0..SESSION_QUEUE {
        sessions.send(&key("pod"), release("run")).expect("room in the queue");
    }
    assert_eq!(sessions.send(&key("pod"), release("run")), Err(SendError::QueueFull));
    assert_eq!(sessions.send(&key("pod"), release("run")), Err(SendError::NoSession));
    assert_eq!(session.next().await, Err(SessionEnd::QueueFull));
    session.report(ready("run"));
    drop(session);
    drop(sessions.open("shop", &key("next pod")).expect("room"));
    let mut next = sessions.attach("run", [key("next pod")]);
    sessions.open("shop", &key("next pod")).expect("room").greet();
    for expected in [connected("next pod"), lost("next pod")] {
        assert_eq!(soon(next.recv()).await, Some(expected));
    }
    for expected in [connected("pod"), lost("pod")] {
        assert_eq!(soon(run.recv()).await, Some(expected));
    }
}

#[tokio::test]
async fn a_run_that_falls_behind_is_told_so() {
    let sessions = Sessions::default();
    let mut run = sessions.attach("run", [key("pod")]);
    let session = sessions.open("shop", &key("pod")).expect("room");
    session.greet();
    sessions.send(&key("pod"), release("run")).expect("a session");
    for _ in 0..RUN_QUEUE {
        session.report(ready("run"));
    }
    for _ in 0..RUN_QUEUE {
        assert!(soon(run.recv()).await.is_some());
    }
    assert_eq!(soon(run.recv()).await, None);
}

#[tokio::test]
async fn a_namespace_cannot_take_the_sessions_of_all() {
    let sessions = Sessions::default();
    let open = |namespace: &str, pod: usize| sessions.open(namespace, &key(&format!("{namespace}-{pod}")));
    let mut greedy: Vec<Session> = (0..MAX_NAMESPACE_SESSIONS).map(|pod| open("greedy", pod).expect("room")).collect();
    assert_eq!(open("greedy", MAX_NAMESPACE_SESSIONS).err(), Some(TooManySessions::OfNamespace));
    let _other = open("other", 0).expect("room for others");
    // A replaced session makes room for the one that replaces it, and an ended one for any.
    let _replacing = open("greedy", 0).expect("room");
    assert_eq!(open("greedy", MAX_NAMESPACE_SESSIONS).err(), Some(TooManySessions::OfNamespace));
    drop(greedy.pop());
    let _late = open("greedy", MAX_NAMESPACE_SESSIONS).expect("room");
}

#[tokio::test]
async fn the_sessions_of_all_namespaces_are_bounded() {
    let sessions = Sessions::default();
    let open = |pod: usize| sessions.open(&format!("namespace-{}", pod % 11), &key(&format!("pod-{pod}")));
    let _all: Vec<Session> = (0..MAX_SESSIONS).map(|pod| open(pod).expect("room")).collect();
    assert_eq!(open(MAX_SESSIONS).err(), Some(TooManySessions::InAll));
}

#[tokio::test]
async fn who_proves_nothing_cannot_use_up_the_room_from_one_address() {
    let world = World::start().await;
    let _admitted = world.connect("pod").await;
    let mut strangers = Vec::new();
    for _ in 0..MAX_UNPROVEN_CONNECTIONS {
        strangers.push(soon(world.channel(&world.authority)).await.expect("room"));
    }
    soon(world.channel(&world.authority)).await.expect_err("no room for another one that proved nothing");
    drop(strangers);
    // Its room is given back once the server has seen the end of a connection.
    while soon(world.channel(&world.authority)).await.is_err() {}
}
