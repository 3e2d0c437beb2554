//! Puts a lock into words: who holds what, where.

use super::attribution::Held;
use crate::agent::procfs::locks::{Kind, Lock};
use crate::agent::procfs::view::Process;
use stillpoint_api::Reason;
use stillpoint_core::blocker::blocker as worded;
use stillpoint_core::limits::{MAX_PATH_CHARS, MAX_WORD_CHARS};
use stillpoint_core::text::printable;
use stillpoint_core::wire;

/// Characters of a container's id in a message, when it has no name: as runtimes abbreviate it.
const SHORT_ID: usize = 12;

/// The blocker for a lock. Reads the holder's name and container; one that has ended meanwhile stays unnamed.
///
/// A lock without a known holder falls to the process that the lock's record names, if that is in view.
pub fn blocker(held: &Held, processes: &[Process], containers: &[wire::Container]) -> wire::Blocker {
    let pid = held.holder.as_ref().map_or(held.lock.pid, |holder| holder.pid);
    let process = processes.iter().find(|process| process.pid == pid);
    let name = printable(&process.map(Process::name).unwrap_or_default(), MAX_WORD_CHARS);
    let container_id = process.map(|process| container_of(process, containers)).unwrap_or_default();

    let holder = match process {
        Some(_) => format!("process {pid} ({name}) in {}", container_name(&container_id, containers)),
        None => "a process that is not visible to the agent".to_owned(),
    };
    let locked = held.holder.as_ref().and_then(|holder| holder.file.as_ref());
    let file = match locked {
        Some(file) => file.path.display().to_string(),
        None => format!("the file with inode {}", held.lock.inode),
    };
    let message = match process {
        Some(_) => format!("{holder} {} {file}", claim(&held.lock)),
        None => format!("{holder} {} {file}: see lslocks on the node", claim(&held.lock)),
    };
    let below_root = locked.map(|file| file.below_root.display().to_string());
    wire::Blocker {
        container_id,
        pid: process.map_or(0, |process| process.pid),
        process: name,
        lock: Some(wire::Lock {
            kind: held.lock.kind.to_string(),
            mode: held.lock.mode.to_string(),
            start: held.lock.start,
            end: held.lock.end,
        }),
        path: printable(&below_root.unwrap_or_default(), MAX_PATH_CHARS),
        ..worded(Reason::LockHeld, &message)
    }
}

/// Of the containers that a process runs in, the pod's; or the innermost, if none is known.
pub fn container_of(process: &Process, containers: &[wire::Container]) -> String {
    let ids = process.container_ids();
    let known = ids.iter().find(|id| containers.iter().any(|container| container.id == **id));
    known.or(ids.last()).cloned().unwrap_or_default()
}

/// A container as a sentence names it.
pub fn container_name(id: &str, containers: &[wire::Container]) -> String {
    match containers.iter().find(|container| container.id == id) {
        Some(container) => format!("container {}", container.name),
        None if id.is_empty() => "no container".to_owned(),
        None => format!("container {}", id.chars().take(SHORT_ID).collect::<String>()),
    }
}

/// `holds a POSIX WRITE lock on bytes 0-511 of`.
fn claim(lock: &Lock) -> String {
    let range = match (lock.start, lock.end) {
        (0, None) => String::new(),
        (start, None) => format!("bytes {start} to the end of "),
        (start, Some(end)) if start == end => format!("byte {start} of "),
        (start, Some(end)) => format!("bytes {start}-{end} of "),
    };
    let what = match lock.kind {
        Kind::Lease => format!("a {} lease", lock.mode),
        kind @ (Kind::Ofd | Kind::Unknown) => format!("an {kind} {} lock", lock.mode),
        kind => format!("a {kind} {} lock", lock.mode),
    };
    format!("holds {what} on {range}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::locks::holders::Holder;
    use crate::agent::procfs::Device;
    use crate::agent::procfs::locks::Mode;

    const RECORD: Lock = Lock {
        kind: Kind::Posix,
        mode: Mode::Write,
        pid: 0,
        device: Device { major: 7, minor: 0 },
        inode: 12,
        start: 0,
        end: None,
    };

    #[test]
    fn ranges_and_leases_read_well() {
        let range = |start, end| claim(&Lock { start, end, ..RECORD });
        assert_eq!(range(0, None), "holds a POSIX WRITE lock on");
        assert_eq!(range(0, Some(511)), "holds a POSIX WRITE lock on bytes 0-511 of");
        assert_eq!(range(120, Some(120)), "holds a POSIX WRITE lock on byte 120 of");
        assert_eq!(range(512, None), "holds a POSIX WRITE lock on bytes 512 to the end of");
        assert_eq!(claim(&Lock { kind: Kind::Lease, ..RECORD }), "holds a WRITE lease on");
    }

    #[test]
    fn a_file_without_a_name_is_told_by_its_inode() {
        let process = Process { pid: 40, thread: 40, dir: "/nowhere".into(), mounts: [].into() };
        let holder = Some(Holder { lock: RECORD, file: None, pid: 40 });
        let blocker = blocker(&Held { lock: RECORD, holder }, &[process], &[]);
        assert!(blocker.message.contains("process 40") && blocker.message.ends_with("inode 12"), "{}", blocker.message);
        assert_eq!((blocker.pid, blocker.path.as_str()), (40, ""));
    }

    #[test]
    fn a_lock_of_nobody_in_view_still_blocks() {
        let blocker = blocker(&Held { lock: RECORD, holder: None }, &[], &[]);
        assert_eq!(blocker.reason, Reason::LockHeld);
        assert!(blocker.message.contains("not visible") && blocker.message.contains("inode 12"), "{}", blocker.message);
        assert_eq!((blocker.pid, blocker.path.as_str()), (0, ""));
    }
}
