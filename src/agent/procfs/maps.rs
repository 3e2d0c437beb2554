//! `/proc/PID/maps` (proc_pid_maps(5)).
//!
//! Never read this of a process that writes to a suspended filesystem: a store to a shared mapping waits with the
//! process's `mmap_lock` held, and reading the file takes that lock.

use super::Device;

/// The name of the file with this device and inode, when the process has mapped it. Lines that are not understood are
/// skipped: this only helps to name a holder.
pub fn mapped_file(text: &str, device: Device, inode: u64) -> Option<&str> {
    text.lines().find_map(|line| {
        let (fields, name) = line.split_at(line.find('/')?);
        let mut fields = fields.split_ascii_whitespace().skip(3);
        let found = Device::parse(fields.next()?, 16)? == device && fields.next()?.parse::<u64>().ok()? == inode;
        found.then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPS: &str = "\
55d0c0a00000-55d0c0a20000 r-xp 00002000 fe:00 1048602                    /usr/bin/a b
7f0000000000-7f0000001000 rw-s 00000000 00:27 257                        /data/x.db (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn by_device_and_inode() {
        let device = Device { major: 0, minor: 0x27 };
        assert_eq!(mapped_file(MAPS, device, 257), Some("/data/x.db (deleted)"));
        assert_eq!(mapped_file(MAPS, device, 258), None);
        assert_eq!(mapped_file(MAPS, Device { major: 1, minor: 0x27 }, 257), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "([0-9a-f:/ -]|\n|.)*") {
            let _ = mapped_file(&text, Device { major: 0, minor: 0 }, 0);
        }

        /// A line as the kernel writes it (show_map_vma in fs/proc/task_mmu.c), among others.
        #[test]
        fn the_file_is_found_among_others(
            (major, minor, inode) in (0..4096_u32, 0..1_048_576_u32, 1..u64::MAX),
            (start, offset) in any::<(u64, u64)>(),
            name in "/[^\n]{0,40}",
            others in proptest::collection::vec("/[^\n]{0,20}", 0..4),
        ) {
            let line = |inode: u64, name: &str| {
                format!("{start:x}-{:x} rw-s {offset:08x} {major:02x}:{minor:02x} {inode}    {name}\n", start >> 1)
            };
            let others: String = others.iter().map(|name| line(inode - 1, name)).collect();
            let anonymous = format!("{start:x}-{start:x} rw-p 00000000 00:00 0 \n");
            let text = format!("{others}{anonymous}{}{anonymous}", line(inode, &name));
            let device = Device { major, minor };
            // `lines` also ends a line at \r\n, so a name's own last \r is lost; it only helps to name a holder.
            prop_assert_eq!(mapped_file(&text, device, inode), Some(name.strip_suffix('\r').unwrap_or(&name)));
            prop_assert_eq!(mapped_file(&others, device, inode), None);
        }
    }
}
