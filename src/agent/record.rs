//! What an agent writes down before it suspends, so that the agent that is started in its place can undo it.
//!
//! One small file per member, in a directory that outlives the agent's process and lies on no dataset. A frozen filesystem
//! does not say who froze it, so a restarted agent may thaw only what such a file names (see [`super::recovery`]).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Access, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::Reach;
use super::dataset::{Dataset, mount_of};
use super::procfs::{self, Device, stat};
use super::quiesce::Owed;
use crate::note;
use crate::undo::Undo;
use stillpoint_core::limits::MAX_WORD_CHARS;

/// What one member's agent is about to suspend, by which process, and what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The claim's name, for people.
    pub claim: String,
    /// The claim's UID. It names the file too.
    pub claim_uid: String,
    /// Where the agent's container mounts the claim.
    pub mount_path: PathBuf,
    /// The device that was mounted there, by mountinfo.
    pub device: Device,
    /// How `mount_path` is meant.
    #[serde(default)]
    pub reach: Reach,
    /// The boot in which this was written; a freeze does not outlive it.
    pub boot_id: String,
    /// The process that will suspend.
    pub freezer: Process,
    /// What resumes writes; none: they are not about to be suspended. Where nothing is said, it is a thaw.
    #[serde(default = "thaw")]
    pub undo: Option<Undo>,
    /// What lets the application go on, where it was quiesced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Owed>,
}

fn thaw() -> Option<Undo> {
    Some(Undo::Thaw)
}

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id in the agent's pid namespace, which is that of the pod and outlives the agent.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (field 22 of proc_pid_stat(5)).
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(pid: i32) -> io::Result<Self> {
        let stat = procfs::read(Path::new(&format!("/proc/{pid}/stat")))?;
        let stat = stat::parse(&stat).ok_or_else(|| io::Error::other("its stat is not understood"))?;
        Ok(Self { pid, started: stat.started })
    }
}

impl Record {
    /// Understands a file's contents. `None`: they are no record.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Whether the agent can write its records, and somewhere else than on the dataset: there the record would hang with
/// everything else that writes while the dataset is frozen.
///
/// # Errors
/// A sentence.
pub fn usable(directory: &Path, dataset: &Dataset) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened: OwnedFd = rustix::fs::open(directory, flags, Mode::empty()).map_err(|errno| errno.to_string())?;
    let mount = mount_of(&opened).map_err(|error| error.to_string())?;
    if mount.device == dataset.device {
        return Err(format!("it lies on the volume at {}, which is to be frozen", dataset.mount_path.display()));
    }
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| errno.to_string())
}

/// The record of one member: what is wanted, and the file that follows it.
///
/// The file is written on threads that may hang; whichever of them comes last, the file is what was wanted last.
pub struct Slot {
    directory: PathBuf,
    claim_uid: String,
    wanted: Mutex<Option<Record>>,
    /// Held while the file is changed.
    file: Mutex<()>,
}

impl Slot {
    /// Of the member with this claim; the file stays as it is until [`Self::keep`].
    pub fn new(directory: &Path, claim_uid: &str) -> Self {
        let (wanted, file) = (Mutex::default(), Mutex::default());
        Self { directory: directory.to_owned(), claim_uid: claim_uid.to_owned(), wanted, file }
    }

    /// Says what the file should say, or that there should be none. Returns whether that is new.
    pub fn want(&self, record: Option<Record>) -> bool {
        let mut wanted = lock(&self.wanted);
        let new = *wanted != record;
        *wanted = record;
        new
    }

    /// Makes the file what is wanted. Blocks.
    ///
    /// # Errors
    /// A sentence; then the file may be there or not.
    pub fn keep(&self) -> Result<(), String> {
        let _alone = lock(&self.file);
        let wanted = lock(&self.wanted).clone();
        if !is_file_name(&self.claim_uid) {
            return Err(format!("{:?} is not a UID", self.claim_uid));
        }
        let path = self.directory.join(&self.claim_uid);
        let kept = match wanted {
            Some(record) => serde_json::to_vec(&record).map_err(io::Error::from).and_then(|it| note::write(&path, &it)),
            None => note::remove(&path),
        };
        kept.map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Reads one file of the directory. `None`: it is no record, but what was left of writing one.
///
/// # Errors
/// A sentence that says why it is no record, where one should be.
pub fn read(path: &Path) -> Result<Option<Record>, String> {
    let Some(bytes) = note::read(path)? else { return Ok(None) };
    let record = Record::parse(&bytes).ok_or("its contents are not understood")?;
    if path.file_name().is_none_or(|name| *name != *record.claim_uid) {
        return Err(format!("it is about the claim with UID {:?}, which is not its name", record.claim_uid));
    }
    Ok(Some(record))
}

/// The controller says the UID; it must not lead out of the directory.
fn is_file_name(claim_uid: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_WORD_CHARS).contains(&claim_uid.len()) && claim_uid.bytes().all(plain)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::note::{boot_id, create_directory};
    use stillpoint_core::limits::MAX_NOTE;

    fn record(claim_uid: &str) -> Record {
        Record {
            claim: "orders".to_owned(),
            claim_uid: claim_uid.to_owned(),
            mount_path: "/data/\"ä".into(),
            device: Device { major: 7, minor: 3 },
            reach: Reach::Pod,
            boot_id: "b".to_owned(),
            freezer: Process { pid: 17, started: 4711 },
            undo: Some(Undo::Thaw),
            owed: None,
        }
    }

    /// An empty directory of the test's own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("stillpoint-record-{name}-{}", std::process::id()));
            create_directory(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_file_is_what_was_wanted_last_whoever_comes_last() {
        let directory = Directory::new("last");
        let slot = Slot::new(&directory.0, "uid");
        assert!(slot.want(Some(record("uid"))));
        slot.keep().unwrap();
        assert_eq!(directory.names(), ["uid"], "nothing unfinished is left");
        assert_eq!(read(&directory.0.join("uid")), Ok(Some(record("uid"))));
        // The thread that should write comes after that which should remove.
        assert!(slot.want(Some(Record { claim: "other".to_owned(), ..record("uid") })));
        assert!(slot.want(None) && !slot.want(None));
        slot.keep().unwrap();
        slot.keep().unwrap();
        assert_eq!(directory.names(), [""; 0]);
    }

    #[test]
    fn no_claim_leads_out_of_the_directory() {
        let directory = Directory::new("names");
        for claim_uid in ["../uid", "", ".", "a/b", "uid.new", &"u".repeat(MAX_WORD_CHARS + 1)] {
            let slot = Slot::new(&directory.0, claim_uid);
            slot.want(Some(record(claim_uid)));
            assert!(slot.keep().unwrap_err().contains("not a UID"), "{claim_uid}");
        }
        assert_eq!(directory.names(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_what_is_too_long() {
        let directory = Directory::new("refused");
        let slot = Slot::new(&directory.0.join("missing"), "uid");
        slot.want(Some(record("uid")));
        assert!(slot.keep().unwrap_err().contains("missing/uid"));
        let slot = Slot::new(&directory.0, "uid");
        slot.want(Some(Record { claim: "c".repeat(MAX_NOTE), ..record("uid") }));
        slot.keep().unwrap_err();
        assert_eq!(directory.names(), [""; 0]);
    }

    #[test]
    fn what_is_no_record_is_told_apart() {
        let directory = Directory::new("garbage");
        let written = |name: &str, bytes: &[u8]| {
            let path = directory.0.join(name);
            fs::write(&path, bytes).unwrap();
            read(&path)
        };
        let whole = serde_json::to_vec(&record("uid")).unwrap();
        assert_eq!(written("uid", &whole), Ok(Some(record("uid"))));
        assert_eq!(written("uid.new", &whole[..20]), Ok(None));
        for (name, bytes) in
            [("uid", &whole[..20]), ("another", &whole[..]), ("uid", b""), ("uid", &[b' '; MAX_NOTE + 1])]
        {
            written(name, bytes).expect_err(name);
        }
        std::os::unix::fs::symlink("uid", directory.0.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, directory.0.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for name in ["link", "pipe"] {
            read(&directory.0.join(name)).expect_err(name);
        }
        read(&directory.0).expect_err("a directory");
    }

    #[test]
    fn what_an_agent_of_before_recorded_is_understood() {
        let mut old = serde_json::to_value(record("uid")).unwrap();
        assert_eq!(old.as_object_mut().unwrap().remove("undo"), Some("thaw".into()));
        assert_eq!(Record::parse(old.to_string().as_bytes()), Some(record("uid")));
        let owed = Some(Owed { quiescer: "orders".to_owned(), settings: serde_json::json!({ "backup": 7 }) });
        let quiescing = Record { undo: None, owed, ..record("uid") };
        assert_eq!(Record::parse(&serde_json::to_vec(&quiescing).unwrap()), Some(quiescing));
        old["undo"] = "unknown".into();
        assert_eq!(Record::parse(old.to_string().as_bytes()), None, "what cannot be undone is left to people");
    }

    #[test]
    fn this_process_is_found_and_a_gone_one_is_not() {
        let own = Process::find(std::process::id().cast_signed()).unwrap();
        assert!(own.started > 0);
        Process::find(-1).unwrap_err();
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_contents_panic(bytes: Vec<u8>, cut in 0..200_usize, at in 0..200_usize, byte: u8) {
            let _ = Record::parse(&bytes);
            let mut whole = serde_json::to_vec(&record("uid")).unwrap();
            if let Some(place) = whole.get_mut(at) {
                *place = byte;
            }
            let _ = Record::parse(&whole);
            whole.truncate(cut);
            let _ = Record::parse(&whole);
        }

        #[test]
        fn every_record_survives_the_file(
            claim: String, claim_uid: String, mount_path: String, boot_id: String, numbers: (u32, u32, i32, u64)
        ) {
            let (major, minor, pid, started) = numbers;
            let (mount_path, device, freezer) = (mount_path.into(), Device { major, minor }, Process { pid, started });
            let record = Record { claim, claim_uid, mount_path, device, reach: Reach::Node, boot_id, freezer, undo: Some(Undo::Thaw), owed: None };
            prop_assert_eq!(Record::parse(&serde_json::to_vec(&record).unwrap()), Some(record));
        }
    }
}
