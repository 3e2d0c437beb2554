//! Who holds a lock on the dataset?
//!
//! No single table of the kernel says it all, so a look joins two: `/proc/locks`, which knows every lock but not always
//! its process, and the fdinfo of the pod's processes, which knows the path and every heir of a descriptor. What cannot
//! be seen is reported as a blocker too: blind is not clean.

mod attribution;
mod calls;
mod describe;
mod holders;
mod sightings;

use std::path::Path;
use stillpoint_api::Reason;

use super::dataset::{self, Dataset};
use super::procfs::locks::{self as lock_table, Line, Lock, Mode};
use super::procfs::view::{Process, View, blind_to};
use super::procfs::{self, Device};
use attribution::{attribute, unattributed};
use holders::Scan;
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::{MAX_BLOCKERS, MAX_LOCKS};
use stillpoint_core::wire::{Blocker, Container};

pub use sightings::Sightings;
use stillpoint_core::locks::{Look, Suspension};

/// Looks once at the locks on the dataset. Every lock for writing that was held at any time during the look is a blocker
/// (`LockHeld`), whoever holds it; requests that wait for a lock are not, nor are locks for reading: a reader does not
/// change the dataset.
///
/// `containers` are those of which the agent must see a process, or it is `Blind`. It is also `Blind` when a bound of
/// [`stillpoint_core::limits`] was hit, or when it is alone in its pid namespace.
///
/// One lock escapes it: a flock whose locker has ended, and which only a mapping keeps (the descriptor is closed), is in no
/// table that a nested pid namespace shows.
pub fn look(dataset: &Dataset, containers: &[Container], when: Suspension) -> Look {
    let (table, mut blind) = match held_locks(dataset.device) {
        Ok(table) => (table, Vec::new()),
        Err(why) => {
            let message = format!("the agent cannot tell which locks are held: {why}");
            (Vec::new(), vec![blocker(Reason::Blind, &message)])
        }
    };
    let view = View::gather();
    blind.extend(view.blind);
    blind.extend(alone(std::process::id()));
    blind.extend(unseen_containers(&view.processes, containers));

    let likely = |process: &&Process| {
        when == Suspension::Writable
            || process.mounts_device(dataset.device)
            || table.iter().any(|lock| lock.pid == process.pid)
    };
    let (likely, unlikely): (Vec<_>, Vec<_>) = view.processes.iter().partition(likely);
    let mut scan = Scan::new(dataset.device);
    scan.descriptors(&likely);
    if !unattributed(&table, &scan.holders).is_empty() {
        scan.descriptors(&unlikely);
    }
    if when == Suspension::Writable {
        let lost = unattributed(&table, &scan.holders);
        scan.mappings(&likely, &lost);
    }
    blind.extend(blind_to("the descriptors", &scan.hidden));
    if when == Suspension::Writable {
        blind.extend(dataset::operations(dataset));
        blind.extend(calls::long(&view.processes, dataset.device, containers));
    }

    let mut writes = attribute(&table, &scan.holders);
    writes.retain(|held| held.lock.mode == Mode::Write);
    let total = blind.len() + writes.len();
    let locks = writes.iter().map(|held| describe::blocker(held, &view.processes, containers));
    let blockers: Vec<Blocker> = blind.into_iter().chain(locks).take(MAX_BLOCKERS).collect();
    let more_blockers = u32::try_from(total - blockers.len()).unwrap_or(u32::MAX);
    Look { blockers, more_blockers }
}

/// The locks that are held on a device, by `/proc/locks`; or why that is not known.
fn held_locks(device: Device) -> Result<Vec<Lock>, String> {
    let table = procfs::read(Path::new("/proc/locks")).map_err(|error| format!("/proc/locks: {error}"))?;
    let table = String::from_utf8_lossy(&table);
    if table.lines().nth(MAX_LOCKS).is_some() {
        return Err(format!("the node has more than {MAX_LOCKS} locks"));
    }
    let mut held = Vec::new();
    for line in table.lines() {
        match lock_table::parse_line(line) {
            Some(Line::Held(lock)) if lock.device == device => held.push(lock),
            Some(_) => {}
            None => return Err(format!("this line of /proc/locks is not understood: {line:?}")),
        }
    }
    Ok(held)
}

/// A container that shares its process namespace is never process 1: that is the pod's pause process.
fn alone(own_pid: u32) -> Option<Blocker> {
    let message =
        "the agent sees only the processes of its own container: set shareProcessNamespace to true in the pod's spec";
    (own_pid == 1).then(|| blocker(Reason::Blind, message))
}

/// A blocker for each container of which no process is in view.
fn unseen_containers(processes: &[Process], containers: &[Container]) -> Vec<Blocker> {
    let mut unseen: Vec<&Container> = containers.iter().collect();
    for process in processes {
        if unseen.is_empty() {
            break;
        }
        let ids = process.container_ids();
        unseen.retain(|container| !ids.contains(&container.id));
    }
    let blind = |container: &Container| Blocker {
        container_id: container.id.clone(),
        ..blocker(
            Reason::Blind,
            &format!(
                "the agent sees no process of container {}: set shareProcessNamespace to true in the pod's spec; if it is, \
                 the container has just ended or restarted",
                container.name
            ),
        )
    };
    unseen.into_iter().map(blind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_1_is_blind() {
        assert_eq!(alone(1).map(|blocker| blocker.reason), Some(Reason::Blind.as_str().to_owned()));
        assert_eq!(alone(2), None);
    }
}
