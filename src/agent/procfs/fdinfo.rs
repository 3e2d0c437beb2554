//! `/proc/PID/fdinfo/N` (proc_pid_fdinfo(5)).

use super::locks::{self, Line, Lock};

/// What the agent needs to know of an open file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// Id of the mount through which the file was opened; the first field of a line of mountinfo.
    pub mount_id: Option<u64>,
    /// The locks held through this open file.
    pub locks: Vec<Lock>,
}

/// Parses a whole file. `None`: a `mnt_id:` or `lock:` line is not understood. Other lines are skipped.
pub fn parse(text: &str) -> Option<FdInfo> {
    let mut info = FdInfo::default();
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("mnt_id:") {
            info.mount_id = Some(id.trim().parse().ok()?);
        } else if let Some(lock) = line.strip_prefix("lock:")
            && let Line::Held(lock) = locks::parse_line(lock)?
        {
            info.locks.push(lock);
        }
    }
    Some(info)
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
        assert_eq!(parse("eventfd-count: 7\ntfd: 1 lock:"), Some(FdInfo::default()));
        assert_eq!(parse("lock:\tnonsense"), None);
        assert_eq!(parse("mnt_id:\tnonsense"), None);
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
            other in "(pos|flags|ino|eventfd-count|tfd|inotify wd):\t[0-9a-f :]{0,20}",
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
