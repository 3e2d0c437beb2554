//! The agent's end of a connection to the guardian.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, send, sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::protocol::{Answer, Request, Scope};
use crate::undo::Undo;
use stillpoint_core::limits::{GUARDIAN_TIMEOUT, MAX_GUARDIAN_MESSAGE};

/// A guardian that has the descriptors of one member.
pub struct Guardian {
    connection: UnixStream,
    scope: Scope,
}

impl Guardian {
    /// Connects and hands over the undo's handle and the freezer's pidfd. Blocks for at most [`GUARDIAN_TIMEOUT`] per
    /// step; call it where blocking is allowed, inside a tokio runtime.
    ///
    /// # Errors
    /// A sentence that says why nobody guards.
    pub fn engage(socket: &Path, label: &str, undo: Undo, handle: &OwnedFd, freezer: &OwnedFd) -> Result<Self, String> {
        let (connection, scope) = begin(socket, label, undo, handle, freezer)?;
        rustix::io::ioctl_fionbio(&connection, true).map_err(|errno| errno.to_string())?;
        let connection = UnixStream::from_std(connection.into()).map_err(|error| error.to_string())?;
        Ok(Self { connection, scope })
    }

    /// What it outlives, by its own word.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Asks that writes be resumed after `limit`; the promise is [`Answer::Armed`] with this ticket.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn arm(&self, ticket: u64, limit: Duration) -> io::Result<()> {
        self.send(&Request::Arm { ticket, limit })
    }

    /// Says that nothing is owed. A guardian that is gone owes none either.
    pub fn disarm(&self) {
        let _ = self.send(&Request::Disarm);
    }

    /// The next answer. Safe to drop before it came.
    ///
    /// # Errors
    /// If the guardian is gone or says what cannot be understood.
    pub async fn answer(&self) -> io::Result<Answer> {
        self.connection
            .async_io(Interest::READABLE, || {
                let mut buffer = [0; MAX_GUARDIAN_MESSAGE];
                let (bytes, _) = recv(&self.connection, &mut buffer[..], RecvFlags::DONTWAIT)?;
                Answer::decode(&buffer[..bytes]).ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
            })
            .await
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        send(&self.connection, &request.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Shows the guardian what may be suspended, and lets go again: what an earlier guardian owed for it is given back before the answer.
/// Blocks for at most [`GUARDIAN_TIMEOUT`] per step.
///
/// # Errors
/// A sentence that says why no guardian has seen it.
pub fn show(socket: &Path, label: &str, undo: Undo, handle: &OwnedFd, process: &OwnedFd) -> Result<(), String> {
    begin(socket, label, undo, handle, process).map(drop)
}

fn begin(
    socket: &Path,
    label: &str,
    undo: Undo,
    handle: &OwnedFd,
    freezer: &OwnedFd,
) -> Result<(OwnedFd, Scope), String> {
    let connection = hand_over(socket, label, undo, handle, freezer)
        .map_err(|error| format!("the guardian at {} does not answer: {error}", socket.display()))?;
    let mut buffer = [0; MAX_GUARDIAN_MESSAGE];
    // A socket with a timeout is not restarted after a signal (signal(7)), and this process has children that end.
    let (bytes, _) = retry_on_intr(|| recv(&connection, &mut buffer[..], RecvFlags::empty()))
        .map_err(|errno| format!("the guardian at {} did not answer: {errno}", socket.display()))?;
    match Answer::decode(&buffer[..bytes]) {
        Some(Answer::Guarding { scope }) => Ok((connection, scope)),
        Some(Answer::Refused { why }) => Err(format!("the guardian refused: {why}")),
        Some(Answer::Armed { .. }) | None => Err("the guardian gave no sensible answer".to_owned()),
    }
}

fn hand_over(socket: &Path, label: &str, undo: Undo, handle: &OwnedFd, freezer: &OwnedFd) -> io::Result<OwnedFd> {
    let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // On a Unix socket the send timeout bounds connect as well (unix(7)).
    set_socket_timeout(&connection, Timeout::Send, Some(GUARDIAN_TIMEOUT))?;
    set_socket_timeout(&connection, Timeout::Recv, Some(GUARDIAN_TIMEOUT))?;
    connect(&connection, &SocketAddrUnix::new(socket)?)?;
    let descriptors = [handle.as_fd(), freezer.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let request = Request::Guard { undo, label: label.to_owned() }.encode();
    sendmsg(&connection, &[IoSlice::new(&request)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(connection)
}
