//! The freezer: the process that carries out the acts of a method for one member, and resumes.
//!
//! A suspension can hang for ever in a state that no signal ends, so it happens in a process that can hang without taking the
//! agent along. It is started before writes are suspended, because nothing may be executed while they are. Its standard
//! input is the root directory of the dataset, its standard output the socket to the agent, and the first packet there carries
//! the method's handle.
//!
//! Then one order per packet (a code, a ticket and the microseconds that it has), one answer per order (code and ticket, and an
//! errno, 0 for OK; `EINVAL` of a Resume that found nothing suspended; then, of a Suspend, how many microseconds ago the suspension
//! began, and of a Resume [`FAILED_MEANWHILE`] where the filesystem failed).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::io::{Errno, Result as KernelResult, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::dataset::Health;
use super::method::{self, Method};
use super::record::Process;
use crate::undo;
use stillpoint_core::hold::{Ticket, WasSuspended};
use stillpoint_core::wire::micros;

/// A code and a ticket.
const HEAD_BYTES: usize = 9;
const ORDER_BYTES: usize = HEAD_BYTES + 8;
const ANSWER_BYTES: usize = HEAD_BYTES + 4 + 8;

/// In the answer to a Resume: writes go on, but the filesystem failed while they were suspended.
pub const FAILED_MEANWHILE: Duration = Duration::from_micros(1);

/// What the freezer does on order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// [`Method::flush`].
    Flush,
    /// [`Method::suspend`].
    Suspend,
    /// [`Method::undo`].
    Resume,
}

/// The agent's end of one freezer. Dropping it ends the freezer, which resumes first if it has suspended.
pub struct Freezer {
    socket: UnixStream,
    process: Arc<OwnedFd>,
    identity: Process,
    /// Kept so that tokio reaps the process when it ends, now or after this is dropped.
    _child: Child,
}

impl Freezer {
    /// Starts a freezer that flushes the filesystem of `root`, and suspends by way of `handle`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(method: &dyn Method, root: &OwnedFd, handle: &OwnedFd) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        hand_over(&ours, handle)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let socket = UnixStream::from_std(ours.into())?;
        let child = Command::new("/proc/self/exe")
            .arg0("stillpoint")
            .arg("freezer")
            .arg(method.name())
            .env_clear()
            .stdin(Stdio::from(root.try_clone()?))
            .stdout(Stdio::from(theirs))
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or(Errno::SRCH)?;
        let process = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        // It has not been waited for yet, so the id is still its own.
        let identity = Process::find(pid.as_raw_pid())?;
        Ok(Self { socket, process, identity, _child: child })
    }

    /// A pidfd of the process.
    pub fn process(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.process)
    }

    /// How the process can be found again.
    pub fn identity(&self) -> Process {
        self.identity
    }

    /// Gives an order; the answer comes with this ticket. What suspends has this time to begin.
    ///
    /// # Errors
    /// If the freezer is gone.
    pub fn order(&self, order: Order, ticket: Ticket, within: Duration) -> io::Result<()> {
        send(&self.socket, &encode_order(order, ticket, within), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next answer. Safe to drop before it came.
    ///
    /// # Errors
    /// If the freezer is gone.
    pub async fn answer(&self) -> io::Result<(Ticket, Order, KernelResult<Duration>)> {
        self.socket
            .async_io(Interest::READABLE, || {
                let mut buffer = [0; ANSWER_BYTES];
                let (bytes, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
                decode_answer(&buffer[..bytes]).ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
            })
            .await
    }
}

fn hand_over(socket: &OwnedFd, handle: &OwnedFd) -> KernelResult<()> {
    let descriptors = [handle.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"H")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn receive(socket: BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut received) => received.next(),
        _ => None,
    });
    received.context("the agent handed over no handle")
}

/// The freezer's own life. Ends when the agent's end of the socket closes; what is suspended is resumed before.
///
/// # Errors
/// If there is no such method, or no agent that hands over its handle.
pub fn run(method: &str) -> anyhow::Result<()> {
    let method = method::find(method).with_context(|| format!("there is no method {method:?}"))?;
    // Without it, `ps` would call the process "exe".
    rustix::thread::set_name(c"freezer")?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (root, socket) = (stdin.as_fd(), stdout.as_fd());
    let handle = receive(socket)?;
    let mut suspended = false;
    // As the last flush left it: looking takes time, which a hold does not have.
    let mut health = None;
    loop {
        let mut buffer = [0; ORDER_BYTES];
        let order = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((bytes, _)) => decode_order(&buffer[..bytes]),
            Err(Errno::INTR) => continue,
            Err(_) => None,
        };
        let Some((order, ticket, within)) = order else { break };
        let mut result = carry_out(method, order, within, root, handle.as_fd());
        match order {
            Order::Suspend => suspended |= result.is_ok(),
            Order::Resume => {
                suspended &= result.is_err() && result != Err(Errno::INVAL);
                if result.is_ok() && failed_since(health, root) {
                    result = Ok(FAILED_MEANWHILE);
                }
            }
            Order::Flush => health = Health::of(root).ok(),
        }
        if send(socket, &encode_answer(order, ticket, result), SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    if suspended {
        // Or the guardian or somebody else was faster.
        let _ = undo::for_certain(method.undo(), &handle);
    }
    Ok(())
}

fn failed_since(then: Option<Health>, root: BorrowedFd<'_>) -> bool {
    then.zip(Health::of(root).ok()).is_some_and(|(then, now)| now.failed_since(then))
}

fn carry_out(
    method: &dyn Method,
    order: Order,
    within: Duration,
    root: BorrowedFd<'_>,
    handle: BorrowedFd<'_>,
) -> KernelResult<Duration> {
    match order {
        Order::Flush => method.flush(root).map(|()| Duration::ZERO),
        Order::Suspend => method.suspend(handle, within).map(|begun| begun.elapsed()),
        Order::Resume => match undo::undo(method.undo(), handle)? {
            WasSuspended::Yes => Ok(Duration::ZERO),
            WasSuspended::No => Err(Errno::INVAL),
        },
    }
}

fn encode_head(order: Order, ticket: Ticket) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[0] = match order {
        Order::Flush => b'S',
        Order::Suspend => b'F',
        Order::Resume => b'T',
    };
    bytes[1..].copy_from_slice(&ticket.to_le_bytes());
    bytes
}

/// The head, and what follows it.
fn decode_head(bytes: &[u8]) -> Option<(Order, Ticket, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (code, ticket) = head.split_first()?;
    let order = match code {
        b'S' => Order::Flush,
        b'F' => Order::Suspend,
        b'T' => Order::Resume,
        _ => return None,
    };
    Some((order, Ticket::from_le_bytes(ticket.try_into().ok()?), rest))
}

fn encode_order(order: Order, ticket: Ticket, within: Duration) -> [u8; ORDER_BYTES] {
    let mut bytes = [0; ORDER_BYTES];
    bytes[..HEAD_BYTES].copy_from_slice(&encode_head(order, ticket));
    bytes[HEAD_BYTES..].copy_from_slice(&micros(within).to_le_bytes());
    bytes
}

fn decode_order(bytes: &[u8]) -> Option<(Order, Ticket, Duration)> {
    let (order, ticket, within) = decode_head(bytes)?;
    Some((order, ticket, Duration::from_micros(u64::from_le_bytes(within.try_into().ok()?))))
}

fn encode_answer(order: Order, ticket: Ticket, result: KernelResult<Duration>) -> [u8; ANSWER_BYTES] {
    let errno = result.err().map_or(0, Errno::raw_os_error);
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..HEAD_BYTES].copy_from_slice(&encode_head(order, ticket));
    bytes[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&errno.to_le_bytes());
    bytes[HEAD_BYTES + 4..].copy_from_slice(&result.map_or(0, micros).to_le_bytes());
    bytes
}

fn decode_answer(bytes: &[u8]) -> Option<(Ticket, Order, KernelResult<Duration>)> {
    let (order, ticket, rest) = decode_head(bytes)?;
    let (errno, already) = rest.split_at_checked(4)?;
    let already = Duration::from_micros(u64::from_le_bytes(already.try_into().ok()?));
    let result = match i32::from_le_bytes(errno.try_into().ok()?) {
        0 => Ok(already),
        // The kernel's range (IS_ERR_VALUE in include/linux/err.h); rustix panics on anything else.
        errno @ 1..=4095 if already.is_zero() => Err(Errno::from_raw_os_error(errno)),
        _ => return None,
    };
    Some((ticket, order, result))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Flush), Just(Order::Suspend), Just(Order::Resume)]
    }

    proptest! {
        #[test]
        fn packets_survive_the_socket(order in order(), ticket: Ticket, errno in 0..=4095_i32, already: u64) {
            let already = Duration::from_micros(already);
            prop_assert_eq!(decode_order(&encode_order(order, ticket, already)), Some((order, ticket, already)));
            let result = if errno == 0 { Ok(already) } else { Err(Errno::from_raw_os_error(errno)) };
            prop_assert_eq!(decode_answer(&encode_answer(order, ticket, result)), Some((ticket, order, result)));
        }

        /// What is not exactly a packet is refused, so that a torn one cannot pass for a thaw that succeeded.
        #[test]
        fn anything_else_is_refused(code in prop_oneof![Just(b'T'), Just(b'F'), any::<u8>()], rest: Vec<u8>) {
            let bytes = [&[code], &rest[..]].concat();
            if let Some((order, ticket, within)) = decode_order(&bytes) {
                prop_assert_eq!(&encode_order(order, ticket, within)[..], &bytes[..]);
            }
            if let Some((ticket, order, result)) = decode_answer(&bytes) {
                prop_assert_eq!(&encode_answer(order, ticket, result)[..], &bytes[..]);
            }
        }

        #[test]
        fn no_errno_panics(order in order(), ticket: Ticket, errno: i32) {
            let mut bytes = encode_answer(order, ticket, Ok(Duration::ZERO));
            bytes[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&errno.to_le_bytes());
            prop_assert_eq!(decode_answer(&bytes).is_some(), (0..=4095).contains(&errno));
        }
    }
}
