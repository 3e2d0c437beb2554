//! Which volumes and snapshots exist on this node, and where.
//!
//! ```text
//! <data dir>/<node>/volumes/<id>/image            the sparse file
//!                               /volume.json      written last: without it the volume does not exist
//!                               /suspending       there while this driver holds the volume's writes
//!                  /snapshots/<name>/image
//!                                   /snapshot.json
//! ```

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::filesystem::FsType;
use crate::limits;

/// The record of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name and id at once.
    pub id: String,
    /// The filesystem in its image.
    pub fs_type: FsType,
    /// The image's length.
    pub capacity_bytes: u64,
    /// The id of the snapshot that it was restored from.
    pub source_snapshot: Option<String>,
}

/// The record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name; its id is this and the node's name.
    pub name: String,
    /// The volume it was taken of.
    pub source_volume_id: String,
    /// The filesystem in its image.
    pub fs_type: FsType,
    /// The image's length.
    pub size_bytes: u64,
    /// When the copy began, on this node's wall clock, in nanoseconds since 1970.
    pub created_unix_nanos: u64,
}

/// The records and images of one node.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    busy: Mutex<HashSet<String>>,
    freed: Condvar,
}

impl Store {
    /// Opens the part of `data_dir` that belongs to `node`, making it if it is not there.
    pub fn open(data_dir: &Path, node: &str) -> Result<Store> {
        let root = data_dir.join(node);
        for kind in ["volumes", "snapshots"] {
            let dir = root.join(kind);
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        Ok(Store { root, busy: Mutex::default(), freed: Condvar::new() })
    }

    /// The volume `id`, if it exists.
    pub fn volume(&self, id: &str) -> Result<Option<Volume>> {
        read_record(&self.volume_dir(id).join("volume.json"))
    }

    /// The snapshot `name`, if it exists.
    pub fn snapshot(&self, name: &str) -> Result<Option<Snapshot>> {
        read_record(&self.snapshot_dir(name).join("snapshot.json"))
    }

    /// Writes the record that makes the volume exist.
    pub fn save_volume(&self, volume: &Volume) -> Result<()> {
        write_record(&self.volume_dir(&volume.id), "volume.json", volume)
    }

    /// Writes the record that makes the snapshot exist.
    pub fn save_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        write_record(&self.snapshot_dir(&snapshot.name), "snapshot.json", snapshot)
    }

    /// Where the volume's image is.
    pub fn volume_image(&self, id: &str) -> PathBuf {
        self.volume_dir(id).join("image")
    }

    /// Where the snapshot's image is.
    pub fn snapshot_image(&self, name: &str) -> PathBuf {
        self.snapshot_dir(name).join("image")
    }

    /// Makes an empty folder for a new volume, removing what an unfinished attempt left.
    pub fn prepare_volume(&self, id: &str) -> Result<()> {
        make_empty(&self.volume_dir(id))
    }

    /// Makes an empty folder for a new snapshot, removing what an unfinished attempt left.
    pub fn prepare_snapshot(&self, name: &str) -> Result<()> {
        make_empty(&self.snapshot_dir(name))
    }

    /// Removes a volume: first its record, then its image.
    pub fn remove_volume(&self, id: &str) -> Result<()> {
        remove_file(&self.volume_dir(id).join("volume.json"))?;
        remove_dir(&self.volume_dir(id))
    }

    /// Removes a snapshot: first its record, then its image.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        remove_file(&self.snapshot_dir(name).join("snapshot.json"))?;
        remove_dir(&self.snapshot_dir(name))
    }

    /// Notes that this driver is about to suspend the volume's writes, so that its next start can resume them if it is
    /// killed together with its holding process.
    pub fn note_suspending(&self, id: &str) -> Result<()> {
        let path = self.suspending_note(id);
        fs::write(&path, "").with_context(|| format!("writing {}", path.display()))
    }

    /// Takes that note back.
    pub fn clear_suspending(&self, id: &str) -> Result<()> {
        remove_file(&self.suspending_note(id))
    }

    /// The volumes with such a note.
    pub fn suspending(&self) -> Result<Vec<String>> {
        let dir = self.root.join("volumes");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().filter(|id| self.suspending_note(id).exists()) {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    /// Waits until no other call works on the volume `id`, and keeps others from it until the guard is dropped.
    pub fn lock_volume(&self, id: &str) -> Result<Guard<'_>, Error> {
        self.lock(format!("volume {id}"))
    }

    /// The same for the snapshot `name`. A call that needs both takes the volume first.
    pub fn lock_snapshot(&self, name: &str) -> Result<Guard<'_>, Error> {
        self.lock(format!("snapshot {name}"))
    }

    fn lock(&self, what: String) -> Result<Guard<'_>, Error> {
        let deadline = Instant::now() + limits::BUSY_WAIT;
        let mut busy = self.busy();
        while !busy.insert(what.clone()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Busy(format!("another call on {what} is still under way: try again later")));
            }
            busy = self.freed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(busy);
        Ok(Guard { store: self, what })
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<String>> {
        // The set is whole at every point where a holder could panic.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume_dir(&self, id: &str) -> PathBuf {
        self.root.join("volumes").join(id)
    }

    fn snapshot_dir(&self, name: &str) -> PathBuf {
        self.root.join("snapshots").join(name)
    }

    fn suspending_note(&self, id: &str) -> PathBuf {
        self.volume_dir(id).join("suspending")
    }
}

/// Keeps other calls from one volume or snapshot.
#[derive(Debug)]
pub struct Guard<'a> {
    store: &'a Store,
    what: String,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.store.busy().remove(&self.what);
        self.store.freed.notify_all();
    }
}

fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
            Ok(Some(record))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes beside the target and renames, so that a reader sees the whole record or none.
fn write_record<T: Serialize>(dir: &Path, name: &str, record: &T) -> Result<()> {
    let (temporary, path) = (dir.join(format!("{name}.new")), dir.join(name));
    let bytes = serde_json::to_vec_pretty(record)?;
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("writing {}", path.display()))
}

fn make_empty(dir: &Path) -> Result<()> {
    remove_dir(dir)?;
    fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))
}

fn remove_dir(dir: &Path) -> Result<()> {
    gone(fs::remove_dir_all(dir)).with_context(|| format!("removing {}", dir.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    gone(fs::remove_file(path)).with_context(|| format!("removing {}", path.display()))
}

/// That it was not there is as good as that it was removed.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn volume() -> Volume {
        Volume { id: "a".into(), fs_type: FsType::Xfs, capacity_bytes: 1 << 20, source_snapshot: None }
    }

    #[test]
    fn a_volume_exists_from_its_record_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n1").unwrap();
        assert_eq!(store.volume("a").unwrap(), None);
        store.prepare_volume("a").unwrap();
        fs::write(store.volume_image("a"), "unfinished").unwrap();
        assert_eq!(store.volume("a").unwrap(), None);
        store.prepare_volume("a").unwrap();
        assert!(!store.volume_image("a").exists());
        store.save_volume(&volume()).unwrap();
        assert_eq!(Store::open(dir.path(), "n1").unwrap().volume("a").unwrap(), Some(volume()));
        assert_eq!(Store::open(dir.path(), "n2").unwrap().volume("a").unwrap(), None);
        store.remove_volume("a").unwrap();
        store.remove_volume("a").unwrap();
        assert_eq!(store.volume("a").unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_absence() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n1").unwrap();
        store.prepare_volume("a").unwrap();
        fs::write(store.volume_dir("a").join("volume.json"), "{").unwrap();
        assert!(store.volume("a").is_err());
    }

    #[test]
    fn notes_of_suspending_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n1").unwrap();
        store.prepare_volume("a").unwrap();
        store.prepare_volume("b").unwrap();
        store.note_suspending("b").unwrap();
        assert_eq!(store.suspending().unwrap(), ["b"]);
        store.clear_suspending("b").unwrap();
        assert!(store.suspending().unwrap().is_empty());
    }

    #[test]
    fn one_call_at_a_time_works_on_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), "n1").unwrap());
        let first = store.lock_volume("a").unwrap();
        let released = Arc::new(AtomicBool::new(false));
        let second = std::thread::spawn({
            let (store, released) = (store.clone(), released.clone());
            move || {
                let _guard = store.lock_volume("a").unwrap();
                released.load(Ordering::SeqCst)
            }
        });
        let _other_volume = store.lock_volume("b").unwrap();
        let _snapshot_of_that_name = store.lock_snapshot("a").unwrap();
        released.store(true, Ordering::SeqCst);
        drop(first);
        assert!(second.join().unwrap(), "the second call did not wait for the first");
    }
}
