//! `/proc/locks` (proc_locks(5)) and the `lock:` lines of fdinfo, which have the same form.

use std::fmt;

use super::Device;

/// What sort of lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// fcntl(2) record lock, owned by a process.
    Posix,
    /// Open file description lock, owned by an open file; has no process.
    Ofd,
    /// flock(2), owned by an open file.
    Flock,
    /// A lease or a delegation (`F_SETLEASE`).
    Lease,
    /// A kind that this version does not know. Treated like every other.
    Unknown,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Posix => "POSIX",
            Self::Ofd => "OFD",
            Self::Flock => "FLOCK",
            Self::Lease => "LEASE",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
        })
    }
}

/// A lock that is held.
///
/// Two lines with equal fields can be two locks: inode numbers repeat across the subvolumes of one btrfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    /// What sort of lock.
    pub kind: Kind,
    /// Shared or exclusive. A lease that is being broken shows what it will become, so it counts as exclusive.
    pub mode: Mode,
    /// Who took it: -1 for an OFD lock, 0 when that process is outside the reader's pid namespace. A flock outlives its
    /// locker when the descriptor was inherited, so the process may be gone or (rarely) another one.
    pub pid: i32,
    /// The device of the file's superblock.
    pub device: Device,
    /// The file's inode.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `None`: to the end of the file.
    pub end: Option<u64>,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A lock that is held.
    Held(Lock),
    /// A request that waits behind a lock (`->`), or a lock without a file: nothing is held on any dataset.
    NotHeld,
}

/// Parses one line. `None`: the line is not understood, and what it says must not be taken for "no lock".
pub fn parse_line(line: &str) -> Option<Line> {
    let mut fields = line.split_ascii_whitespace();
    fields.next()?.strip_suffix(':')?.parse::<u64>().ok()?;
    let kind = match fields.next()? {
        "->" => return Some(Line::NotHeld),
        "POSIX" => Kind::Posix,
        "OFDLCK" => Kind::Ofd,
        "FLOCK" => Kind::Flock,
        "LEASE" | "DELEG" => Kind::Lease,
        _ => Kind::Unknown,
    };
    let state = fields.next()?;
    if state == "BREAKER" {
        return Some(Line::NotHeld);
    }
    let mode = match fields.next()? {
        "READ" if state != "BREAKING" => Mode::Read,
        "READ" | "WRITE" | "UNLCK" | "RW" => Mode::Write,
        _ => return None,
    };
    let pid = fields.next()?.parse().ok()?;
    let file = fields.next()?;
    if file == "<none>:0" {
        return Some(Line::NotHeld);
    }
    let (device, inode) = file.rsplit_once(':')?;
    let start = fields.next()?.parse().ok()?;
    let end = match fields.next()? {
        "EOF" => None,
        end => Some(end.parse().ok()?),
    };
    let (device, inode) = (Device::parse(device, 16)?, inode.parse().ok()?);
    fields.next().is_none().then_some(Line::Held(Lock { kind, mode, pid, device, inode, start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(kind: Kind, mode: Mode, pid: i32, start: u64, end: Option<u64>) -> Option<Line> {
        let device = Device { major: 0xfe, minor: 0x0a };
        Some(Line::Held(Lock { kind, mode, pid, device, inode: 4711, start, end }))
    }

    #[test]
    fn every_kind_of_line() {
        let table = [
            ("1: POSIX  ADVISORY  WRITE 42 fe:0a:4711 0 511", held(Kind::Posix, Mode::Write, 42, 0, Some(511))),
            ("2: POSIX  MANDATORY READ 42 fe:0a:4711 128 EOF", held(Kind::Posix, Mode::Read, 42, 128, None)),
            ("3: OFDLCK ADVISORY  WRITE -1 fe:0a:4711 0 EOF", held(Kind::Ofd, Mode::Write, -1, 0, None)),
            ("4: FLOCK  ADVISORY  WRITE 0 fe:0a:4711 0 EOF", held(Kind::Flock, Mode::Write, 0, 0, None)),
            ("5: LEASE  ACTIVE    READ 7 fe:0a:4711 0 EOF", held(Kind::Lease, Mode::Read, 7, 0, None)),
            ("6: LEASE  BREAKING  UNLCK 7 fe:0a:4711 0 EOF", held(Kind::Lease, Mode::Write, 7, 0, None)),
            ("6: LEASE  BREAKING  READ 7 fe:0a:4711 0 EOF", held(Kind::Lease, Mode::Write, 7, 0, None)),
            ("7: DELEG  ACTIVE    WRITE 7 fe:0a:4711 0 EOF", held(Kind::Lease, Mode::Write, 7, 0, None)),
            ("8: NOVEL  ADVISORY  WRITE 7 fe:0a:4711 0 EOF", held(Kind::Unknown, Mode::Write, 7, 0, None)),
            ("1: -> POSIX  ADVISORY  WRITE 43 fe:0a:4711 0 511", Some(Line::NotHeld)),
            ("1:  -> FLOCK  ADVISORY  WRITE 43 fe:0a:4711 0 EOF", Some(Line::NotHeld)),
            ("1: LEASE  BREAKER   READ 43 fe:0a:4711 0 EOF", Some(Line::NotHeld)),
            ("9: POSIX *NOINODE* WRITE 42 <none>:0 0 EOF", Some(Line::NotHeld)),
            ("", None),
            ("1: POSIX  ADVISORY  WRITE 42 fe:0a:4711 0", None),
            ("1: POSIX  ADVISORY  WRITE 42 fe:0a:4711 0 511 9", None),
            ("1: POSIX  ADVISORY  GRAB 42 fe:0a:4711 0 511", None),
            ("1: POSIX  ADVISORY  WRITE 42 fe:xx:4711 0 511", None),
            ("1: POSIX  ADVISORY  WRITE 42 fe:0a:-1 0 511", None),
        ];
        for (line, expected) in table {
            assert_eq!(parse_line(line), expected, "{line}");
        }
    }

    /// Lines of every form, each with what it says.
    fn written() -> impl Strategy<Value = (String, Line)> {
        let kind = prop_oneof![
            Just(("POSIX ", Kind::Posix)),
            Just(("OFDLCK", Kind::Ofd)),
            Just(("FLOCK ", Kind::Flock)),
            Just(("LEASE ", Kind::Lease)),
            Just(("DELEG ", Kind::Lease)),
        ];
        let state =
            prop_oneof![Just("ADVISORY "), Just("MANDATORY"), Just("ACTIVE   "), Just("BREAKING "), Just("BREAKER  ")];
        let mode = prop_oneof![Just(("READ", Mode::Read)), Just(("WRITE", Mode::Write)), Just(("UNLCK", Mode::Write))];
        let numbers = (any::<u64>(), any::<i32>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>());
        (kind, state, mode, numbers, proptest::option::of(any::<u64>()), 0..3_usize).prop_map(
            |((word, kind), state, (mode_word, mode), (number, pid, major, minor, inode, start), end, depth)| {
                let arrow = if depth == 0 { String::new() } else { format!("{}-> ", " ".repeat(depth)) };
                let last = end.map_or("EOF".to_owned(), |end| end.to_string());
                let line = format!(
                    "{number}: {arrow}{word} {state} {mode_word} {pid} {major:02x}:{minor:02x}:{inode} {start} {last}"
                );
                let mode = if state == "BREAKING " { Mode::Write } else { mode };
                let lock = Lock { kind, mode, pid, device: Device { major, minor }, inode, start, end };
                let held = depth == 0 && state != "BREAKER  ";
                (line, if held { Line::Held(lock) } else { Line::NotHeld })
            },
        )
    }

    proptest! {
        #[test]
        fn no_input_panics(line in ".*") {
            let _ = parse_line(&line);
        }

        #[test]
        fn no_almost_valid_line_panics(words in proptest::collection::vec(
            prop_oneof![Just("1:"), Just("->"), Just("POSIX"), Just("WRITE"), Just("-1"), Just("00:27:5"), Just("EOF"),
                        Just("99999999999999999999"), Just("::")], 0..10)) {
            let _ = parse_line(&words.join(" "));
        }

        #[test]
        fn numbers_survive(pid in any::<i32>(), major in any::<u32>(), minor in any::<u32>(), inode in any::<u64>(),
                           start in any::<u64>(), end in proptest::option::of(any::<u64>())) {
            let last = end.map_or("EOF".to_owned(), |end| end.to_string());
            let line = format!("1: POSIX  ADVISORY  READ {pid} {major:02x}:{minor:02x}:{inode} {start} {last}");
            let device = Device { major, minor };
            let lock = Lock { kind: Kind::Posix, mode: Mode::Read, pid, device, inode, start, end };
            prop_assert_eq!(parse_line(&line), Some(Line::Held(lock)));
        }

        /// A line as the kernel writes it (lock_get_status in fs/locks.c), and what it says.
        #[test]
        fn every_line_is_read_as_it_was_written((line, expected) in written()) {
            prop_assert_eq!(parse_line(&line), Some(expected));
        }

        /// P7: a held lock whose line is damaged is another lock, or not understood; it is never no lock.
        #[test]
        fn a_damaged_line_never_says_that_nothing_is_held(
            (line, lock) in written(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![b' '..=b'~', Just(b'\t')],
        ) {
            if lock != Line::NotHeld {
                let mut damaged = line.into_bytes();
                let at = at.index(damaged.len());
                damaged[at] = byte;
                let damaged = String::from_utf8(damaged).unwrap();
                prop_assert_ne!(parse_line(&damaged), Some(Line::NotHeld), "{}", damaged);
            }
        }
    }
}
