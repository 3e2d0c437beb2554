//! Puts a lock into words: who holds what, where.

use std::collections::HashMap;
use std::path::Path;

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

/// The locks of one process, which are one blocker: an application may have hundreds.
pub struct Locks<'a> {
    /// `None`: of processes that are not in view.
    process: Option<&'a Process>,
    /// The one that is shown; of equal ones always the same, look after look.
    shown: &'a Held,
    /// How many more there are.
    more: usize,
}

/// Puts locks together by the process that holds them, in the order of the first of each. A lock without a known holder falls to
/// the process that the lock's record names, if that is in view.
pub fn by_process<'a>(locks: &'a [Held], processes: &'a [Process]) -> Vec<Locks<'a>> {
    let known: HashMap<i32, &Process> = processes.iter().map(|process| (process.pid, process)).collect();
    let mut places = HashMap::new();
    let mut all: Vec<Locks> = Vec::new();
    for held in locks {
        let pid = held.holder.as_ref().map_or(held.lock.pid, |holder| holder.pid);
        let process = known.get(&pid).copied();
        let place = *places.entry(process.map(|process| process.pid)).or_insert(all.len());
        match all.get_mut(place) {
            None => all.push(Locks { process, shown: held, more: 0 }),
            Some(known) => {
                known.more += 1;
                // Of files with names the first; they are better shown than one without.
                let rank = |held: &'a Held| (path_of(held).is_none(), path_of(held));
                if rank(held) < rank(known.shown) {
                    known.shown = held;
                }
            }
        }
    }
    all
}

fn path_of(held: &Held) -> Option<&Path> {
    Some(held.holder.as_ref()?.file.as_ref()?.path.as_path())
}

/// The blocker for the locks of a process. Reads its name and container; one that has ended meanwhile stays unnamed.
pub fn blocker(locks: &Locks, containers: &[wire::Container]) -> wire::Blocker {
    let Locks { process, shown: held, more } = *locks;
    let name = printable(&process.map(Process::name).unwrap_or_default(), MAX_WORD_CHARS);
    let container_id = process.map(|process| container_of(process, containers)).unwrap_or_default();

    let locked = held.holder.as_ref().and_then(|holder| holder.file.as_ref());
    let file = match locked {
        Some(file) => printable(&file.path.display().to_string(), MAX_PATH_CHARS),
        None => format!("the file with inode {}", held.lock.inode),
    };
    let others = match more {
        0 => String::new(),
        1 => ", and 1 more lock".to_owned(),
        more => format!(", and {more} more locks"),
    };
    let message = match process {
        Some(Process { pid, .. }) => {
            let container = container_name(&container_id, containers);
            format!("process {pid} ({name}) in {container} {} {file}{others}", claim(&held.lock))
        }
        None => format!(
            "a process that is not visible to the agent {} {file}{others}: see lslocks on the node",
            claim(&held.lock)
        ),
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
    use crate::agent::locks::holders::{Holder, LockedFile};
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
        let (held, processes) = ([Held { lock: RECORD, holder }], [process]);
        let [locks] = &by_process(&held, &processes)[..] else { panic!("one process") };
        let blocker = blocker(locks, &[]);
        assert!(blocker.message.contains("process 40") && blocker.message.ends_with("inode 12"), "{}", blocker.message);
        assert_eq!((blocker.pid, blocker.path.as_str()), (40, ""));
    }

    #[test]
    fn a_lock_of_nobody_in_view_still_blocks() {
        let held = [Held { lock: RECORD, holder: None }, Held { lock: RECORD, holder: None }];
        let [locks] = &by_process(&held, &[])[..] else { panic!("all of them together") };
        let blocker = blocker(locks, &[]);
        assert_eq!(blocker.reason, Reason::LockHeld);
        assert!(
            blocker.message.contains("not visible") && blocker.message.contains("inode 12, and 1 more lock: "),
            "{}",
            blocker.message
        );
        assert_eq!((blocker.pid, blocker.path.as_str()), (0, ""));
    }

    #[test]
    fn the_locks_of_a_process_are_told_by_its_first_file_whatever_their_order() {
        let process = |pid| Process { pid, thread: pid, dir: "/nowhere".into(), mounts: [].into() };
        let held = |pid, name: Option<&str>| {
            let file = name.map(|name| LockedFile { below_root: name.into(), path: name.into() });
            Held { lock: RECORD, holder: Some(Holder { lock: RECORD, file, pid }) }
        };
        let processes = [process(40), process(41)];
        let mut locks = [held(40, None), held(40, Some("b")), held(41, Some("c")), held(40, Some("a"))];
        for _ in 0..2 {
            let mut told: Vec<_> = by_process(&locks, &processes).iter().map(|locks| blocker(locks, &[])).collect();
            told.sort_by_key(|blocker| blocker.pid);
            let [first, second] = &told[..] else { panic!("{told:?}") };
            assert_eq!((first.pid, first.path.as_str(), second.pid, second.path.as_str()), (40, "a", 41, "c"));
            assert!(first.message.ends_with("a, and 2 more locks"), "{}", first.message);
            locks.reverse();
        }
    }
}
