//! What differs between the filesystems that a volume can hold.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// A volume's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs, on one device.
    Btrfs,
}

impl FsType {
    /// All of them, in the order in which messages name them.
    pub const ALL: [FsType; 3] = [FsType::Ext4, FsType::Xfs, FsType::Btrfs];

    /// The filesystem called `name`; an empty name means ext4.
    pub fn parse(name: &str) -> Option<FsType> {
        match name {
            "" | "ext4" => Some(FsType::Ext4),
            "xfs" => Some(FsType::Xfs),
            "btrfs" => Some(FsType::Btrfs),
            _ => None,
        }
    }

    /// The name that mount(2) and StorageClasses use.
    pub fn name(self) -> &'static str {
        match self {
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
            FsType::Btrfs => "btrfs",
        }
    }

    /// The smallest volume, in bytes: what mkfs accepts (xfs: 300 MiB, btrfs: 109 MiB), rounded up.
    pub fn smallest(self) -> u64 {
        match self {
            FsType::Ext4 => 16 * MIB,
            FsType::Xfs => 300 * MIB,
            FsType::Btrfs => 128 * MIB,
        }
    }

    /// The command that makes this filesystem, less the device. All of them skip the discard of a file that is
    /// already a hole.
    pub fn make_command(self) -> &'static [&'static str] {
        match self {
            FsType::Ext4 => &["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"],
            FsType::Xfs => &["mkfs.xfs", "-q", "-f", "-K"],
            FsType::Btrfs => &["mkfs.btrfs", "-q", "-f", "-K"],
        }
    }

    /// The command that gives a copied image an identity of its own, less the device, where it needs one.
    ///
    /// Before Linux 6.7 the kernel cannot mount two btrfs filesystems with one fsid. XFS is mounted with `nouuid` instead, because
    /// changing its UUID needs an empty log and a copy taken under a writer has none. ext4 does not look at its UUID.
    pub fn new_identity_command(self) -> Option<&'static [&'static str]> {
        match self {
            FsType::Btrfs => Some(&["btrfstune", "-m"]),
            FsType::Ext4 | FsType::Xfs => None,
        }
    }

    /// Options for mount(2). `noinit_itable` keeps ext4 from zeroing inode tables in the background: they are holes in
    /// the image already, and an idle volume should stay idle.
    pub fn mount_data(self) -> &'static str {
        match self {
            FsType::Ext4 => "noinit_itable",
            FsType::Xfs => "nouuid",
            FsType::Btrfs => "",
        }
    }
}
