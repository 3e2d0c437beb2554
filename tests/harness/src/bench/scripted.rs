//! Agents without a volume: real sessions over TLS, each with a token of its own pod, that answer by a script.

use anyhow::{Context, Result};
use futures::SinkExt;
use futures::channel::mpsc;
use stillpoint::rpc::sessions_client::SessionsClient;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{AgentMessage, Hello, Prepared, Protection, Ready, Released, Waiting};
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Streaming};

use super::system::HOST;

/// Answers that may wait to be sent.
const QUEUE: usize = 16;
/// What is said of how long writes were suspended.
const SUSPENDED_MICROSECONDS: u64 = 1_500;

/// What an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// It does whatever it is told to.
    Obeys,
    /// It says that something stands in the way, and is never ready.
    Waits,
}

/// A session. It ends when this is dropped.
pub struct ScriptedAgent(JoinHandle<()>);

impl Drop for ScriptedAgent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ScriptedAgent {
    /// Opens a session, on a connection of its own, with the controller that listens on this port of the loopback device.
    /// Its certificate must come from `ca`. Returns when the controller has accepted the token.
    ///
    /// # Errors
    /// There is no such controller, or it refuses.
    pub async fn connect(port: u16, ca: &str, token: &str, script: Script) -> Result<Self> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(HOST);
        let endpoint = Channel::from_shared(format!("https://127.0.0.1:{port}"))?.tls_config(tls)?;
        let channel = endpoint.connect().await.context("the controller does not take a connection")?;
        let (mut reports, outgoing) = mpsc::channel(QUEUE);
        let hello = Hello { version: "bench".to_owned(), kernel: "bench".to_owned() };
        reports.send(AgentMessage { report: Some(Report::Hello(hello)) }).await?;
        let mut request = Request::new(outgoing);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let commands = SessionsClient::new(channel).open(request).await.context("the session is refused")?;
        Ok(Self(tokio::spawn(obey(commands.into_inner(), reports, script))))
    }

    /// Whether the session goes on.
    pub fn is_connected(&self) -> bool {
        !self.0.is_finished()
    }
}

async fn obey(
    mut commands: Streaming<stillpoint_core::wire::ControllerMessage>,
    mut reports: mpsc::Sender<AgentMessage>,
    script: Script,
) {
    while let Ok(Some(message)) = commands.message().await {
        let Some(command) = message.command else { continue };
        if reports.send(AgentMessage { report: Some(answer(command, script)) }).await.is_err() {
            return;
        }
    }
}

fn answer(command: Command, script: Script) -> Report {
    match command {
        Command::Prepare(prepare) if script == Script::Waits => {
            Report::Waiting(Waiting { attempt: prepare.attempt, ..Waiting::default() })
        }
        Command::Prepare(prepare) => Report::Prepared(Prepared {
            attempt: prepare.attempt,
            filesystem: "ext4".to_owned(),
            protection: Protection::NodeGuardian.into(),
        }),
        Command::Suspend(suspend) => Report::Ready(Ready {
            attempt: suspend.attempt,
            round: suspend.round,
            suspended_us: SUSPENDED_MICROSECONDS,
        }),
        Command::Release(release) => Report::Released(Released {
            attempt: release.attempt,
            unbroken: true,
            reason: String::new(),
            suspended_us: SUSPENDED_MICROSECONDS,
        }),
    }
}
