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
    }
}
