//! Joins what `/proc/locks` says with what the descriptors say. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::holders::Holder;
use crate::agent::procfs::locks::Lock;

/// A lock on the dataset, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lock.
    pub lock: Lock,
    /// `None`: no process in view has a descriptor with this lock.
    pub holder: Option<Holder>,
}

/// One [`Held`] for every lock, in the order of the locks' fields.
///
/// - A descriptor that several processes share (after fork(2)) is one lock: its locker is named, or else the process with
///   the lowest id.
/// - Equal lines of the table can be locks on different files, because inode numbers repeat across the subvolumes of a
///   btrfs: the paths tell them apart.
/// - A lock that is in no line of the table counts too. In a nested pid namespace the table leaves out a flock whose
///   locker has ended.
pub fn attribute(table: &[Lock], holders: &[Holder]) -> Vec<Held> {
    let files = by_lock_and_file(holders);
    let mut lines: BTreeMap<Lock, usize> = BTreeMap::new();
    for lock in table {
        *lines.entry(*lock).or_default() += 1;
    }
    let locks: BTreeSet<Lock> = lines.keys().chain(files.keys()).copied().collect();
    let mut held = Vec::new();
    for lock in locks {
        let known = files.get(&lock).map(|files| files.values()).into_iter().flatten();
        held.extend(known.map(|&holder| Held { lock, holder: Some(holder.clone()) }));
        let missing = lines.get(&lock).copied().unwrap_or(0).saturating_sub(files.get(&lock).map_or(0, BTreeMap::len));
        held.extend(std::iter::repeat_n(Held { lock, holder: None }, missing));
    }
    held
}

/// The locks of the table for which a holder is missing.
pub fn unattributed(table: &[Lock], holders: &[Holder]) -> Vec<Lock> {
    attribute(table, holders).into_iter().filter(|held| held.holder.is_none()).map(|held| held.lock).collect()
}

/// For every lock and every file with that lock, the holder to name.
fn by_lock_and_file(holders: &[Holder]) -> BTreeMap<Lock, BTreeMap<Option<&Path>, &Holder>> {
    let mut files: BTreeMap<Lock, BTreeMap<Option<&Path>, &Holder>> = BTreeMap::new();
    for holder in holders {
        let rank = |holder: &Holder| (holder.pid != holder.lock.pid, holder.pid);
        let file = holder.file.as_ref().map(|file| file.below_root.as_path());
        let named = files.entry(holder.lock).or_default().entry(file).or_insert(holder);
        if rank(holder) < rank(named) {
            *named = holder;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::locks::holders::LockedFile;
    use crate::agent::procfs::Device;
    use crate::agent::procfs::locks::{Kind, Mode};

    fn lock(kind: Kind, pid: i32) -> Lock {
        let device = Device { major: 0, minor: 39 };
        Lock { kind, mode: Mode::Write, pid, device, inode: 257, start: 0, end: None }
    }

    fn holder(lock: Lock, pid: i32, file: &str) -> Holder {
        let file = LockedFile { below_root: file.into(), path: format!("/data/{file}").into() };
        Holder { lock, file: Some(file), pid }
    }

    fn found(table: &[Lock], holders: &[Holder]) -> Vec<Option<(i32, String)>> {
        let name =
            |holder: Holder| (holder.pid, holder.file.map_or("?".into(), |file| file.below_root.display().to_string()));
        attribute(table, holders).into_iter().map(|held| held.holder.map(name)).collect()
    }

    #[test]
    fn a_shared_descriptor_is_one_lock_of_its_locker_or_else_of_the_first_heir() {
        let flock = lock(Kind::Flock, 50);
        let heirs = [holder(flock, 60, "x"), holder(flock, 50, "x"), holder(flock, 40, "x")];
        assert_eq!(found(&[flock], &heirs), [Some((50, "x".to_owned()))]);
        let orphan = lock(Kind::Flock, 7);
        let heirs = [holder(orphan, 60, "x"), holder(orphan, 40, "x")];
        assert_eq!(found(&[orphan], &heirs), [Some((40, "x".to_owned()))]);
    }

    #[test]
    fn repeated_inodes_are_told_apart_by_path() {
        let ofd = lock(Kind::Ofd, -1);
        let both = [holder(ofd, 40, "a/x"), holder(ofd, 40, "b/x")];
        assert_eq!(found(&[ofd, ofd], &both), [Some((40, "a/x".to_owned())), Some((40, "b/x".to_owned()))]);
        assert_eq!(found(&[ofd, ofd], &both[..1]), [Some((40, "a/x".to_owned())), None]);
        let nameless = both.map(|holder| Holder { file: None, ..holder });
        assert_eq!(found(&[ofd, ofd], &nameless), [Some((40, "?".to_owned())), None], "no lock is lost without names");
    }

    #[test]
    fn nothing_that_either_side_knows_is_lost() {
        let (seen, lost) = (lock(Kind::Flock, 0), lock(Kind::Posix, 9));
        assert_eq!(found(&[], &[holder(seen, 40, "x")]), [Some((40, "x".to_owned()))]);
        assert_eq!(found(&[lost], &[]), [None]);
        assert_eq!(unattributed(&[lost], &[holder(seen, 40, "x")]), [lost]);
        assert_eq!(found(&[], &[]), []);
    }
}
