//! `/proc/PID/fdinfo/N` (proc_pid_fdinfo(5)).

use std::ops::ControlFlow;

use super::locks::{self, Line, Lock};

/// What the agent needs to know of an open file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// Id of the mount through which the file was opened; the first field of a line of mountinfo.
    pub mount_id: Option<u64>,
    /// The file's inode.
    pub inode: Option<u64>,
    /// A connection of a FUSE filesystem, which its process serves.
    pub serves_fuse: bool,
    /// The locks held through this open file.
    pub locks: Vec<Lock>,
}

/// A line that must be understood is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

impl FdInfo {
    /// Takes one line of the file, in order. Lines of which nothing is needed are skipped. Breaks when nothing more can come:
    /// the descriptor is of a kind that is no file of a filesystem, and has a line for each thing that it watches, of which there
    /// may be any number.
    pub fn take(&mut self, line: &[u8]) -> ControlFlow<Result<(), NotUnderstood>> {
        const WATCHERS: [&[u8]; 3] = [b"inotify ", b"fanotify ", b"tfd:"];
        if WATCHERS.iter().any(|watcher| line.starts_with(watcher)) {
            return ControlFlow::Break(Ok(()));
        }
        match self.read(&String::from_utf8_lossy(line)) {
            Some(()) => ControlFlow::Continue(()),
            None => ControlFlow::Break(Err(NotUnderstood)),
        }
    }

    fn read(&mut self, line: &str) -> Option<()> {
        if let Some(id) = line.strip_prefix("mnt_id:") {
            self.mount_id = Some(id.trim().parse().ok()?);
        } else if let Some(inode) = line.strip_prefix("ino:") {
            self.inode = inode.trim().parse().ok();
        } else if line.starts_with("fuse_connection:") {
            self.serves_fuse = true;
        } else if let Some(lock) = line.strip_prefix("lock:")
            && let Line::Held(lock) = locks::parse_line(lock)?
        {
            self.locks.push(lock);
        }
        Some(())
    }
}

/// Parses a whole file. `None`: a `mnt_id:` or `lock:` line is not understood.
pub fn parse(text: &str) -> Option<FdInfo> {
    let mut info = FdInfo::default();
    let end = text.lines().find_map(|line| info.take(line.as_bytes()).break_value());
    end.is_none_or(|end| end.is_ok()).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_mount_and_every_lock() {
        let text = "pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t13\n\
                    lock:\t1: POSIX  ADVISORY  WRITE 9 07:00:13 0 9\nlock:\t2: FLOCK  ADVISORY  READ 9 07:00:13 0 EOF\n";
        let info = parse(text).unwrap();
        assert_eq!(info.mount_id, Some(29));
        assert_eq!(info.locks.len(), 2);
        assert_eq!(info.locks[1].kind, locks::Kind::Flock);
    }

    #[test]
    fn a_strange_line_is_skipped_but_a_strange_lock_is_not() {
        assert_eq!(parse("eventfd-count: 7\nsigmask: 1 lock:"), Some(FdInfo::default()));
        assert_eq!(parse("lock:\tnonsense"), None);
        assert_eq!(parse("mnt_id:\tnonsense"), None);
    }

    /// As long as it is: nothing of these can be a lock on a filesystem.
    #[test]
    fn what_watches_others_is_left_at_its_first_line() {
        for line in ["inotify wd:1 ino:b sdev:1f", "fanotify ino:b", "tfd:        5 events:       19"] {
            let mut info = FdInfo::default();
            assert_eq!(info.take(b"mnt_id:\t15"), ControlFlow::Continue(()));
            assert_eq!(info.take(line.as_bytes()), ControlFlow::Break(Ok(())), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "(mnt_id:|lock:|ino:|\n|.)*") {
            let _ = parse(&text);
        }

        /// Whatever else a file tells of, its mount and each of its locks are found, in order.
        #[test]
        fn every_lock_is_found(
            mount in any::<u64>(),
            pids in proptest::collection::vec(any::<i32>(), 0..6),
            other in "(pos|flags|ino|eventfd-count|sigmask|size):\t[0-9a-f :]{0,20}",
            cut in any::<prop::sample::Index>(),
        ) {
            let lock = |pid| format!("lock:\t1: FLOCK  ADVISORY  WRITE {pid} 07:00:13 0 EOF\n");
            let locks: String = pids.iter().map(|pid| format!("{}{other}\n", lock(pid))).collect();
            let text = format!("{other}\nmnt_id:\t{mount}\n{locks}");
            let info = parse(&text).unwrap();
            prop_assert_eq!(info.mount_id, Some(mount));
            prop_assert_eq!(info.locks.iter().map(|lock| lock.pid).collect::<Vec<_>>(), pids.clone());
            // P7: a lock whose line is torn is not left out in silence.
            if let Some(pid) = pids.first() {
                let whole = lock(pid);
                let length = "lock:".len() + cut.index(whole.len() - "lock:EOF\n".len());
                prop_assert_eq!(parse(&format!("mnt_id:\t{mount}\n{}\n", &whole[..length])), None);
            }
        }
    }
}
