//! The freezer: the process that flushes, freezes and thaws one member.
//!
//! A freeze can hang for ever in a state that no signal ends, so it happens in a process that can hang without taking the
//! agent along. It is started before writes are suspended, because nothing may be executed while they are. Its standard
//! input is the root directory of the dataset, its standard output the socket to the agent.
//!
//! One order per packet (a code and a ticket), one answer per order (the same, and an errno, 0 for OK).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;

use rustix::fs::syncfs;
use rustix::io::{Errno, Result as KernelResult};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::record::Process;
use crate::fsfreeze::{freeze, thaw, thaw_for_certain};
use stillpoint_core::hold::Ticket;

const ORDER_BYTES: usize = 9;
const ANSWER_BYTES: usize = ORDER_BYTES + 4;

/// What the freezer does on order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// syncfs(2).
    Flush,
    /// Freeze and thaw at once.
    Warm,
    /// Freeze.
    Freeze,
    /// Thaw.
    Thaw,
}

/// The agent's end of one freezer. Dropping it ends the freezer, which thaws first if it has frozen.
pub struct Freezer {
    socket: UnixStream,
    process: Arc<OwnedFd>,
    identity: Process,
    /// Kept so that tokio reaps the process when it ends, now or after this is dropped.
    _child: Child,
}

impl Freezer {
    /// Starts a freezer for the filesystem of `root`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(root: &OwnedFd) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let socket = UnixStream::from_std(ours.into())?;
        let child = Command::new("/proc/self/exe")
            .arg0("stillpoint")
            .arg("freezer")
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

    /// Gives an order; the answer comes with this ticket.
    ///
    /// # Errors
    /// If the freezer is gone.
    pub fn order(&self, order: Order, ticket: Ticket) -> io::Result<()> {
        send(&self.socket, &encode_order(order, ticket), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next answer. Safe to drop before it came.
    ///
    /// # Errors
    /// If the freezer is gone.
    pub async fn answer(&self) -> io::Result<(Ticket, Order, KernelResult<()>)> {
        self.socket
            .async_io(Interest::READABLE, || {
                let mut buffer = [0; ANSWER_BYTES];
                let (bytes, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
                decode_answer(&buffer[..bytes]).ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
            })
            .await
    }
}

/// The freezer's own life. Ends when the agent's end of the socket closes; a freeze that stands is thawed before.
///
/// # Errors
/// If the process cannot be named.
pub fn run() -> anyhow::Result<()> {
    // Without it, `ps` would call the process "exe".
    rustix::thread::set_name(c"freezer")?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (root, socket) = (stdin.as_fd(), stdout.as_fd());
    let mut frozen = false;
    loop {
        let mut buffer = [0; ORDER_BYTES];
        let order = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((bytes, _)) => decode_order(&buffer[..bytes]),
            Err(Errno::INTR) => continue,
            Err(_) => None,
        };
        let Some((order, ticket)) = order else { break };
        let result = carry_out(order, root);
        match order {
            Order::Freeze => frozen |= result.is_ok(),
            Order::Thaw => frozen &= result.is_err() && result != Err(Errno::INVAL),
            Order::Flush | Order::Warm => {}
        }
        if send(socket, &encode_answer(order, ticket, result), SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    if frozen {
        // `EINVAL`: the guardian or somebody else was faster.
        let _ = thaw_for_certain(root);
    }
    Ok(())
}

fn carry_out(order: Order, root: BorrowedFd<'_>) -> KernelResult<()> {
    match order {
        Order::Flush => syncfs(root),
        // Nobody owes a thaw after a warming, so this one must have been answered before it is said to be over; meanwhile the
        // agent's limit and the guardian stand behind it.
        Order::Warm => freeze(root).and_then(|()| thaw_for_certain(root)),
        Order::Freeze => freeze(root),
        Order::Thaw => thaw(root),
    }
}

fn encode_order(order: Order, ticket: Ticket) -> [u8; ORDER_BYTES] {
    let mut bytes = [0; ORDER_BYTES];
    bytes[0] = match order {
        Order::Flush => b'S',
        Order::Warm => b'W',
        Order::Freeze => b'F',
        Order::Thaw => b'T',
    };
    bytes[1..].copy_from_slice(&ticket.to_le_bytes());
    bytes
}

fn decode_order(bytes: &[u8]) -> Option<(Order, Ticket)> {
    let (code, ticket) = bytes.split_first()?;
    let order = match code {
        b'S' => Order::Flush,
        b'W' => Order::Warm,
        b'F' => Order::Freeze,
        b'T' => Order::Thaw,
        _ => return None,
    };
    Some((order, Ticket::from_le_bytes(ticket.try_into().ok()?)))
}

fn encode_answer(order: Order, ticket: Ticket, result: KernelResult<()>) -> [u8; ANSWER_BYTES] {
    let errno = result.err().map_or(0, Errno::raw_os_error);
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..ORDER_BYTES].copy_from_slice(&encode_order(order, ticket));
    bytes[ORDER_BYTES..].copy_from_slice(&errno.to_le_bytes());
    bytes
}

fn decode_answer(bytes: &[u8]) -> Option<(Ticket, Order, KernelResult<()>)> {
    let (order, errno) = bytes.split_at_checked(ORDER_BYTES)?;
    let (order, ticket) = decode_order(order)?;
    let result = match i32::from_le_bytes(errno.try_into().ok()?) {
        0 => Ok(()),
        // The kernel's range (IS_ERR_VALUE in include/linux/err.h); rustix panics on anything else.
        errno @ 1..=4095 => Err(Errno::from_raw_os_error(errno)),
        _ => return None,
    };
    Some((ticket, order, result))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Flush), Just(Order::Warm), Just(Order::Freeze), Just(Order::Thaw)]
    }

    proptest! {
        #[test]
        fn packets_survive_the_socket(order in order(), ticket: Ticket, errno in 0..=4095_i32) {
            prop_assert_eq!(decode_order(&encode_order(order, ticket)), Some((order, ticket)));
            let result = if errno == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(errno)) };
            prop_assert_eq!(decode_answer(&encode_answer(order, ticket, result)), Some((ticket, order, result)));
        }

        /// What is not exactly a packet is refused, so that a torn one cannot pass for a thaw that succeeded.
        #[test]
        fn anything_else_is_refused(code in prop_oneof![Just(b'T'), Just(b'F'), any::<u8>()], rest: Vec<u8>) {
            let bytes = [&[code], &rest[..]].concat();
            if let Some((order, ticket)) = decode_order(&bytes) {
                prop_assert_eq!(&encode_order(order, ticket)[..], &bytes[..]);
            }
            if let Some((ticket, order, result)) = decode_answer(&bytes) {
                prop_assert_eq!(&encode_answer(order, ticket, result)[..], &bytes[..]);
            }
        }

        #[test]
        fn no_errno_panics(order in order(), ticket: Ticket, errno: i32) {
            let mut bytes = encode_answer(order, ticket, Ok(()));
            bytes[ORDER_BYTES..].copy_from_slice(&errno.to_le_bytes());
            prop_assert_eq!(decode_answer(&bytes).is_some(), (0..=4095).contains(&errno));
        }
    }
}
