//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Device;

/// One mount of a mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Id of the mount, unique on the machine while the mount lives.
    pub id: u64,
    /// Device of the superblock.
    pub device: Device,
    /// The directory (or file) of the filesystem that is visible at the mount point; `/` is all of it.
    pub root: PathBuf,
    /// Where it is mounted, below the root directory of the process.
    pub mount_point: PathBuf,
    /// Type of the filesystem, without a subtype.
    pub filesystem: String,
    /// What is mounted, as whoever mounted it named it: for a block device mostly its path.
    pub source: PathBuf,
    /// Options of the superblock.
    super_options: Vec<u8>,
}

impl Mount {
    /// Whether the superblock has this option, which has no value.
    pub fn has_super_option(&self, name: &str) -> bool {
        self.super_options.split(|&byte| byte == b',').any(|option| option == name.as_bytes())
    }

    /// The value of an option of the superblock, like overlay's `upperdir`.
    pub fn super_option(&self, name: &str) -> Option<PathBuf> {
        self.super_options.split(|&byte| byte == b',').find_map(|option| {
            // A comma within a value is written \054, so the value is unescaped after the split.
            let value = option.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(unescape(value))
        })
    }

    /// Whether statfs(2) may tell the quota of a directory instead of the filesystem's size.
    pub fn has_project_quotas(&self) -> bool {
        self.super_options.split(|&byte| byte == b',').any(|option| matches!(option, b"prjquota" | b"pquota"))
    }

    /// Where `path`, a path of this mount's namespace, lies below the root of the filesystem; `None` when it is not
    /// below the mount point.
    pub fn below_root(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.mount_point).ok()?;
        Some(self.root.strip_prefix("/").unwrap_or(&self.root).join(below))
    }
}

/// The mount on which an absolute path lies: the longest mount point wins, the later of two equal ones.
pub fn covering<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
}

/// Parses a whole table. `None`: a line is not understood.
pub fn parse(table: &[u8]) -> Option<Vec<Mount>> {
    table.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(parse_line).collect()
}

/// Parses one line. `None`: it is not understood.
pub fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let _parent = fields.next()?;
    let device = Device::parse(text(fields.next()?)?, 10)?;
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let _mount_options = fields.next()?;
    // Any number of optional fields, ended by a single hyphen.
    fields.by_ref().find(|field| field == b"-")?;
    let filesystem = text(fields.next()?)?;
    let filesystem = filesystem.split('.').next().unwrap_or(filesystem).to_owned();
    let source = unescape(fields.next()?);
    let super_options = fields.next()?.to_vec();
    Some(Mount { id, device, root, mount_point, filesystem, source, super_options })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Undoes the kernel's escapes: a backslash and three octal digits for a byte.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
36 22 0:39 /vol\\0401 /data rw,noatime shared:5 master:1 - btrfs /dev/loop0 rw,space_cache=v2,subvol=/vol\\0401
40 22 0:50 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/data/up\\054per,workdir=/data/work
41 22 0:51 / /mnt/s3 rw - fuse.s3fs s3 rw
42 36 7:1 / /data/inner rw - xfs /dev/loop1 rw
";

    #[test]
    fn fields_escapes_and_options() {
        let mounts = parse(TABLE).unwrap();
        assert_eq!(mounts[1].device, Device { major: 0, minor: 39 });
        assert_eq!(mounts[1].root, Path::new("/vol 1"));
        assert_eq!(mounts[2].super_option("upperdir"), Some("/data/up,per".into()));
        assert_eq!(mounts[2].super_option("upper"), None);
        assert!(mounts[2].has_super_option("rw") && !mounts[2].has_super_option("ro"));
        assert!(!mounts[2].has_super_option("upperdir"));
        assert_eq!(mounts[3].filesystem, "fuse");
    }

    #[test]
    fn the_deepest_and_latest_mount_covers_a_path() {
        let mounts = parse(TABLE).unwrap();
        assert_eq!(covering(&mounts, Path::new("/data/inner/x")).unwrap().id, 42);
        assert_eq!(covering(&mounts, Path::new("/database/x")).unwrap().id, 22);
        let stacked = parse(b"1 0 1:1 / /d rw - xfs a rw\n2 1 1:2 / /d rw - xfs b rw\n").unwrap();
        assert_eq!(covering(&stacked, Path::new("/d/x")).unwrap().id, 2);
        assert!(covering(&stacked, Path::new("/other")).is_none());
    }

    #[test]
    fn paths_below_the_root_of_the_filesystem() {
        let mounts = parse(TABLE).unwrap();
        assert_eq!(mounts[1].below_root(Path::new("/data/x.db")), Some("vol 1/x.db".into()));
        assert_eq!(mounts[4].below_root(Path::new("/data/inner/a/b")), Some("a/b".into()));
        assert_eq!(mounts[4].below_root(Path::new("/elsewhere")), None);
    }

    #[test]
    fn a_broken_line_spoils_the_table() {
        for line in
            ["22 1 254:0 / / rw,relatime ext4", "x 1 254:0 / / rw - ext4 a rw", "22 1 254 / / rw - ext4 a rw", "1"]
        {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![1u8.., Just(b' '), Just(b'\\'), Just(b'\n'), Just(b',')], 0..20)
    }

    /// As `seq_escape` of the kernel writes names.
    fn escape(name: &[u8]) -> Vec<u8> {
        let escaped = |byte: u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b',' | b'#' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![byte],
        };
        name.iter().copied().flat_map(escaped).collect()
    }

    proptest! {
        #[test]
        fn no_input_panics(table in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&table);
        }

        #[test]
        fn every_name_survives_the_escapes(name in proptest::collection::vec(1u8.., 0..40)) {
            let mut line = b"1 0 1:1 / /".to_vec();
            for &byte in &name {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
                    _ => line.push(byte),
                }
            }
            line.extend(b" rw - xfs a rw");
            let mounts = parse(&line).unwrap();
            let mut expected = b"/".to_vec();
            expected.extend(&name);
            prop_assert_eq!(mounts[0].mount_point.as_os_str().as_bytes(), expected);
        }

        /// A line as the kernel writes it (show_mountinfo in fs/proc_namespace.c), whatever the names in it.
        #[test]
        fn every_line_is_read_as_it_was_written(
            (id, major, minor) in any::<(u64, u32, u32)>(),
            (root, mount_point, source, upper) in (name(), name(), name(), name()),
            optional in proptest::collection::vec("(shared|master|propagate_from):[0-9]{1,4}|unbindable", 0..4),
            filesystem in "(ext4|xfs|btrfs|overlay|fuse)",
            subtype in "(\\.[a-z0-9]{1,8})?",
        ) {
            let (root_field, point_field) = (escape(&root), escape(&mount_point));
            let (source_field, upper_field) = (escape(&source), escape(&upper));
            let optional = optional.iter().map(|field| format!("{field} ")).collect::<String>();
            let mut line = format!("{id} 1 {major}:{minor} /").into_bytes();
            line.extend([&root_field[..], b" /", &point_field, b" rw,noatime ", optional.as_bytes(), b"- "].concat());
            line.extend(format!("{filesystem}{subtype} ").bytes());
            line.extend([b"/", &source_field[..], b" rw,upperdir=/", &upper_field, b",index=off"].concat());
            let mounts = parse(&[&line[..], b"\n", &line, b"\n"].concat()).unwrap();
            prop_assert_eq!(mounts.len(), 2);
            let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec([b"/", bytes].concat()));
            let mount = &mounts[1];
            prop_assert_eq!((mount.id, mount.device), (id, Device { major, minor }));
            prop_assert_eq!((&mount.root, &mount.mount_point), (&path(&root), &path(&mount_point)));
            prop_assert_eq!(&mount.filesystem, &filesystem);
            prop_assert_eq!(mount.super_option("upperdir"), Some(path(&upper)));
            // A table whose last line is torn in the middle is refused, not shortened.
            let hyphen = line.windows(3).position(|bytes| bytes == b" - ").unwrap();
            prop_assert_eq!(parse(&[&line[..], b"\n", &line[..hyphen]].concat()), None);
        }
    }
}
