//! The guarding of one member: one connection, one thread.

use std::io::{IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send};

use super::Counted;
use super::ledger::{Ledger, Promise};
use super::protocol::{Answer, Request, Scope};
use crate::undo::{self, Undo};
use stillpoint_core::hold::WasSuspended;
use stillpoint_core::hold::guard::{Event, Reason, Step, Watch};
use stillpoint_core::limits::{GUARDIAN_TIMEOUT, MAX_GUARDIAN_MESSAGE};

/// What is guarded.
struct Guarded {
    label: String,
    undo: Undo,
    handle: OwnedFd,
    freezer: OwnedFd,
}

/// Guards until the connection ends or the deadline passes, and resumes writes if that is owed.
pub(super) fn guard(connection: &OwnedFd, scope: Scope, owed: &Arc<AtomicUsize>, ledger: &Arc<Ledger>) {
    let guarded = match receive(connection) {
        Ok(guarded) => guarded,
        Err(why) => {
            tracing::warn!(why, "refused to guard");
            return refuse(connection, &why);
        }
    };
    ledger.give_back(guarded.undo, &guarded.handle, &guarded.label);
    if answer(connection, &Answer::Guarding { scope }).is_err() {
        return;
    }
    let Some((reason, owed)) = watch(connection, &guarded, owed, ledger) else { return };
    // The agent must see at once that the hold is over, also while the undo is still being repeated.
    let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
    let begun = Instant::now();
    let undone = undo::until_settled(guarded.undo, &guarded.handle, &guarded.freezer);
    drop(owed);
    let (member, why, took) = (guarded.label, reason.text(), begun.elapsed());
    match undone {
        Ok(WasSuspended::Yes) => tracing::warn!(member, why, ?took, "gave writes back in the agent's place"),
        Ok(WasSuspended::No) => tracing::info!(member, why, ?took, "writes had already been given back"),
        Err(errno) => tracing::error!(member, why, %errno, "cannot give writes back: has the guardian SYS_ADMIN?"),
    }
}

/// Says why not. An agent that is gone need not be told.
pub(super) fn refuse(connection: &OwnedFd, why: &str) {
    let _ = answer(connection, &Answer::Refused { why: why.to_owned() });
}

/// What a guardian owes: counted for one that is told to stop, and noted for one that follows it.
struct Owed {
    _counted: Counted,
    _noted: Promise,
}

/// Follows the agent's orders until an undo is owed, and returns why, or until nothing is. What is owed is counted and noted
/// without a gap, from before the agent is promised anything to the end of the undo.
fn watch(
    connection: &OwnedFd,
    guarded: &Guarded,
    count: &Arc<AtomicUsize>,
    ledger: &Arc<Ledger>,
) -> Option<(Reason, Owed)> {
    let mut watch = Watch::default();
    let mut owed: Option<Owed> = None;
    loop {
        let patience = watch.poll_timeout().map(|due| due.saturating_duration_since(Instant::now()));
        let event = match wait(connection, patience) {
            Ok(true) => next(connection),
            Ok(false) => Event::Timeout,
            Err(_) => Event::Closed,
        };
        let step = watch.handle(event, Instant::now());
        if !watch.owes() {
            owed = None;
        } else if owed.is_none() {
            match ledger.promise(guarded.undo, &guarded.handle, &guarded.label) {
                Ok(noted) => owed = Some(Owed { _counted: Counted::new(count), _noted: noted }),
                Err(error) => {
                    // Nothing was promised, so the agent does not suspend.
                    tracing::error!(member = guarded.label, %error, "cannot note what would be owed, so nothing is promised");
                    refuse(connection, &format!("it cannot note what it would owe: {error}"));
                    return None;
                }
            }
        }
        match step {
            Step::Wait => {}
            // An agent that cannot be answered is gone: the next wait says so.
            Step::Promise { ticket } => drop(answer(connection, &Answer::Armed { ticket })),
            Step::Thaw(reason) => return Some((reason, owed?)),
            Step::Leave => return None,
        }
    }
}

fn next(connection: &OwnedFd) -> Event {
    let mut buffer = [0; MAX_GUARDIAN_MESSAGE];
    match recv(connection, &mut buffer[..], RecvFlags::DONTWAIT) {
        // An empty packet looks the same, and no agent sends one.
        Ok((0, _)) | Err(_) => Event::Closed,
        Ok((bytes, _)) => match Request::decode(&buffer[..bytes]) {
            Some(Request::Arm { ticket, limit }) => Event::Arm { ticket, limit },
            Some(Request::Disarm) => Event::Disarm,
            Some(Request::Guard { .. }) | None => Event::Nonsense,
        },
    }
}

fn receive(connection: &OwnedFd) -> std::result::Result<Guarded, String> {
    if !wait(connection, Some(GUARDIAN_TIMEOUT)).unwrap_or(false) {
        return Err(format!("nothing was said for {GUARDIAN_TIMEOUT:?}"));
    }
    let mut buffer = [0; MAX_GUARDIAN_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(connection, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)
        .map_err(|errno| format!("nothing could be received: {errno}"))?;
    let mut descriptors = Vec::with_capacity(2);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let (Some(Request::Guard { undo, label }), Ok([handle, freezer])) =
        (Request::decode(&buffer[..received.bytes]), <[OwnedFd; 2]>::try_from(descriptors))
    else {
        return Err("the first message must be Guard with two descriptors".to_owned());
    };
    undo.check(&handle)?;
    check_process(&freezer)?;
    Ok(Guarded { label, undo, handle, freezer })
}

fn check_process(process: &OwnedFd) -> std::result::Result<(), String> {
    // Told by its link ("anon_inode:[pidfd]", or "pidfd:[inode]" since Linux 6.9), because the process may be in a pid
    // namespace that is not ours.
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", process.as_raw_fd()), Vec::new());
    if link.is_ok_and(|link| link.as_bytes() == b"anon_inode:[pidfd]" || link.as_bytes().starts_with(b"pidfd:")) {
        return Ok(());
    }
    Err("the second descriptor must be a pidfd of the freezer".to_owned())
}

fn answer(connection: &OwnedFd, answer: &Answer) -> Result<()> {
    send(connection, &answer.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Whether there is something to read (also the end of the connection) before `patience` runs out.
fn wait(connection: impl AsFd, patience: Option<Duration>) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let left = patience.map(|patience| patience.saturating_sub(begun.elapsed()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&connection, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if left.is_none_or(|left| left > Duration::ZERO) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
