//! The mount table, and mount(2).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::filesystem::FsType;
use crate::limits;

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// What is mounted, such as `/dev/loop0`.
    pub source: PathBuf,
    /// Whether this mount, not its filesystem, is read-only.
    pub read_only: bool,
}

/// The topmost mount at exactly `target`, if any.
pub fn mount_at(target: &Path) -> Result<Option<Mount>> {
    Ok(table()?.into_iter().rev().find(|mount| mount.target == target))
}

/// Mounts the filesystem on `device` at `target`.
pub fn mount_filesystem(device: &Path, target: &Path, fs: FsType) -> Result<()> {
    let data = std::ffi::CString::new(fs.mount_data()).context("mount options")?;
    rustix::mount::mount(device, target, fs.name(), MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("mounting {} ({}) at {}", device.display(), fs.name(), target.display()))
}

/// Shows the filesystem mounted at `source` at `target` too.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    rustix::mount::mount_bind(source, target)
        .with_context(|| format!("bind-mounting {} at {}", source.display(), target.display()))?;
    if read_only {
        // mount(2) ignores MS_RDONLY when it makes a bind mount; only a remount of the bind applies it.
        rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")
            .with_context(|| format!("making {} read-only", target.display()))?;
    }
    Ok(())
}

/// Unmounts whatever is mounted at exactly `target`; nothing being there is fine.
///
/// Never lazily: a mount that is still in use must be seen to be so.
pub fn unmount_all(target: &Path) -> Result<()> {
    for _ in 0..limits::STACKED_MOUNTS_MAX {
        if mount_at(target)?.is_none() {
            return Ok(());
        }
        rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)
            .with_context(|| format!("unmounting {}", target.display()))?;
    }
    bail!("more than {} mounts are stacked on {}", limits::STACKED_MOUNTS_MAX, target.display())
}

/// The mount table of the calling thread's mount namespace, which is the one that mount(2) acts on.
pub fn table() -> Result<Vec<Mount>> {
    let path = "/proc/thread-self/mountinfo";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.lines().filter_map(parse_line).collect())
}

/// Reads one line of mountinfo (proc_pid_mountinfo(5)):
/// `id parent major:minor root target options optional-fields… - type source super-options`.
fn parse_line(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let target = unescape(mount.next()?);
    let read_only = mount.next()?.split(',').any(|option| option == "ro");
    let source = unescape(filesystem.split(' ').nth(1)?);
    Some(Mount { target, source, read_only })
}

/// Undoes the kernel's escapes: space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let unescaped = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(unescaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_optional_fields_and_escapes() {
        let line = "36 35 0:42 /sub /mnt/a\\040b ro,noatime shared:1 master:2 - btrfs /dev/loop3 rw,space_cache=v2";
        let expected = Mount { target: "/mnt/a b".into(), source: "/dev/loop3".into(), read_only: true };
        assert_eq!(parse_line(line), Some(expected));
    }

    #[test]
    fn ignores_what_is_not_a_mount() {
        assert_eq!(parse_line(""), None);
        assert_eq!(parse_line("36 35 0:42 - btrfs"), None);
    }

    #[test]
    fn sees_the_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
        assert_eq!(mount_at(Path::new("/no/such/mount")).unwrap(), None);
    }
}
