//! Which processes hold which locks: by their descriptors, and by their mappings where descriptors do not tell.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::agent::procfs::locks::{Kind, Lock};
use crate::agent::procfs::mountinfo::Mount;
use crate::agent::procfs::view::Process;
use crate::agent::procfs::{Device, fdinfo, maps, numbers, read, read_file, vanished};
use crate::limits::MAX_DESCRIPTORS;

/// A process with an open file, or a mapping, that keeps a lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The lock.
    pub lock: Lock,
    /// The file, below the root of the filesystem; so the same in every mount namespace.
    pub below_root: PathBuf,
    /// The file, as the process sees it.
    pub path: PathBuf,
    /// The process.
    pub pid: i32,
}

/// Collects the holders of locks on one device.
pub struct Scan {
    device: Device,
    /// What was found, in no order.
    pub holders: Vec<Holder>,
    /// Processes that could not be looked into, and why.
    pub hidden: Vec<(i32, io::Error)>,
}

impl Scan {
    /// A scan that has looked at nothing yet.
    pub fn new(device: Device) -> Self {
        Self { device, holders: Vec::new(), hidden: Vec::new() }
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

    fn descriptors_of(&mut self, process: &Process) -> io::Result<()> {
        // Relative to open directories: a third of the time that whole paths take.
        let links = directory(&process.dir.join("fd"))?;
        let infos = directory(&process.dir.join("fdinfo"))?;
        for number in numbers(&process.dir.join("fd"), MAX_DESCRIPTORS)? {
            match self.descriptor(process, &links, &infos, &number.to_string()) {
                // A descriptor that was closed meanwhile holds nothing any more.
                Err(error) if !vanished(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn descriptor(&mut self, process: &Process, links: &OwnedFd, infos: &OwnedFd, number: &str) -> io::Result<()> {
        let link = rustix::fs::readlinkat(links, number, Vec::new())?;
        let path = Path::new(OsStr::from_bytes(link.to_bytes()));
        if !path.is_absolute() {
            // A socket, a pipe or an anonymous inode.
            return Ok(());
        }
        let file = rustix::fs::openat(infos, number, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let text = read_file(file.into())?;
        let info = fdinfo::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::other(format!("fdinfo of descriptor {number} is not understood")))?;
        for lock in info.locks.into_iter().filter(|lock| lock.device == self.device) {
            let mount = process.mounts.iter().find(|mount| Some(mount.id) == info.mount_id);
            let below_root = below_root(mount, path);
            self.holders.push(Holder { lock, below_root, path: path.to_owned(), pid: process.pid });
        }
        Ok(())
    }

    /// Looks for mappings of the files of these locks, which must be on the scan's device. Only for flocks: any other lock
    /// ends with its descriptor. Never while the filesystem is suspended: reading maps can hang.
    pub fn mappings(&mut self, processes: &[&Process], locks: &[Lock]) {
        for lock in locks.iter().filter(|lock| lock.kind == Kind::Flock) {
            for process in processes {
                let Ok(text) = read(&process.dir.join("maps")) else { continue };
                let text = String::from_utf8_lossy(&text);
                let Some(name) = maps::mapped_file(&text, lock.device, lock.inode) else { continue };
                let mount = process.mounts.iter().rfind(|mount| mount.device == self.device);
                let path = PathBuf::from(name);
                self.holders.push(Holder { lock: *lock, below_root: below_root(mount, &path), path, pid: process.pid });
            }
        }
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Falls back to the path as the process sees it: it may have opened the file through a mount that it no longer sees.
fn below_root(mount: Option<&Mount>, path: &Path) -> PathBuf {
    mount.and_then(|mount| mount.below_root(path)).unwrap_or_else(|| path.to_owned())
}
