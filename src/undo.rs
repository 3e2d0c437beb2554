//! What undoes a suspension: all that the guardian, the records and a recovery know of methods.
//!
//! An undo takes one descriptor, the handle, and needs nothing of whoever suspended. It may be repeated.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, FsWord, PROC_SUPER_MAGIC, fstat, fstatfs, fstatvfs, major, minor};
use rustix::io::{Errno, Result};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::fsfreeze::thaw;
use stillpoint_core::hold::WasSuspended;
use stillpoint_core::limits::THAW_RETRY;

/// One way to resume writes. Its names stand in notes and records, its codes in the guardian's protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// `FITHAW`; the handle is the root directory of the filesystem. What was written before there was another means this.
    #[default]
    Thaw,
}

impl Undo {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Thaw];

    /// The first byte of the message that hands a suspension to a guardian. A guardian that does not know it refuses, and then
    /// nothing is suspended; so no code may be taken that another message begins with.
    pub fn code(self) -> u8 {
        match self {
            Self::Thaw => b'G',
        }
    }

    /// `None`: no undo has this code.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|undo| undo.code() == code)
    }

    /// Whether this can be a handle: what can never have been suspended is a mistake.
    ///
    /// # Errors
    /// A sentence that says what the descriptor is instead.
    pub fn check(self, handle: &OwnedFd) -> std::result::Result<(), String> {
        match self {
            Self::Thaw => check_root(handle),
        }
    }

    /// A file name for what would be resumed, the same for every handle of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn name_of(self, handle: &OwnedFd) -> Result<String> {
        match self {
            // The device alone could be another's by now.
            Self::Thaw => {
                let (device, id) = (fstat(handle)?.st_dev, fstatvfs(handle)?.f_fsid);
                Ok(format!("{}-{}-{id:016x}", major(device), minor(device)))
            }
        }
    }

    /// What it means that a hold which was to end had ended before, as a sentence.
    pub fn broken(self) -> &'static str {
        match self {
            Self::Thaw => "somebody else thawed the filesystem during the hold",
        }
    }
}

fn check_root(root: &OwnedFd) -> std::result::Result<(), String> {
    const TMPFS: FsWord = 0x0102_1994;
    const OVERLAY: FsWord = 0x794c_7630;
    let stat = fstat(root).map_err(|errno| format!("the first descriptor cannot be read: {errno}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err("the first descriptor must be the root directory of the dataset".to_owned());
    }
    let magic = fstatfs(root).map_err(|errno| format!("the first descriptor has no filesystem: {errno}"))?.f_type;
    if matches!(magic, PROC_SUPER_MAGIC | TMPFS | OVERLAY) {
        return Err(format!("a filesystem of type {magic:#x} lies on no block device and cannot be frozen"));
    }
    Ok(())
}

/// Tries once to resume writes.
///
/// # Errors
/// The kernel's: nobody can say whether writes go on.
pub fn undo(what: Undo, handle: impl AsFd) -> Result<WasSuspended> {
    let undone = match what {
        Undo::Thaw => thaw(handle),
    };
    match undone {
        Ok(()) => Ok(WasSuspended::Yes),
        Err(Errno::INVAL) => Ok(WasSuspended::No),
        Err(errno) => Err(errno),
    }
}

/// Resumes what nobody is suspending any more, until the kernel has answered.
///
/// # Errors
/// No later try could end otherwise (`EPERM`, or no such operation).
pub fn for_certain(what: Undo, handle: impl AsFd) -> Result<WasSuspended> {
    loop {
        match undo(what, &handle) {
            answered @ (Ok(_) | Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP)) => return answered,
            Err(_) => std::thread::sleep(THAW_RETRY),
        }
    }
}

/// Kills the process behind `freezer` and resumes until nothing of it is suspended or can be any more: an undo found writes
/// suspended, or found none suspended after the process was gone.
///
/// One undo is not enough. A freeze that waits for a stuck writer answers `EINVAL` to every thaw, cannot be killed, and
/// still completes when the writer ends, even though its caller was killed long before. More undos than it takes are wrong
/// too: a freezer has one order at a time, so what is suspended after an undo that found something is somebody else's.
///
/// # Errors
/// As [`for_certain`].
pub fn until_settled(what: Undo, handle: impl AsFd, freezer: impl AsFd) -> Result<WasSuspended> {
    // This only hastens it, and nothing depends on it: from a pid namespace that does not contain the process it fails
    // (`EINVAL`), and then the process ends when its agent lets go of it, or with its agent.
    let _ = pidfd_send_signal(&freezer, Signal::KILL);
    loop {
        let gone = has_exited(&freezer, Duration::ZERO);
        match undo(what, &handle) {
            Ok(WasSuspended::Yes) => return Ok(WasSuspended::Yes),
            _ if gone => return for_certain(what, handle),
            _ => has_exited(&freezer, THAW_RETRY),
        };
    }
}

/// Whether the process behind a pidfd has exited, waiting at most `patience` for it.
fn has_exited(process: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1))
}
