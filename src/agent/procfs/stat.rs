//! `/proc/PID/stat` (proc_pid_stat(5)).

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What the agent needs to know of a process, also of one that it cannot look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The first thread has ended. The process lives on while others run.
    pub zombie: bool,
    /// A thread of the kernel: it has no descriptors.
    pub kernel_thread: bool,
    /// How many threads the process has.
    pub threads: u64,
    /// When it was started, in clock ticks since boot. With the id it names one process of this boot.
    pub started: u64,
}

/// Parses the file. The name in it may hold spaces, parentheses and any byte, so the fields are counted from the last `)`.
pub fn parse(bytes: &[u8]) -> Option<Stat> {
    let name_end = bytes.iter().rposition(|&byte| byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&bytes[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
    // Field 3 of the manual page, the state, is the first after the name.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        zombie: matches!(field(3)?, "Z" | "X"),
        kernel_thread: field(9)?.parse::<u64>().ok()? & KERNEL_THREAD != 0,
        threads: field(20)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_cannot_mislead() {
        let rest = "1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 100";
        let process = parse(format!("42 (a) Z (b) S {rest}").as_bytes()).unwrap();
        assert_eq!(process, Stat { zombie: false, kernel_thread: false, threads: 3, started: 100 });
        assert!(parse(format!("42 (x) Z {rest}").as_bytes()).unwrap().zombie);
        assert!(parse(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1").unwrap().kernel_thread);
        assert_eq!(parse(b"42 (x"), None);
        assert_eq!(parse(b"42 (x)"), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), tail in "[0-9 )(ZS]*") {
            let _ = parse(&bytes);
            let _ = parse(tail.as_bytes());
        }

        /// A process may name itself as it likes (PR_SET_NAME takes any bytes), also like the fields that follow.
        #[test]
        fn no_name_misleads(
            name in prop_oneof![
                proptest::collection::vec(1u8.., 0..16),
                "(\\) [SZX] )?[)( ZS0-9]{0,11}".prop_map(String::into_bytes),
            ],
            state in "[RSDZTtXI]",
            (pid, flags, threads) in (1..i32::MAX, any::<u32>(), 1..100_000_u64),
        ) {
            let mut text = format!("{pid} (").into_bytes();
            text.extend(&name);
            text.extend(format!(") {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 100 0 0\n").bytes());
            let stat = parse(&text).unwrap();
            prop_assert_eq!(stat.zombie, state == "Z" || state == "X");
            prop_assert_eq!(stat.kernel_thread, u64::from(flags) & KERNEL_THREAD != 0);
            prop_assert_eq!(stat.threads, threads);
        }
    }
}
