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

use std::collections::HashSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use stillpoint_api::Reason;

use super::dataset::{self, Dataset};
use super::procfs::locks::{self as lock_table, Line, Lock, Mode};
use super::procfs::view::{Process, View, blind_to};
use super::procfs::{Device, each_line, throttling};
use attribution::{attribute, unattributed};
use holders::Scan;
use stillpoint_core::blocker::blocker;
use stillpoint_core::limits::{MAX_BLOCKERS, MAX_LOCKS};
use stillpoint_core::wire::{Blocker, Container};

pub use holders::{info_of, infos_of};
pub use sightings::Sightings;
use stillpoint_core::locks::{Cost, Look, Suspension};

/// Looks once at the locks on the dataset. Every process with a lock for writing that was held at any time during the look is a
/// blocker (`LockHeld`), with one of its locks and how many more it has; requests that wait for a lock are not, nor are locks for reading: a reader does not
/// change the dataset.
///
/// `containers` are those of which the agent must see a process, or it is `Blind`. It is also `Blind` when a bound of
/// [`stillpoint_core::limits`] was hit, or when it is alone in its pid namespace.
///
/// One lock escapes it: a flock whose locker has ended, and which only a mapping keeps (the descriptor is closed), is in no
/// table that a nested pid namespace shows.
pub fn look(dataset: &Dataset, containers: &[Container], when: Suspension) -> Look {
    let (begun, throttled) = (Instant::now(), throttling::throttled());
    let (table, mut blind) = match held_locks(dataset.device) {
        Ok(table) => (table, Vec::new()),
        Err(why) => {
            let message = format!("the agent cannot tell which locks are held: {why}");
            (Vec::new(), vec![blocker(Reason::Blind, &message)])
        }
    };
    let view = View::gather(|mount| mount.device == dataset.device);
    blind.extend(view.blind);
    blind.extend(alone(std::process::id()));
    blind.extend(unseen_containers(&view.processes, containers));

    let lockers: HashSet<i32> = table.iter().map(|lock| lock.pid).collect();
    let likely = |process: &&Process| process.mounts_device(dataset.device) || lockers.contains(&process.pid);
    let (likely, unlikely): (Vec<_>, Vec<_>) = view.processes.iter().partition(likely);
    let mut scan = Scan::new(dataset.device);
    scan.descriptors(&likely);
    // A look while writes are suspended ends here, unless it finds what it must refuse.
    let cost = Cost { took: begun.elapsed(), throttled: throttled_since(throttled) };
    if when == Suspension::Writable || !unattributed(&table, &scan.holders).is_empty() {
        scan.descriptors(&unlikely);
    }
    if when == Suspension::Writable {
        let lost = unattributed(&table, &scan.holders);
        scan.mappings(&view.processes, &lost);
    }
    blind.extend(blind_to("the descriptors", &scan.hidden));
    if when == Suspension::Writable {
        blind.extend(dataset::operations(dataset));
        blind.extend(calls::long(&view.processes, dataset.device, containers));
    }

    let mut writes = attribute(&table, &scan.holders);
    writes.retain(|held| held.lock.mode == Mode::Write);
    let applications = describe::by_process(&writes, &view.processes);
    let total = blind.len() + applications.len();
    let locks = applications.iter().map(|locks| describe::blocker(locks, containers));
    let blockers: Vec<Blocker> = blind.into_iter().chain(locks).take(MAX_BLOCKERS).collect();
    let more_blockers = u32::try_from(total - blockers.len()).unwrap_or(u32::MAX);
    Look { blockers, more_blockers, cost }
}

/// For how long a CPU limit has held this agent up since it was so much.
fn throttled_since(before: Option<Duration>) -> Duration {
    let since = |before| Some(throttling::throttled()?.saturating_sub(before));
    before.and_then(since).unwrap_or_default()
}

/// The locks that are held on a device, by `/proc/locks`; or why that is not known. Whatever the node's other filesystems have
/// is passed over, however much it is.
fn held_locks(device: Device) -> Result<Vec<Lock>, String> {
    let mut held = Vec::new();
    let take = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        match lock_table::parse_line(&line) {
            Some(Line::Held(lock)) if lock.device == device => held.push(lock),
            Some(_) => {}
            None => return ControlFlow::Break(format!("this line of /proc/locks is not understood: {line:?}")),
        }
        match held.len() {
            0..=MAX_LOCKS => ControlFlow::Continue(()),
            _ => ControlFlow::Break(format!("the filesystem has more than {MAX_LOCKS} locks")),
        }
    };
    let wrong = File::open("/proc/locks").and_then(|table| each_line(table, &mut Vec::new(), take));
    match wrong {
        Ok(None) => Ok(held),
        Ok(Some(why)) => Err(why),
        Err(error) => Err(format!("/proc/locks: {error}")),
    }
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
