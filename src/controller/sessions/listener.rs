//! Accepts connections: TCP, then TLS, within bounds, before a byte of HTTP is read.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use stillpoint_core::limits::{HANDSHAKE_TIMEOUT, LINGER, MAX_CONNECTIONS, MAX_UNPROVEN_CONNECTIONS};

/// Connections that wait for the server to take them.
const BACKLOG: usize = 16;
/// Pause after an accept that failed for want of something (descriptors, memory), which only time can bring.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that finished their handshake, at most [`MAX_CONNECTIONS`] at a time. One that has no authenticated session
/// within `admission_timeout` is closed, and so is one beyond [`MAX_UNPROVEN_CONNECTIONS`] of its address, so that connections
/// that prove nothing cannot use up the room. One that has no session any more is closed [`LINGER`] later, or at once if its
/// address has that many without, so that one token, which opens session after session, cannot either.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    admission_timeout: Duration,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(listener, tls, admission_timeout, &ready) => {}
            () = ready.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept_all(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    admission_timeout: Duration,
    ready: &mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let unproven = Unproven::default();
    // The semaphore is never closed.
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = unproven.take(peer.ip()) else {
                    tracing::debug!(%peer, "closed: too many connections from this address have opened no session");
                    continue;
                };
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                tokio::spawn(async move {
                    match handshake(&acceptor, stream).await {
                        Ok(stream) => {
                            let connection = Connection::new(stream, permit, place, admission_timeout);
                            // Only a stopped server takes no more connections.
                            let _ = ready.send(Ok(connection)).await;
                        }
                        Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    // Commands are small and time matters: never wait to fill a packet.
    stream.set_nodelay(true)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "not finished in time");
    timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.unwrap_or_else(|_| Err(late()))
}

/// How many connections of each address have carried no authenticated session yet.
#[derive(Clone, Default)]
struct Unproven {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Unproven {
    /// A place among [`MAX_UNPROVEN_CONNECTIONS`], unless they are taken.
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_address.entry(address).or_default();
        if *taken >= MAX_UNPROVEN_CONNECTIONS {
            return None;
        }
        *taken += 1;
        Some(Place { unproven: self.clone(), address })
    }
}

/// A place among the unproven connections, until it is dropped.
struct Place {
    unproven: Unproven,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.unproven.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = by_address.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// The authenticated sessions of a connection.
#[derive(Clone, Default)]
pub struct Admission(Arc<Admitted>);

#[derive(Default)]
struct Admitted {
    sessions: AtomicUsize,
    /// Whoever reads from the connection.
    reader: AtomicWaker,
}

/// Lets a connection stay until it is dropped.
pub struct Stay(Admission);

impl Admission {
    /// Lets the connection stay as long as a session.
    pub fn grant(&self) -> Stay {
        self.0.sessions.fetch_add(1, Ordering::SeqCst);
        self.0.reader.wake();
        Stay(self.clone())
    }

    fn granted(&self) -> bool {
        self.0.sessions.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let admitted = &*self.0.0;
        admitted.sessions.fetch_sub(1, Ordering::SeqCst);
        admitted.reader.wake();
    }
}

/// One accepted connection, with its place among [`MAX_CONNECTIONS`].
pub struct Connection {
    stream: TlsStream<TcpStream>,
    admission: Admission,
    /// While there is no session.
    probation: Option<(Pin<Box<Sleep>>, Place)>,
    unproven: Unproven,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        stream: TlsStream<TcpStream>,
        permit: OwnedSemaphorePermit,
        place: Place,
        admission_timeout: Duration,
    ) -> Self {
        let (unproven, address) = (place.unproven.clone(), place.address);
        let probation = Some((Box::pin(sleep(admission_timeout)), place));
        Self { stream, admission: Admission::default(), probation, unproven, address, _permit: permit }
    }

    /// Whether it has had no session for too long.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before looking, so that no change falls between the two.
        self.admission.0.reader.register(cx.waker());
        if self.admission.granted() {
            self.probation = None;
            return Poll::Pending;
        }
        if self.probation.is_none() {
            // Its last session has ended, and its peer is to read why.
            let Some(place) = self.unproven.take(self.address) else { return Poll::Ready(()) };
            self.probation = Some((Box::pin(sleep(LINGER)), place));
        }
        self.probation.as_mut().map_or(Poll::Pending, |(probation, _)| probation.as_mut().poll(cx))
    }
}

impl Connected for Connection {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_over(cx).is_ready() {
            let reason = "the connection has no session";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
