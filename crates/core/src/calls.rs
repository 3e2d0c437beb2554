//! System calls that change a filesystem: a freeze lets no other begin, and then waits for those inside, without a limit.
//!
//! The kernel tells of a thread that waits in which call it is (`/proc/PID/task/TID/syscall`, proc(5)). Of one that computes it
//! says `running`; such a one is between waits, and soon seen again. Writers through io_uring or Linux AIO are in no call.

/// What a call changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The file behind this descriptor of the process.
    File(i32),
    /// A file that it names by a path, which is the process's own and cannot be seen.
    Named,
}

/// A call that changes a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As section 2 of the manual has it.
    pub name: &'static str,
    /// What it changes.
    pub changes: Changes,
}

/// The machines whose numbers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86_64.
    X86,
    /// aarch64.
    Arm,
}

impl Machine {
    /// The one that this runs on; `None`: its numbers are not known.
    pub const fn this() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Arm)
        } else {
            None
        }
    }
}

/// A number that no call has.
const NONE: u64 = u64::MAX;

/// By name: the numbers on x86_64 (arch/x86/entry/syscalls/syscall_64.tbl) and on aarch64 (scripts/syscall.tbl), and which argument
/// is the descriptor of what it changes.
const CALLS: [(&str, [u64; 2], Option<usize>); 17] = [
    ("write", [1, 64], Some(0)),
    ("pwrite64", [18, 68], Some(0)),
    ("writev", [20, 66], Some(0)),
    ("pwritev", [296, 70], Some(0)),
    ("pwritev2", [328, 287], Some(0)),
    ("sendfile", [40, 71], Some(0)),
    ("splice", [275, 76], Some(2)),
    ("copy_file_range", [326, 285], Some(2)),
    ("fallocate", [285, 47], Some(0)),
    ("ftruncate", [77, 46], Some(0)),
    ("ioctl", [16, 29], Some(0)),
    ("truncate", [76, 45], None),
    ("unlink", [87, NONE], None),
    ("unlinkat", [263, 35], None),
    ("rename", [82, NONE], None),
    ("renameat", [264, 38], None),
    ("renameat2", [316, 276], None),
];

/// The call that a thread is in, by the line that the kernel shows, if it changes a filesystem.
pub fn changing(machine: Machine, line: &str) -> Option<Call> {
    let mut words = line.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let (name, _, descriptor) = CALLS.iter().find(|(_, numbers, _)| numbers[machine as usize] == number)?;
    let changes = match descriptor {
        Some(at) => {
            let argument = u64::from_str_radix(words.nth(*at)?.strip_prefix("0x")?, 16).ok()?;
            // Of the register the kernel takes an int.
            Changes::File((argument & u64::from(u32::MAX)) as u32 as i32)
        }
        None => Changes::Named,
    };
    Some(Call { name, changes })
}

/// What is seen of a thread at one moment. Two that are alike are of one and the same call: whoever writes again and again with the
/// same arguments has ended more calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The line of `syscall`.
    pub line: String,
    /// How many calls for writing have ended (`syscw` of `io`), if the kernel counts them.
    pub ended: Option<u64>,
}

/// `syscw` of `/proc/PID/task/TID/io`.
pub fn ended_writes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("syscw:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_known_by_its_number_and_what_it_changes_by_its_arguments() {
        let of = |machine, line| changing(machine, line).map(|call| (call.name, call.changes));
        let write = "1 0x3 0x7ffe 0x10000000 0x0 0x0 0x0 0x7ffd1c 0x7f21\n";
        assert_eq!(of(Machine::X86, write), Some(("write", Changes::File(3))));
        assert_eq!(of(Machine::Arm, write), None, "io_destroy");
        assert_eq!(of(Machine::Arm, "47 0x4 0x0 0x0 0x1000 0x0 0x0 0x7f 0x7f"), Some(("fallocate", Changes::File(4))));
        let splice = "275 0x5 0x0 0x9 0x0 0x100000 0x0 0x7f 0x7f";
        assert_eq!(of(Machine::X86, splice), Some(("splice", Changes::File(9))));
        assert_eq!(of(Machine::X86, "87 0x55d0 0x0 0x0 0x0 0x0 0x0 0x7f 0x7f"), Some(("unlink", Changes::Named)));
        assert_eq!(of(Machine::X86, "1 0xffffffffffffffff 0x0"), Some(("write", Changes::File(-1))));
        for none in ["running\n", "-1 0x7ffd 0x7f21\n", "0 0x3 0x0\n", "1", "1 3", ""] {
            assert_eq!(of(Machine::X86, none), None, "{none:?}");
        }
    }

    #[test]
    fn no_two_calls_have_one_number() {
        for machine in 0..2 {
            let mut numbers: Vec<u64> = CALLS.iter().map(|(_, numbers, _)| numbers[machine]).collect();
            numbers.retain(|number| *number != NONE);
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        }
    }

    #[test]
    fn ended_writes_are_counted() {
        assert_eq!(ended_writes("rchar: 9\nwchar: 8\nsyscr: 7\nsyscw: 6\n"), Some(6));
        assert_eq!(ended_writes("rchar: 9\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(line in "[0-9]{1,3}( 0x[0-9a-f]{0,17}){0,9}|.*") {
            let _ = changing(Machine::X86, &line);
            let _ = ended_writes(&line);
        }
    }
}
