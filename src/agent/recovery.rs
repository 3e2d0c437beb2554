//! What a restarted agent does first: it gives back what the agent before it may have left suspended.
//!
//! Only what a [`Record`] names is undone, and only if the same device is still mounted at the same place in the same boot.
//! Every record has a thread of its own, because an undo can hang with the storage and must not hold up the other members;
//! one that hangs keeps its own member from being prepared.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::dataset;
use super::quiesce::{self, Owed, QUIESCERS};
use super::record::{self, Process, Record};
use crate::note;
use crate::undo::{self, Undo};
use stillpoint_core::hold::WasSuspended;
use stillpoint_core::limits::MAX_AGENT_MEMBERS;

/// Stack of one thread: it opens, calls ioctl, and logs.
const STACK: usize = 256 * 1024;

/// The recoveries that are under way.
#[derive(Default)]
pub struct Recovery {
    /// The claims' UIDs.
    under_way: Mutex<HashSet<String>>,
    one_ended: Condvar,
}

impl Recovery {
    /// Reads the records and begins to give back what they name.
    pub fn begin(directory: &Path) -> Arc<Self> {
        let recovery = Arc::new(Self::default());
        for (path, record) in find(directory) {
            recovery.set().insert(record.claim_uid.clone());
            let (done, claim_uid) = (Arc::clone(&recovery), record.claim_uid.clone());
            let work = move || {
                recover(&path, &record);
                done.ended(&record.claim_uid);
            };
            if let Err(error) = std::thread::Builder::new().name("recovery".to_owned()).stack_size(STACK).spawn(work) {
                tracing::error!(%error, claim_uid, "cannot start a thread that gives writes back");
            }
        }
        recovery
    }

    /// Waits until nothing of this claim is being given back any more, for at most `patience`. Says whether that is so.
    pub fn wait(&self, claim_uid: &str, patience: Duration) -> bool {
        let under_way = |set: &mut HashSet<String>| set.contains(claim_uid);
        let waited = self.one_ended.wait_timeout_while(self.set(), patience, under_way);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Whether something of this claim is still being given back.
    pub fn is_under_way(&self, claim_uid: &str) -> bool {
        self.set().contains(claim_uid)
    }

    /// One in which this claim is being given back.
    #[cfg(test)]
    pub fn of_claim(claim_uid: &str) -> Arc<Self> {
        let recovery = Self::default();
        recovery.set().insert(claim_uid.to_owned());
        Arc::new(recovery)
    }

    pub(super) fn ended(&self, claim_uid: &str) {
        self.set().remove(claim_uid);
        self.one_ended.notify_all();
    }

    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records that there are. What is none is left for people to look at.
fn find(directory: &Path) -> Vec<(PathBuf, Record)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(%error, directory = %directory.display(), "cannot read what an earlier agent has recorded");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match record::read(&path) {
            Ok(Some(_)) if found.len() == MAX_AGENT_MEMBERS => {
                tracing::error!(record = %path.display(), "more than {MAX_AGENT_MEMBERS} records: this one is left alone");
            }
            Ok(Some(record)) => found.push((path, record)),
            Ok(None) => remove(&path),
            Err(why) => tracing::error!(
                record = %path.display(),
                why,
                "not a record that this agent understands, so nothing is thawed for it; if writes to a volume of this pod \
                 hang, thaw it with `fsfreeze --unfreeze` on the node, then delete the file"
            ),
        }
    }
    found
}

/// Gives back what a record names, writes before the application. It stays where that failed: a later agent may do better.
fn recover(path: &Path, record: &Record) {
    let Record { claim, mount_path, .. } = record;
    let found = record.undo.map(|undo| (undo, still_there(record, undo)));
    let writes = match found {
        None => true,
        Some((undo, Ok(handle))) => resume(record, undo, &handle),
        Some((_, Err(Absent::Void(why)))) => {
            tracing::warn!(claim, ?mount_path, why, "the record of an earlier agent is void");
            true
        }
        // The next agent may see more.
        Some((_, Err(Absent::Unknown(why)))) => {
            tracing::error!(claim, ?mount_path, why, "cannot tell whether an earlier agent left writes suspended");
            false
        }
    };
    let application = record.owed.as_ref().is_none_or(|owed| unquiesce(claim, owed));
    if writes && application {
        remove(path);
    }
}

/// Whether writes go on.
fn resume(record: &Record, undo: Undo, handle: &OwnedFd) -> bool {
    let Record { claim, mount_path, .. } = record;
    tracing::warn!(claim, ?mount_path, "an earlier agent ended before it had given writes back: giving them back");
    let begun = Instant::now();
    let undone = match living(record.freezer) {
        Some(freezer) => undo::until_settled(undo, handle, &freezer),
        None => undo::for_certain(undo, handle),
    };
    let took = begun.elapsed();
    match undone {
        Ok(WasSuspended::Yes) => tracing::warn!(claim, ?took, "gave writes back in the place of an earlier agent"),
        Ok(WasSuspended::No) => tracing::info!(claim, ?took, "writes had already been given back"),
        Err(errno) => tracing::error!(claim, %errno, "cannot give writes back in the place of an earlier agent"),
    }
    undone.is_ok()
}

/// Whether the application goes on.
fn unquiesce(claim: &str, owed: &Owed) -> bool {
    let quiescer = &owed.quiescer;
    let given_back = quiesce::give_back(QUIESCERS, owed);
    match &given_back {
        Ok(_) => tracing::warn!(claim, quiescer, "let the application go on in the place of an earlier agent"),
        Err(why) => {
            tracing::error!(claim, quiescer, why, "cannot let the application go on that an earlier agent quiesced")
        }
    }
    given_back.is_ok()
}

/// Why what a record names is not to be undone.
enum Absent {
    /// It is gone.
    Void(String),
    /// Nobody can say.
    Unknown(String),
}

/// The handle of what the record names, if it is what it was.
fn still_there(record: &Record, undo: Undo) -> Result<OwnedFd, Absent> {
    let unknown = |error| Absent::Unknown(format!("the boot's id cannot be read: {error}"));
    if note::boot_id().map_err(unknown)? != record.boot_id {
        return Err(Absent::Void("the machine was booted since, and no freeze outlives that".to_owned()));
    }
    let dataset = dataset::find_again(record.reach, &record.mount_path).map_err(Absent::Unknown)?;
    if dataset.device != record.device {
        let why = format!("device {} is mounted there now, not {}", dataset.device, record.device);
        return Err(Absent::Void(why));
    }
    match undo {
        Undo::Thaw => Ok(dataset.root),
    }
}

/// The recorded process, if it lives. Its start is compared after it was opened, so that it cannot be another's.
fn living(process: Process) -> Option<OwnedFd> {
    let opened = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    (Process::find(process.pid).ok()? == process).then_some(opened)
}

fn remove(path: &Path) {
    if let Err(error) = note::remove(path) {
        tracing::error!(%error, record = %path.display(), "cannot remove a record");
    }
}
