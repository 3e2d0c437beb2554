//! The sessions: one stream to every controller replica, opened by the agent, over which the controller commands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::member::{self, Message, Running, Settings};
use crate::rpc::sessions_client::SessionsClient;
use stillpoint_api::labels;
use stillpoint_core::hold::{Command, Session};
use stillpoint_core::limits::{
    CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_AGENT_MEMBERS, MAX_CONTROLLERS, MAX_WIRE_MESSAGE,
    RESOLVE_INTERVAL, SESSION_QUEUE, SESSION_RETRY_MAX, SESSION_RETRY_MIN,
};
use stillpoint_core::wire;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command as WireCommand;

/// Where the controllers are, and how each side proves itself.
pub struct Controllers {
    /// Host and port; every address of the host is a controller replica. The certificate must be for this host.
    pub address: String,
    /// PEM certificates that the controller's is verified against. Read again for every connection.
    pub ca_file: PathBuf,
    /// The projected token that proves this agent. Read again for every connection, because the kubelet renews it.
    pub token_file: PathBuf,
}

/// The members of this agent, made when a controller first asks for them.
pub struct Members {
    settings: Settings,
    /// By the UID of the claim.
    members: Mutex<HashMap<String, Running>>,
    last_session: AtomicU64,
}

impl Members {
    /// No members yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, members: Mutex::default(), last_session: AtomicU64::new(0) }
    }

    fn next_session(&self) -> Session {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn sender(&self, claim_uid: &str) -> anyhow::Result<mpsc::Sender<Message>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        // One that ended, in a panic, held nothing any more; the next begins afresh.
        members.retain(|_, member| !member.task.is_finished());
        if let Some(member) = members.get(claim_uid) {
            return Ok(member.inbox.clone());
        }
        if members.len() >= MAX_AGENT_MEMBERS {
            // Claims come and go with the volumes of a pod that stays.
            members.retain(|_, member| !member.is_idle());
        }
        if members.len() >= MAX_AGENT_MEMBERS {
            bail!("the controller asks for more than {MAX_AGENT_MEMBERS} members, the limit of one agent");
        }
        let member = member::start(self.settings.clone(), claim_uid);
        let inbox = member.inbox.clone();
        members.insert(claim_uid.to_owned(), member);
        Ok(inbox)
    }

    fn senders(&self) -> Vec<mpsc::Sender<Message>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.values().map(|member| member.inbox.clone()).collect()
    }

    async fn session_lost(&self, session: Session) {
        for member in self.senders() {
            // A member that is gone holds nothing.
            let _ = member.send(Message::SessionLost(session)).await;
        }
    }

    /// Resumes every member, and returns when all have.
    pub async fn shut_down(&self) {
        for member in self.senders() {
            let _ = member.send(Message::Shutdown).await;
        }
        let members = std::mem::take(&mut *self.members.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, member) in members {
            let _ = member.task.await;
        }
    }
}

/// Keeps a session with every controller replica, for ever. Where there is none, and nobody published a CA, it waits and says
/// so once: the application runs meanwhile.
pub async fn keep(controllers: Controllers, members: Arc<Members>) {
    let controllers = Arc::new(controllers);
    let (publish, published) = watch::channel(Vec::new());
    let mut sessions: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    let mut told = None;
    loop {
        let found = match waits_for(&controllers) {
            None => resolve(&controllers.address).await,
            Some(what) => Err(what),
        };
        match &found {
            Err(what) if told.as_ref() != Some(what) => tracing::warn!("no session with a controller yet: {what}"),
            Ok(_) if told.is_some() => tracing::info!("the controllers are found"),
            _ => {}
        }
        told = found.as_ref().err().cloned();
        if let Ok(found) = found {
            publish.send_replace(found);
        }
        sessions.retain(|_, session| !session.is_finished());
        for address in publish.borrow().iter() {
            if sessions.len() < MAX_CONTROLLERS && !sessions.contains_key(address) {
                let session = keep_one(Arc::clone(&controllers), Arc::clone(&members), *address, published.clone());
                sessions.insert(*address, tokio::spawn(session));
            }
        }
        tokio::time::sleep(RESOLVE_INTERVAL).await;
    }
}

/// What must be there before a session can be tried. Both files are volumes that a pod starts without.
fn waits_for(controllers: &Controllers) -> Option<String> {
    let missing = |path: &Path| !path.try_exists().unwrap_or(true);
    if missing(&controllers.ca_file) {
        return Some(format!(
            "--ca-file {} is not there; Stillpoint's controller publishes it in namespaces with the label \
             {}={}, and the kubelet brings it here within a minute or two",
            controllers.ca_file.display(),
            labels::OPT_IN,
            labels::OPT_IN_VALUE,
        ));
    }
    missing(&controllers.token_file).then(|| {
        format!(
            "--token-file {} is not there; mount a projected service-account token with the audience {}",
            controllers.token_file.display(),
            labels::TOKEN_AUDIENCE
        )
    })
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    match tokio::net::lookup_host(address).await {
        Ok(found) => Ok(of_one_family(found.collect())),
        Err(error) => Err(format!(
            "the controller's name in {address} cannot be resolved: {error}; does Stillpoint run there? A pod with \
             hostNetwork: true needs dnsPolicy: ClusterFirstWithHostNet"
        )),
    }
}

/// A replica that is found by IPv4 and by IPv6 is one replica, where one session of an agent takes the place of another.
fn of_one_family(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if let Some(first) = found.first().map(SocketAddr::is_ipv6) {
        found.retain(|address| address.is_ipv6() == first);
    }
    found.truncate(MAX_CONTROLLERS);
    found
}

/// Keeps a session with one address for as long as it is published. A session that lives outlasts that.
async fn keep_one(
    controllers: Arc<Controllers>,
    members: Arc<Members>,
    address: SocketAddr,
    published: watch::Receiver<Vec<SocketAddr>>,
) {
    let mut pause = SESSION_RETRY_MIN;
    while published.borrow().contains(&address) {
        let session = members.next_session();
        match open(&controllers, address).await {
            Ok((reports, commands)) => {
                tracing::info!(%address, session, "session opened");
                pause = SESSION_RETRY_MIN;
                let ended = obey(session, &members, reports, commands).await;
                members.session_lost(session).await;
                let why =
                    ended.err().map_or_else(|| "the controller ended it".to_owned(), |error| format!("{error:#}"));
                tracing::warn!(%address, session, why, "session ended");
            }
            Err(error) => tracing::warn!(%address, error = format!("{error:#}"), "cannot open a session"),
        }
        // Jitter, so that a controller that comes back is not met by all agents at once.
        let jitter = rand::random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(SESSION_RETRY_MAX);
    }
}

async fn open(
    controllers: &Controllers,
    address: SocketAddr,
) -> anyhow::Result<(mpsc::Sender<wire::AgentMessage>, Streaming<wire::ControllerMessage>)> {
    let ca = read("--ca-file", &controllers.ca_file)?;
    let token = read("--token-file", &controllers.token_file)?;
    let host = controllers.address.rsplit_once(':').map_or(controllers.address.as_str(), |(host, _)| host);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(host);
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)
        .with_context(|| format!("{} holds no usable certificate", controllers.ca_file.display()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await?;

    let (reports, outgoing) = mpsc::channel(SESSION_QUEUE);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let hello = wire::Hello { version: env!("CARGO_PKG_VERSION").to_owned(), kernel };
    reports.send(wire::AgentMessage { report: Some(Report::Hello(hello)) }).await?;
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let mut bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
        .with_context(|| format!("{} holds no token", controllers.token_file.display()))?;
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let mut client = SessionsClient::new(channel).max_decoding_message_size(MAX_WIRE_MESSAGE);
    let answer = tokio::time::timeout(CONNECT_TIMEOUT, client.open(request))
        .await
        .context("the controller does not answer")?
        .map_err(|status| anyhow!("the controller refused the session: {} ({:?})", status.message(), status.code()))?;
    Ok((reports, answer.into_inner()))
}

/// Both files are projected into memory by the kubelet, so reading them does not wait.
fn read(option: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {option} {}", path.display()))
}

/// Hands every command to its member, until the session ends.
async fn obey(
    session: Session,
    members: &Members,
    reports: mpsc::Sender<wire::AgentMessage>,
    mut commands: Streaming<wire::ControllerMessage>,
) -> anyhow::Result<()> {
    while let Some(message) = commands.message().await? {
        let command = understand(message).context("the controller sent a command without an attempt; is it newer?")?;
        let member = members.sender(&command.attempt().member)?;
        let member_uid = command.attempt().member.clone();
        member.try_send(Message::Command(session, reports.clone(), Box::new(command))).map_err(
            |error| match error {
                TrySendError::Full(_) => anyhow!("the controller sent commands faster than a member takes them"),
                TrySendError::Closed(_) => {
                    anyhow!("the member with claim {member_uid:?} has ended; see this agent's log")
                }
            },
        )?;
    }
    Ok(())
}

fn understand(message: wire::ControllerMessage) -> Option<Command> {
    Some(match message.command? {
        WireCommand::Prepare(prepare) => Command::Prepare(prepare.attempt.clone()?, Box::new(prepare)),
        WireCommand::Suspend(suspend) => Command::Suspend(suspend.attempt?, suspend.round),
        WireCommand::Release(release) => Command::Release(release.attempt?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::agent::recovery::Recovery;

    #[test]
    fn a_replica_of_two_families_is_called_once() {
        let found = ["[fd00::1]:8443", "10.0.0.1:8443", "[fd00::2]:8443", "10.0.0.2:8443"];
        let found = found.map(|address| address.parse().unwrap()).to_vec();
        let called = of_one_family(found).into_iter().map(|address: SocketAddr| address.to_string());
        assert_eq!(called.collect::<Vec<_>>(), ["[fd00::1]:8443", "[fd00::2]:8443"]);
        assert!(of_one_family(Vec::new()).is_empty());
    }

    fn members() -> Members {
        Members::new(Settings {
            guardian: PathBuf::from("/nonexistent/guardian"),
            max_hold: std::time::Duration::from_secs(1),
            records: PathBuf::from("/nonexistent/records"),
            recovery: Arc::new(Recovery::default()),
        })
    }

    #[tokio::test]
    async fn a_member_that_ended_is_started_anew() {
        let members = members();
        let first = members.sender("uid").unwrap();
        members.members.lock().unwrap()["uid"].task.abort();
        first.closed().await;
        while !members.members.lock().unwrap()["uid"].task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(!members.sender("uid").unwrap().is_closed());
    }

    #[tokio::test]
    async fn idle_members_make_room_and_busy_ones_do_not() {
        let members = members();
        let inboxes: Vec<_> = (0..MAX_AGENT_MEMBERS).map(|at| members.sender(&format!("{at}")).unwrap()).collect();
        // None has run yet, so nobody knows that it is idle.
        assert!(members.sender("one more").unwrap_err().to_string().contains("more than"));
        let idle = |members: &Members| members.members.lock().unwrap().values().filter(|it| it.is_idle()).count();
        while idle(&members) < MAX_AGENT_MEMBERS {
            tokio::task::yield_now().await;
        }
        inboxes[0].try_send(Message::SessionLost(1)).unwrap();
        members.sender("one more").unwrap();
        let kept = members.members.lock().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), ["0", "one more"], "what was told to it is not lost");
    }

    proptest! {
        /// Whatever bytes come as a command: they are one that names its attempt, or none.
        #[test]
        fn no_command_panics(bytes: Vec<u8>, member in ".{0,40}", kind in 0..3_u8, named: bool, times: (u32, u32)) {
            if let Ok(message) = wire::ControllerMessage::decode(&bytes[..]) {
                let _ = understand(message);
            }
            let attempt = named.then(|| wire::Attempt { member: member.clone(), ..wire::Attempt::default() });
            let command = match kind {
                0 => WireCommand::Prepare(wire::Prepare {
                    attempt,
                    mount_path: member.clone(),
                    prepare_timeout_ms: times.0,
                    hold_timeout_ms: times.1,
                    ..wire::Prepare::default()
                }),
                1 => WireCommand::Suspend(wire::Suspend { attempt, round: times.0 }),
                _ => WireCommand::Release(wire::Release { attempt }),
            };
            let message = wire::ControllerMessage { command: Some(command) };
            let travelled = wire::ControllerMessage::decode(&message.encode_to_vec()[..]).expect("a message");
            let understood = understand(travelled);
            prop_assert_eq!(understood.as_ref().map(|command| command.attempt().member.as_str()), named.then_some(&member[..]));
        }
    }
}
