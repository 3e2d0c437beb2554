//! The kernel's filesystem freeze: `FIFREEZE` and `FITHAW` (ioctl_fs(2), `linux/fs.h`).
//!
//! A freeze has no owner, no timeout, and does not nest: freezing a frozen filesystem answers `EBUSY`, thawing one that is
//! not frozen answers `EINVAL`, and whoever has `CAP_SYS_ADMIN` may thaw what another froze.

use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{IntegerSetter, Opcode, ioctl, opcode};

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
