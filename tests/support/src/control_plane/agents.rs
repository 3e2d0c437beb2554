//! Agents that speak the real protocol over the real session, and answer as a test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use stillpoint::rpc::sessions_client::SessionsClient;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{
    AgentMessage, Attempt, Blocker, ControllerMessage, Hello, NotReady, Prepared, Protection, Ready, Released, Waiting,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status, Streaming};

use super::fixture::Fixture;
use super::objects::agent_token;

/// How an agent answers.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Ready, and holds until it is released.
    Clean,
    /// Answers Prepare with these blockers, for good.
    Blocked(Vec<Blocker>),
    /// Answers Prepare with these blockers, and goes on looking.
    Waits(Vec<Blocker>),
    /// Never answers Suspend.
    SilentWhenSuspended,
    /// Answers Prepare, and nothing after that, as if it were stopped.
    Stopped,
    /// Holds, but cannot say so at release.
    Breaks,
    /// Holds, and never answers Release.
    SilentWhenReleased,
}

/// What an agent was told, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To prepare.
    Prepare,
    /// To suspend.
    Suspend,
    /// To release.
    Release,
}

/// A command, and the epoch of the leader that sent it.
#[derive(Clone, Debug)]
struct Heard {
    command: Command,
    epoch: u64,
}

/// A connected agent, with a session to every controller.
pub struct FakeAgent {
    behaviour: Arc<Mutex<Behaviour>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    sessions: Mutex<Vec<Session>>,
}

struct Session {
    reports: mpsc::Sender<AgentMessage>,
    task: JoinHandle<()>,
}

impl FakeAgent {
    /// Opens sessions as the agent of a pod.
    pub async fn connect(fixture: &Fixture, pod: &Pod, behaviour: Behaviour) -> Self {
        let token = agent_token(fixture, pod).await;
        let (bundle, bearer) = (fixture.published_ca().await, format!("Bearer {token}"));
        let (behaviour, heard) = (Arc::new(Mutex::new(behaviour)), Arc::default());
        let mut sessions = Vec::new();
        for controller in &fixture.controllers {
            let channel = dial(fixture, *controller, &bundle).await.expect("the controller listens");
            let conversation = open(channel, Some(&bearer)).await.expect("the session is accepted");
            sessions.push(obey(conversation, Arc::clone(&behaviour), Arc::clone(&heard)));
        }
        Self { behaviour, heard, sessions: Mutex::new(sessions) }
    }

    /// What it was told so far, by whomever.
    pub fn told(&self) -> Vec<Told> {
        self.heard().iter().map(|heard| kind(&heard.command)).collect()
    }

    /// What it was told so far by the leader of this turn.
    pub fn told_in(&self, epoch: u64) -> Vec<Told> {
        self.heard().iter().filter(|heard| heard.epoch == epoch).map(|heard| kind(&heard.command)).collect()
    }

    /// From now on it answers so.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("no panic inside") = behaviour;
    }

    /// Says to everybody what a clean agent would have answered to the last command.
    pub async fn answer_after_all(&self) {
        let last = self.heard().last().cloned().expect("a command");
        let report = answer(&Behaviour::Clean, last.command).expect("a clean agent answers everything");
        let sessions =
            self.sessions.lock().expect("no panic inside").iter().map(|it| it.reports.clone()).collect::<Vec<_>>();
        for reports in sessions {
            say(&reports, report.clone()).await;
        }
    }

    /// Ends the sessions, as if the agent had died.
    pub fn die(&self) {
        for session in self.sessions.lock().expect("no panic inside").drain(..) {
            session.task.abort();
        }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic inside").clone()
    }
}

/// What an agent says, and what it is told.
pub type Conversation = (mpsc::Sender<AgentMessage>, Streaming<ControllerMessage>);

/// Opens a session with the first controller with this `authorization`, and says Hello.
pub async fn open_session(fixture: &Fixture, authorization: Option<&str>) -> Result<Conversation, Status> {
    let channel = connect(fixture, &fixture.published_ca().await).await.expect("the controller listens");
    open(channel, authorization).await
}

/// Connects to the first controller as somebody who trusts these certificates.
pub async fn connect(fixture: &Fixture, bundle: &str) -> Result<Channel, tonic::transport::Error> {
    dial(fixture, fixture.controllers[0], bundle).await
}

async fn dial(fixture: &Fixture, controller: SocketAddr, bundle: &str) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(bundle))
        .domain_name(format!("stillpoint-controller.{}.svc", fixture.system));
    let endpoint = Channel::from_shared(format!("https://{controller}")).expect("an address");
    endpoint.tls_config(tls).expect("TLS").connect().await
}

async fn open(channel: Channel, authorization: Option<&str>) -> Result<Conversation, Status> {
    let (reports, outgoing) = mpsc::channel(16);
    let hello = Hello { version: "test".to_owned(), kernel: "test".to_owned() };
    say(&reports, Report::Hello(hello)).await;
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().expect("a header"));
    }
    Ok((reports, SessionsClient::new(channel).open(request).await?.into_inner()))
}

/// Answers whatever it is told, as it behaves now.
fn obey(
    (reports, mut commands): Conversation,
    behaviour: Arc<Mutex<Behaviour>>,
    heard: Arc<Mutex<Vec<Heard>>>,
) -> Session {
    let task = tokio::spawn({
        let reports = reports.clone();
        async move {
            while let Ok(Some(message)) = commands.message().await {
                let Some(command) = message.command else { continue };
                let epoch = attempt(&command).map_or(0, |attempt| attempt.epoch);
                heard.lock().expect("no panic inside").push(Heard { command: command.clone(), epoch });
                let behaviour = behaviour.lock().expect("no panic inside").clone();
                if let Some(report) = answer(&behaviour, command) {
                    say(&reports, report).await;
                }
            }
        }
    });
    Session { reports, task }
}

/// A lock of a process, as an agent would report it.
pub fn lock_blocker(path: &str) -> Blocker {
    Blocker {
        reason: "LockHeld".to_owned(),
        message: format!("process 7 (writer) holds a POSIX WRITE lock on bytes 0-99 of {path}"),
        container_id: "ab".repeat(32),
        pid: 7,
        process: "writer".to_owned(),
        lock: Some(stillpoint_core::wire::Lock {
            kind: "POSIX".to_owned(),
            mode: "WRITE".to_owned(),
            start: 0,
            end: Some(99),
        }),
        path: path.to_owned(),
        seen_us: 1_000,
        epoch: 0,
    }
}

/// Sends a report.
pub async fn say(reports: &mpsc::Sender<AgentMessage>, report: Report) {
    // The controller may have ended the session; then there is nobody to tell.
    let _ = reports.send(AgentMessage { report: Some(report) }).await;
}

fn kind(command: &Command) -> Told {
    match command {
        Command::Prepare(_) => Told::Prepare,
        Command::Suspend(_) => Told::Suspend,
        Command::Release(_) => Told::Release,
    }
}

fn attempt(command: &Command) -> Option<&Attempt> {
    match command {
        Command::Prepare(prepare) => prepare.attempt.as_ref(),
        Command::Suspend(suspend) => suspend.attempt.as_ref(),
        Command::Release(release) => release.attempt.as_ref(),
    }
}

/// What an agent of this behaviour says to a command.
pub fn answer(behaviour: &Behaviour, command: Command) -> Option<Report> {
    match (command, behaviour) {
        (Command::Prepare(prepare), Behaviour::Blocked(blockers)) => Some(Report::NotReady(NotReady {
            attempt: prepare.attempt,
            blockers: blockers.clone(),
            ..NotReady::default()
        })),
        (Command::Prepare(prepare), Behaviour::Waits(blockers)) => {
            Some(Report::Waiting(Waiting { attempt: prepare.attempt, blockers: blockers.clone(), more_blockers: 0 }))
        }
        (Command::Prepare(prepare), _) => Some(Report::Prepared(Prepared {
            attempt: prepare.attempt,
            filesystem: "ext4".to_owned(),
            protection: Protection::NodeGuardian.into(),
        })),
        (Command::Suspend(_) | Command::Release(_), Behaviour::Stopped) => None,
        (Command::Suspend(_), Behaviour::SilentWhenSuspended) => None,
        (Command::Suspend(suspend), _) => {
            Some(Report::Ready(Ready { attempt: suspend.attempt, round: suspend.round, suspended_us: 1_500 }))
        }
        (Command::Release(_), Behaviour::SilentWhenReleased) => None,
        (Command::Release(release), Behaviour::Breaks) => {
            Some(released(release.attempt, false, "somebody thawed the filesystem"))
        }
        (Command::Release(release), _) => Some(released(release.attempt, true, "")),
    }
}

fn released(attempt: Option<Attempt>, unbroken: bool, reason: &str) -> Report {
    Report::Released(Released { attempt, unbroken, reason: reason.to_owned(), suspended_us: 40_000 })
}
