//! Which processes hold which locks: by their descriptors, and by their mappings where descriptors do not tell.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::agent::procfs::fdinfo::FdInfo;
use crate::agent::procfs::locks::{Kind, Lock};
use crate::agent::procfs::mountinfo::Mount;
use crate::agent::procfs::view::Process;
use crate::agent::procfs::{Device, each_line, each_number, maps, vanished};

/// A process with an open file, or a mapping, that keeps a lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The lock.
    pub lock: Lock,
    /// The file; `None`: the kernel does not let the agent know more than the inode's number.
    pub file: Option<LockedFile>,
    /// The process.
    pub pid: i32,
}

/// The names of a file with a lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedFile {
    /// Below the root of the filesystem; so the same in every mount namespace.
    pub below_root: PathBuf,
    /// As the process sees it.
    pub path: PathBuf,
}

/// Collects the holders of locks on one device.
pub struct Scan {
    device: Device,
    /// What was found, in no order.
    pub holders: Vec<Holder>,
    /// Processes that could not be looked into, and why.
    pub hidden: Vec<(i32, io::Error)>,
    buffer: Vec<u8>,
}

impl Scan {
    /// A scan that has looked at nothing yet.
    pub fn new(device: Device) -> Self {
        Self { device, holders: Vec::new(), hidden: Vec::new(), buffer: Vec::new() }
    }

    /// Looks at every descriptor of the processes. Safe while the filesystem is suspended.
    pub fn descriptors(&mut self, processes: &[&Process]) {
        for process in processes {
            match self.descriptors_of(process) {
                Err(error) if !vanished(&error) => self.hidden.push((process.pid, error)),
                _ => {}
            }
        }
    }

    /// By `fdinfo`, which since Linux 5.14 is open to whoever may trace the process. Its sibling `fd` has the links to the
    /// files, but belongs to the process's user alone.
    fn descriptors_of(&mut self, process: &Process) -> io::Result<()> {
        let infos = infos_of(process)?;
        each_number(&process.dir.join("fdinfo"), |number| match self.descriptor(process, &infos, number) {
            // A descriptor that was closed meanwhile holds nothing any more.
            Err(error) if !vanished(&error) => Err(error),
            _ => Ok(()),
        })
    }

    fn descriptor(&mut self, process: &Process, infos: &OwnedFd, number: RawFd) -> io::Result<()> {
        let info = info_of(infos, number, &mut self.buffer)?;
        let mut locks = info.locks.into_iter().filter(|lock| lock.device == self.device).peekable();
        if locks.peek().is_none() {
            return Ok(());
        }
        let file = path_of(process, number).map(|path| {
            let mount = process.mounts.iter().find(|mount| Some(mount.id) == info.mount_id);
            LockedFile { below_root: below_root(mount, &path), path }
        });
        self.holders.extend(locks.map(|lock| Holder { lock, file: file.clone(), pid: process.pid }));
        Ok(())
    }

    /// Looks for mappings of the files of these locks, which must be on the scan's device. Only for flocks: any other lock
    /// ends with its descriptor. Never while the filesystem is suspended: reading maps can hang.
    pub fn mappings(&mut self, processes: &[Process], locks: &[Lock]) {
        let flocks: Vec<&Lock> = locks.iter().filter(|lock| lock.kind == Kind::Flock).collect();
        if flocks.is_empty() {
            return;
        }
        for process in processes {
            let Ok(table) = File::open(process.dir.join("maps")) else { continue };
            let mount = process.mounts.iter().rfind(|mount| mount.device == self.device);
            // One holder for each, however many mappings it has: it only helps to name the holder.
            let mut named: Vec<&Lock> = Vec::new();
            let _ = each_line(table, &mut self.buffer, |line| {
                let line = String::from_utf8_lossy(line);
                for lock in &flocks {
                    let Some(name) = maps::mapped_file(&line, lock.device, lock.inode) else { continue };
                    if !named.contains(lock) {
                        named.push(lock);
                        let path = PathBuf::from(name);
                        let file = Some(LockedFile { below_root: below_root(mount, &path), path });
                        self.holders.push(Holder { lock: **lock, file, pid: process.pid });
                    }
                }
                ControlFlow::<()>::Continue(())
            });
        }
    }
}

/// The directory `fdinfo` of a process, for [`info_of`]: relative to it a file takes a third of the time that a whole path does.
pub fn infos_of(process: &Process) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(process.dir.join("fdinfo"), flags, Mode::empty())?)
}

/// What a descriptor's file below the directory `fdinfo` says of it.
pub fn info_of(infos: &OwnedFd, number: RawFd, buffer: &mut Vec<u8>) -> io::Result<FdInfo> {
    let file = rustix::fs::openat(infos, number.to_string(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut info = FdInfo::default();
    match each_line(File::from(file), buffer, |line| info.take(line))? {
        Some(Err(_)) => Err(io::Error::other(format!("fdinfo of descriptor {number} is not understood"))),
        Some(Ok(())) | None => Ok(info),
    }
}

/// The path of the file behind a descriptor of a process: through a duplicate of the descriptor, which needs the right to
/// trace the process and no other. `None` where duplicates are forbidden (seccomp, or Yama's `ptrace_scope` 3), or the
/// descriptor was closed meanwhile.
///
/// The duplicate disturbs no lock. POSIX locks belong to the holder's table of descriptors; closing a descriptor drops
/// those of the closing process, and the agent has none. OFD locks, flocks and leases belong to the open file, and end with
/// its last reference: a duplicate can only delay that, by the microseconds of one readlink(2). Should the holder close its
/// own within them, the last close is the agent's, and waits for the thaw when the filesystem is suspended, as the
/// holder's would have; the limits of the look and of the hold bound that.
pub fn path_of(process: &Process, number: RawFd) -> Option<PathBuf> {
    // A process whose first thread has ended has its descriptors in the others only.
    let flags = if process.thread == process.pid { PidfdFlags::empty() } else { PIDFD_THREAD };
    let pidfd = pidfd_open(Pid::from_raw(process.thread)?, flags).ok()?;
    let duplicate = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok()?;
    let link = format!("/proc/thread-self/fd/{}", duplicate.as_raw_fd());
    // Only the link: a stat(2) through the descriptor could wait for the thaw.
    let path = rustix::fs::readlink(link, Vec::new()).ok()?;
    Some(OsString::from_vec(path.into_bytes()).into())
}

/// `PIDFD_THREAD` of the kernel's `include/uapi/linux/pidfd.h`, since Linux 6.9: the process descriptor of a thread that is
/// not the first.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

/// Falls back to the path as the process sees it: it may have opened the file through a mount that it no longer sees.
fn below_root(mount: Option<&Mount>, path: &Path) -> PathBuf {
    mount.and_then(|mount| mount.below_root(path)).unwrap_or_else(|| path.to_owned())
}
