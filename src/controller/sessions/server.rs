//! Serves the protocol: authenticates each stream and carries messages between it and the registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::allowance::Allowance;
use super::listener::{self, Admission, Stay};
use super::refusal::Refusal;
use super::{Session, Sessions};
use crate::controller::identity::{Identity, Review, identify};
use crate::rpc::sessions_server::{self, SessionsServer};
use stillpoint_core::limits::{
    ADMISSION_TIMEOUT, HELLO_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_BLOCKERS, MAX_STREAMS,
    MAX_WIRE_MESSAGE, MAX_WORD_CHARS, REPORTS_BURST, REPORTS_PER_SECOND, SHUTDOWN_TIMEOUT,
};
use stillpoint_core::text::printable;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::{AgentMessage, ControllerMessage};

/// How the server decides, and how patient it is.
#[derive(Clone)]
pub struct Config {
    /// Asks about a token.
    pub review: Review,
    /// See [`HELLO_TIMEOUT`].
    pub hello_timeout: Duration,
    /// See [`ADMISSION_TIMEOUT`].
    pub admission_timeout: Duration,
}

impl Config {
    /// The limits of the product.
    pub fn new(review: Review) -> Self {
        Self { review, hello_timeout: HELLO_TIMEOUT, admission_timeout: ADMISSION_TIMEOUT }
    }
}

/// Serves sessions until `stop`, then ends them all.
///
/// # Errors
/// When the HTTP server fails, which a single connection cannot cause.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    sessions: Sessions,
    config: Config,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = listener::incoming(listener, tls, config.admission_timeout);
    let service = SessionsServer::new(Service { sessions: sessions.clone(), config })
        .max_decoding_message_size(MAX_WIRE_MESSAGE)
        .max_encoding_message_size(MAX_WIRE_MESSAGE);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop.cancelled() => sessions.end_all(),
    }
    // A peer that does not close its connection must not hold up the end.
    timeout(SHUTDOWN_TIMEOUT, server).await.unwrap_or(Ok(()))
}

struct Service {
    sessions: Sessions,
    config: Config,
}

#[tonic::async_trait]
impl sessions_server::Sessions for Service {
    type OpenStream = BoxStream<'static, Result<ControllerMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let identity = self.authenticate(&request).await.inspect_err(|refusal| {
            tracing::info!("refused a session: {refusal}");
        })?;
        let session = self.sessions.open(&identity.namespace, &identity.key()).map_err(Refusal::from)?;
        let stay = request.extensions().get::<Admission>().map(Admission::grant);
        let reports = request.into_inner();
        let conversation = Conversation::new(identity, session, stay, reports, self.config.hello_timeout);
        Ok(Response::new(commands(conversation).boxed()))
    }
}

impl Service {
    async fn authenticate(&self, request: &Request<Streaming<AgentMessage>>) -> Result<Identity, Refusal> {
        let token = bearer_token(request.metadata()).ok_or(Refusal::NoToken)?;
        let answer = (self.config.review)(token.to_owned()).await.map_err(Refusal::NotReviewed)?;
        Ok(identify(&answer)?)
    }
}

fn bearer_token(metadata: &MetadataMap) -> Option<&str> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then_some(token.trim())
}

/// The commands that one agent is sent. Polling the stream also hears the agent, so that dropping it, which a lost
/// connection does, ends everything that belongs to the session.
fn commands(conversation: Conversation) -> impl futures::Stream<Item = Result<ControllerMessage, Status>> {
    stream::try_unfold(conversation, |mut conversation| async move {
        let next = conversation.next().await;
        conversation.end = match &next {
            Ok(Some(_)) => None,
            Ok(None) => Some("the agent closed it".to_owned()),
            Err(status) => Some(status.message().to_owned()),
        };
        Ok(next?.map(|command| (command, conversation)))
    })
}

struct Conversation {
    identity: Identity,
    session: Session,
    _stay: Option<Stay>,
    reports: Streaming<AgentMessage>,
    allowance: Allowance,
    greeted: bool,
    hello_deadline: tokio::time::Instant,
    /// Why it ended, for the log.
    end: Option<String>,
}

impl Conversation {
    fn new(
        identity: Identity,
        session: Session,
        stay: Option<Stay>,
        reports: Streaming<AgentMessage>,
        hello_timeout: Duration,
    ) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            identity,
            session,
            _stay: stay,
            reports,
            allowance: Allowance::new(REPORTS_BURST, REPORTS_PER_SECOND, now.into_std()),
            greeted: false,
            hello_deadline: now + hello_timeout,
            end: None,
        }
    }

    /// The next command for the agent; `None` when the agent closed the session. Hears reports meanwhile.
    async fn next(&mut self) -> Result<Option<ControllerMessage>, Status> {
        loop {
            tokio::select! {
                command = self.session.next() => {
                    return Ok(Some(command.map_err(Refusal::Ended)?));
                }
                message = self.reports.message() => match message? {
                    Some(message) => self.hear(message)?,
                    None => return Ok(None),
                },
                () = sleep_until(self.hello_deadline), if !self.greeted => return Err(Refusal::Silent.into()),
            }
        }
    }

    fn hear(&mut self, message: AgentMessage) -> Result<(), Refusal> {
        if !self.allowance.take(Instant::now()) {
            return Err(Refusal::Flood);
        }
        match (self.greeted, message.report) {
            (false, Some(Report::Hello(hello))) => {
                self.greeted = true;
                self.session.greet();
                let Identity { namespace, pod_name, .. } = &self.identity;
                let word = |text: &str| printable(text, MAX_WORD_CHARS);
                let (version, kernel) = (word(&hello.version), word(&hello.kernel));
                tracing::info!(%namespace, pod = %pod_name, version, kernel, "agent connected");
                Ok(())
            }
            (false, _) | (true, Some(Report::Hello(_))) => Err(Refusal::NotGreeted),
            (true, Some(report)) => {
                self.session.report(bounded(report));
                Ok(())
            }
            // A report that this version does not know: a newer agent may send more than it was asked.
            (true, None) => Ok(()),
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let Identity { namespace, pod_name, .. } = &self.identity;
        let reason = self.end.as_deref().unwrap_or("the connection was lost");
        tracing::info!(%namespace, pod = %pod_name, reason, "session ended");
    }
}

/// A report as it may be queued. An empty blocker takes two bytes of a message and two hundred in memory, so that a queue of
/// small messages could hold gigabytes.
fn bounded(mut report: Report) -> Report {
    let mut uncounted = 0;
    let listed = match &mut report {
        Report::Waiting(waiting) => Some((&mut waiting.blockers, &mut waiting.more_blockers)),
        Report::NotReady(not_ready) => Some((&mut not_ready.blockers, &mut not_ready.more_blockers)),
        Report::Pending(pending) => Some((&mut pending.blockers, &mut uncounted)),
        Report::Hello(_) | Report::Prepared(_) | Report::Ready(_) | Report::Released(_) => None,
    };
    if let Some((blockers, more)) = listed {
        let left_out = blockers.len().saturating_sub(MAX_BLOCKERS);
        *more = more.saturating_add(u32::try_from(left_out).unwrap_or(u32::MAX));
        blockers.truncate(MAX_BLOCKERS);
        blockers.shrink_to_fit();
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_core::wire::{Blocker, NotReady, Waiting};

    #[test]
    fn a_report_is_small_before_it_is_queued() {
        let blockers = vec![Blocker::default(); MAX_WIRE_MESSAGE / 2];
        let left_out = u32::try_from(blockers.len() - MAX_BLOCKERS).expect("a small number");
        let waiting = Waiting { blockers: blockers.clone(), more_blockers: 3, ..Waiting::default() };
        let not_ready = NotReady { blockers, more_blockers: u32::MAX, ..NotReady::default() };
        for (report, expected) in [(Report::Waiting(waiting), left_out + 3), (Report::NotReady(not_ready), u32::MAX)] {
            let (blockers, more) = match bounded(report) {
                Report::Waiting(it) => (it.blockers, it.more_blockers),
                Report::NotReady(it) => (it.blockers, it.more_blockers),
                other => panic!("{other:?}"),
            };
            assert_eq!((blockers.len(), more), (MAX_BLOCKERS, expected));
            assert!(blockers.capacity() < 2 * MAX_BLOCKERS, "the room is given back");
        }
    }
}
