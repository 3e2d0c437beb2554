//! What a guardian has promised, kept where it outlives the guardian.
//!
//! The descriptors that a guardian holds die with it. If it is killed together with a whole pod, nobody is left who knows that
//! a thaw is owed; but the filesystem stays frozen, across umount and mount. So a guardian notes every filesystem before it
//! promises a thaw, and removes the note when none is owed any more. The guardian that follows finds the notes; it has no
//! descriptor, and thaws as soon as an agent hands it one of a noted filesystem.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::note;
use crate::undo::{self, Undo};
use stillpoint_core::hold::WasSuspended;
use stillpoint_core::limits::MAX_GUARDED;

/// What a note says.
#[derive(Serialize, Deserialize)]
struct Note {
    /// For people.
    member: String,
    /// The boot in which it was owed.
    boot_id: String,
    /// What is owed.
    #[serde(default)]
    undo: Undo,
}

/// The promises of one guardian, and those that were left by the one before.
pub struct Ledger {
    directory: PathBuf,
    boot_id: String,
    entries: Mutex<HashMap<String, Arc<Mutex<Entry>>>>,
}

/// Held while the note is changed, or while what was left is given back.
#[derive(Default)]
struct Entry {
    /// An earlier guardian promised this, and did not see it through.
    left: Option<Undo>,
    promises: usize,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.promises == 0 && self.left.is_none()
    }
}

/// A noted promise. Dropping it means that nothing is owed any more.
pub struct Promise {
    ledger: Arc<Ledger>,
    name: String,
}

impl Ledger {
    /// Reads what an earlier guardian has left.
    ///
    /// # Errors
    /// If notes could not be kept there.
    pub fn open(directory: &Path) -> io::Result<Arc<Self>> {
        note::create_directory(directory)?;
        let ledger = Self { directory: directory.to_owned(), boot_id: note::boot_id()?, entries: Mutex::default() };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match ledger.left(&path) {
                Ok(Some((name, undo))) if lock(&ledger.entries).len() < MAX_GUARDED => {
                    tracing::warn!(
                        filesystem = name,
                        "an earlier guardian owed a thaw; an agent that mounts it is awaited"
                    );
                    lock(&ledger.entries).insert(name, Arc::new(Mutex::new(Entry { left: Some(undo), promises: 0 })));
                }
                Ok(Some((name, _))) => {
                    tracing::error!(filesystem = name, "more notes than {MAX_GUARDED}: this one is ignored")
                }
                Ok(None) => note::remove(&path)?,
                Err(why) => tracing::error!(note = %path.display(), why, "not a note of a guardian; it is ignored"),
            }
        }
        Ok(Arc::new(ledger))
    }

    /// What a note names, and what is owed for it; `None`: it is void.
    fn left(&self, path: &Path) -> Result<Option<(String, Undo)>, String> {
        let Some(bytes) = note::read(path)? else { return Ok(None) };
        let note: Note = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("its name is not understood")?;
        Ok((note.boot_id == self.boot_id).then(|| (name.to_owned(), note.undo)))
    }

    /// Gives back what an earlier guardian owed for what this handle resumes, before anything new is promised for it. Blocks
    /// until the kernel has answered.
    pub fn give_back(&self, undo: Undo, handle: &OwnedFd, member: &str) {
        let Ok(name) = undo.name_of(handle) else { return };
        let Some(entry) = lock(&self.entries).get(&name).cloned() else { return };
        let mut entry = lock(&entry);
        if entry.left != Some(undo) {
            return;
        }
        match undo::for_certain(undo, handle) {
            Ok(WasSuspended::Yes) => tracing::warn!(member, "gave writes back in the place of an earlier guardian"),
            Ok(WasSuspended::No) => tracing::info!(member, "what an earlier guardian owed had already been given back"),
            Err(errno) => return tracing::error!(member, %errno, "cannot give back what an earlier guardian owed"),
        }
        entry.left = None;
        self.remove(&name);
    }

    /// Notes that this undo of this handle may be owed from now on.
    ///
    /// # Errors
    /// If it cannot be noted; then nothing may be promised.
    pub fn promise(self: &Arc<Self>, undo: Undo, handle: &OwnedFd, member: &str) -> io::Result<Promise> {
        let name = undo.name_of(handle)?;
        let entry = Arc::clone(lock(&self.entries).entry(name.clone()).or_default());
        let mut entry = lock(&entry);
        if entry.promises == 0 {
            let note = Note { member: member.to_owned(), boot_id: self.boot_id.clone(), undo };
            note::write(&self.directory.join(&name), &serde_json::to_vec(&note)?)?;
        }
        entry.promises += 1;
        Ok(Promise { ledger: Arc::clone(self), name })
    }

    fn remove(&self, name: &str) {
        if let Err(error) = note::remove(&self.directory.join(name)) {
            tracing::error!(%error, filesystem = name, "cannot remove the note of a promise that was kept");
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let Some(shared) = lock(&self.ledger.entries).get(&self.name).cloned() else { return };
        let mut entry = lock(&shared);
        entry.promises -= 1;
        if entry.is_idle() {
            self.ledger.remove(&self.name);
        }
        drop(entry);
        let mut entries = lock(&self.ledger.entries);
        // The map's and this one: nobody else is about to use it.
        if Arc::strong_count(&shared) == 2 && lock(&shared).is_idle() {
            entries.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;

    use super::*;

    /// A directory of the test's own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("stillpoint-ledger-{name}-{}", std::process::id())))
        }

        fn notes(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_note_stays_as_long_as_one_promise() {
        let directory = Directory::new("promises");
        let ledger = Ledger::open(&directory.0).unwrap();
        let root: OwnedFd = File::open(&directory.0).unwrap().into();
        let first = ledger.promise(Undo::Thaw, &root, "orders").unwrap();
        let second = ledger.promise(Undo::Thaw, &root, "orders").unwrap();
        assert_eq!(directory.notes(), 1);
        drop(first);
        assert_eq!(directory.notes(), 1);
        drop(second);
        assert_eq!((directory.notes(), lock(&ledger.entries).len()), (0, 0));
    }

    #[test]
    fn what_an_earlier_guardian_owed_is_found_unless_it_is_void() {
        let directory = Directory::new("left");
        let root: OwnedFd = File::open(std::env::temp_dir()).unwrap().into();
        let name = Undo::Thaw.name_of(&root).unwrap();
        // It is killed: nothing is dropped.
        std::mem::forget(Ledger::open(&directory.0).unwrap().promise(Undo::Thaw, &root, "orders").unwrap());
        fs::write(directory.0.join("0-0-0"), br#"{"member":"ledger","boot_id":"another"}"#).unwrap();
        fs::write(directory.0.join("0-0-1.new"), b"{").unwrap();
        fs::write(directory.0.join("garbage"), b"{").unwrap();
        let ledger = Ledger::open(&directory.0).unwrap();
        assert_eq!(lock(&ledger.entries).keys().collect::<Vec<_>>(), [&name]);
        assert_eq!(directory.notes(), 2, "this one, and the garbage");
        // What was left outlives a promise of this guardian.
        drop(ledger.promise(Undo::Thaw, &root, "orders").unwrap());
        assert_eq!((directory.notes(), lock(&ledger.entries).len()), (2, 1));
    }
}
