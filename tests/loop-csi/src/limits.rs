//! Every bound of the driver, in one place.

use std::time::Duration;

/// Longest name of a volume or snapshot, in bytes: a file name's limit less room for a suffix.
pub const NAME_BYTES_MAX: usize = 200;

/// Largest volume, in bytes (1 TiB). Images are sparse, so this is a guard against typing errors.
pub const VOLUME_BYTES_MAX: u64 = 1 << 40;

/// How long a tool such as `mkfs.ext4` may run.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a running tool is looked at.
pub const TOOL_POLL: Duration = Duration::from_millis(5);

/// How long a call waits for another call on the same volume or snapshot before it answers ABORTED. Longer than the
/// sidecars' own call timeout would be pointless; shorter than a copy would make them retry needlessly.
pub const BUSY_WAIT: Duration = Duration::from_secs(10);

/// How long to wait for FIFREEZE. A writer stuck inside write(2) can hold it up without end.
pub const SUSPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that the driver keeps a volume's writes suspended for a copy. The holding process thaws by itself then,
/// and the snapshot is void.
pub const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// How often a finished loop device is looked for, or another free one is tried.
pub const LOOP_ATTEMPTS: u32 = 100;

/// Pause between two of those attempts.
pub const LOOP_RETRY: Duration = Duration::from_millis(20);

/// Loop devices looked at when searching for the one that serves an image.
pub const LOOP_DEVICES_MAX: u32 = 4096;

/// Access to the node of a loop device that the driver makes: its owner and its group read and write, as udev sets it.
pub const LOOP_NODE_MODE: u32 = 0o660;

/// Longest delay that a test may ask for in a VolumeSnapshotClass.
pub const FAULT_DELAY_MAX: Duration = Duration::from_secs(600);

/// Most of a tool's error output that is repeated in an error message, in bytes.
pub const TOOL_MESSAGE_BYTES_MAX: usize = 500;

/// Most mounts that may be stacked on one path when it is cleared.
pub const STACKED_MOUNTS_MAX: usize = 16;

/// How long a call under way may take to finish when the driver is told to end.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
