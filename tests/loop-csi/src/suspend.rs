//! Suspends the writes to one volume while its image is copied, so that the copy shows one instant, as the snapshot of
//! real storage does.
//!
//! A filesystem suspended by FIFREEZE stays so when whoever did it dies, so the driver never does it itself. It starts a
//! holding process that owns a descriptor of the mount, suspends, and resumes as soon as it is told to, the driver's end
//! of their socket closes, or the hold limit passes.
//!
//! | direction | byte | meaning |
//! |---|---|---|
//! | to the driver | `S` | suspended, the hold begins |
//! | to the driver | `B` | suspended by somebody else (EBUSY), left alone |
//! | to the driver | `E` | could not be suspended; the rest of the message says why |
//! | to the holder | `R` | resume |
//! | to the driver | `R` | resumed, held without a break until now |
//! | to the driver | `V` | somebody else resumed it meanwhile; the copy is void |

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::ioctl::{self, NoArg, Opcode};

use crate::limits;

// Request codes from the kernel's linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const FIFREEZE: Opcode = 0xC004_5877;
const FITHAW: Opcode = 0xC004_5878;

/// The name of the subcommand that runs [`hold`]. Its argument is the limit in milliseconds.
pub const HOLD_COMMAND: &str = "hold-suspended";

/// What came of the wish to suspend.
pub enum Outcome {
    /// Writes are suspended until the hold is released or dropped.
    Held(Hold),
    /// Somebody else has suspended the filesystem already, and it is theirs to resume.
    HeldByAnother,
}

/// Suspended writes. Dropping it resumes them.
pub struct Hold {
    socket: Option<UnixStream>,
    holder: Child,
}

/// Suspends the writes to the filesystem mounted at `mount`.
///
/// # Errors
/// When the filesystem cannot be suspended, or is not within [`limits::SUSPEND_TIMEOUT`]: a writer that is stuck in
/// write(2) delays it. The holding process then resumes as soon as it gets through.
pub fn suspend(mount: &Path) -> Result<Outcome> {
    let mount_root = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    let (mut socket, holders_end) = UnixStream::pair().context("making a socket pair")?;
    socket.set_read_timeout(Some(limits::SUSPEND_TIMEOUT))?;
    // The descriptors go as standard input and output: those need no preparation between fork and exec, and no other
    // child started meanwhile can inherit them.
    let holder = Command::new("/proc/self/exe")
        .arg(HOLD_COMMAND)
        .arg(limits::HOLD_LIMIT.as_millis().to_string())
        .stdin(OwnedFd::from(holders_end))
        .stdout(OwnedFd::from(mount_root))
        .spawn()
        .context("starting the holding process")?;
    let mut first = [0];
    let answer = socket.read_exact(&mut first).map(|()| first);
    let mut hold = Hold { socket: Some(socket), holder };
    match answer {
        Ok([b'S']) => Ok(Outcome::Held(hold)),
        Ok([b'B']) => Ok(Outcome::HeldByAnother),
        Ok([b'E']) => {
            let mut why = String::new();
            if let Some(socket) = &mut hold.socket {
                socket.read_to_string(&mut why)?;
            }
            bail!("cannot suspend the writes to {}: {why}", mount.display())
        }
        Ok([byte]) => bail!("the holding process answered {byte:#x}, which it never should"),
        Err(error) => Err(error).with_context(|| {
            format!("the writes to {} could not be suspended within {:?}", mount.display(), limits::SUSPEND_TIMEOUT)
        }),
    }
}

impl Hold {
    /// Resumes the writes.
    ///
    /// # Errors
    /// When they did not stay suspended until now, because the hold limit passed or somebody else resumed them. What
    /// was copied meanwhile is void.
    pub fn release(mut self) -> Result<()> {
        let Some(mut socket) = self.socket.take() else { bail!("released twice") };
        let mut answer = [0];
        let told = socket.write_all(b"R").and_then(|()| socket.read_exact(&mut answer));
        match (told, answer) {
            (Ok(()), [b'R']) => Ok(()),
            (Ok(()), _) => bail!("somebody else resumed the volume's writes while it was copied"),
            (Err(error), _) => Err(error).with_context(|| {
                format!("the hold did not last until the copy was made (limit {:?})", limits::HOLD_LIMIT)
            }),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The holder resumes when this end closes.
        self.socket = None;
        // Wait, so that no mount descriptor outlives the call. A holder stuck in FIFREEZE cannot be waited for here;
        // it is left to init, and closes its descriptor when it gets through.
        for _ in 0..limits::LOOP_ATTEMPTS {
            if !matches!(self.holder.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(limits::TOOL_POLL);
        }
        tracing::error!(process = self.holder.id(), "the holding process has not ended yet");
    }
}

/// The holding process: suspends the filesystem whose root is standard output, as told over the socket that is standard
/// input. Ends when the filesystem is resumed, after `limit` at the latest.
pub fn hold(limit: Duration) -> Result<()> {
    let mount_root = std::io::stdout().as_fd().try_clone_to_owned().context("taking the mount's descriptor")?;
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().context("taking the socket")?);
    match freeze(&mount_root) {
        Ok(()) => {}
        Err(Errno::BUSY) => return Ok(socket.write_all(b"B")?),
        Err(error) => return Ok(write!(socket, "E{error}")?),
    }
    // From here on nothing may return before the thaw.
    let asked = socket
        .set_read_timeout(Some(limit))
        .and_then(|()| socket.write_all(b"S"))
        .and_then(|()| socket.read_exact(&mut [0]));
    let thawed = thaw(&mount_root);
    match asked {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => bail!("the driver went away; resumed ({thawed:?})"),
        Err(error) => bail!("no word from the driver ({error}); resumed ({thawed:?})"),
    }
    match thawed {
        Ok(()) => Ok(socket.write_all(b"R")?),
        Err(_) => Ok(socket.write_all(b"V")?),
    }
}

/// Resumes the filesystem mounted at `mount` if it is suspended. Only for a hold that this driver began and did not
/// live to end.
pub fn resume_abandoned(mount: &Path) -> Result<()> {
    let mount_root = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    match thaw(&mount_root) {
        // EINVAL: not suspended.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("resuming the writes to {}", mount.display())),
    }
}

fn freeze(mount_root: impl AsFd) -> Result<(), Errno> {
    // SAFETY: the kernel ignores the request's argument.
    unsafe { ioctl::ioctl(mount_root, NoArg::<FIFREEZE>::new()) }
}

fn thaw(mount_root: impl AsFd) -> Result<(), Errno> {
    // SAFETY: the kernel ignores the request's argument.
    unsafe { ioctl::ioctl(mount_root, NoArg::<FITHAW>::new()) }
}
