//! The kernel's filesystem freeze: `FIFREEZE` and `FITHAW` (ioctl_fs(2), `linux/fs.h`).
//!
//! A freeze has no owner, no timeout, and does not nest: freezing a frozen filesystem answers `EBUSY`, thawing one that is
//! not frozen answers `EINVAL`, and whoever has `CAP_SYS_ADMIN` may thaw what another froze.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::ioctl::{IntegerSetter, Opcode, ioctl, opcode};
use rustix::process::{Signal, pidfd_send_signal};

use stillpoint_core::limits::THAW_RETRY;

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Suspends writes to the filesystem that `root` lies on. Returns when every write that had begun is finished and the
/// filesystem is consistent on its device; if a writer is stuck, that may be never, and no signal ends it.
///
/// # Errors
/// `EBUSY`: somebody froze it already. `EOPNOTSUPP`: this filesystem cannot be frozen. `EPERM`: no `CAP_SYS_ADMIN` in the
/// initial user namespace.
pub fn freeze(root: impl AsFd) -> Result<()> {
    // SAFETY: the kernel declares an int argument for FIFREEZE and reads nothing through it.
    unsafe { ioctl(root, IntegerSetter::<FIFREEZE>::new_usize(0)) }
}

/// Resumes writes to the filesystem that `root` lies on.
///
/// # Errors
/// `EINVAL`: it is not frozen (somebody else thawed it, or a freeze is still pending).
pub fn thaw(root: impl AsFd) -> Result<()> {
    // SAFETY: the kernel declares an int argument for FITHAW and reads nothing through it.
    unsafe { ioctl(root, IntegerSetter::<FITHAW>::new_usize(0)) }
}

/// Thaws what nobody is freezing any more, until the kernel has answered.
///
/// # Errors
/// `EINVAL`: it was not frozen. Anything else: no later try could end otherwise (`EPERM`, or no such operation).
pub fn thaw_for_certain(root: impl AsFd) -> Result<()> {
    loop {
        match thaw(&root) {
            answered @ (Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP)) => return answered,
            Err(_) => std::thread::sleep(THAW_RETRY),
        }
    }
}

/// Kills the process behind `freezer` and thaws until nothing of it is frozen or can be any more: a thaw answered OK, or
/// `EINVAL` after the process was gone.
///
/// One thaw is not enough. A freeze that waits for a stuck writer answers `EINVAL` to every thaw, cannot be killed, and
/// still completes when the writer ends, even though its caller was killed long before. More thaws than it takes are wrong
/// too: a freezer has one order at a time, so what is frozen after a thaw that answered OK is somebody else's.
///
/// # Errors
/// As [`thaw_for_certain`].
pub fn thaw_until_settled(root: impl AsFd, freezer: impl AsFd) -> Result<()> {
    // This only hastens it, and nothing depends on it: from a pid namespace that does not contain the process it fails
    // (`EINVAL`), and then the process ends when its agent lets go of it, or with its agent.
    let _ = pidfd_send_signal(&freezer, Signal::KILL);
    loop {
        let gone = has_exited(&freezer, Duration::ZERO);
        match thaw(&root) {
            Ok(()) => return Ok(()),
            Err(_) if gone => return thaw_for_certain(root),
            Err(_) => has_exited(&freezer, THAW_RETRY),
        };
    }
}

/// Whether the process behind a pidfd has exited, waiting at most `patience` for it.
fn has_exited(process: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1))
}
