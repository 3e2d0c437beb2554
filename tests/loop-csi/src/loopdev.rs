//! Loop devices: block devices that show an image file.
//!
//! Devices are made with the autoclear flag: the kernel detaches one when its last user goes, so nothing is left behind
//! even if the driver dies between attaching and mounting. See loop(4).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::ffi::c_void;
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter};

use crate::limits;

// Request codes from the kernel's linux/loop.h.
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const EMPTY_INFO: LoopInfo64 = LoopInfo64 {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// LOOP_CTL_GET_FREE, whose answer is the call's return value.
struct GetFree;

// SAFETY: the request takes no argument and its output is the return value alone.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(out).map_err(|_| Errno::RANGE)
    }
}

/// A loop device that this process keeps attached. Once it is mounted, the mount keeps it attached instead.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Where the device is, such as `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Shows `image` as a block device.
pub fn attach(image: &Path) -> Result<LoopDevice> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .with_context(|| format!("opening the image {}", image.display()))?;
    let control = File::open("/dev/loop-control")
        .context("opening /dev/loop-control: the driver needs the node's /dev and the kernel's loop module")?;
    // Another process may take the device between the question and the answer's use, so this is tried again.
    for _ in 0..limits::LOOP_ATTEMPTS {
        // SAFETY: GetFree matches the request's kernel definition.
        let number = unsafe { ioctl::ioctl(&control, GetFree) }.context("asking for a free loop device")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(number, &path)?;
        match configure(device.as_fd(), &file) {
            Ok(()) => return Ok(LoopDevice { path, _open: device }),
            Err(Errno::BUSY) => std::thread::sleep(limits::LOOP_RETRY),
            Err(error) => {
                return Err(error).with_context(|| format!("attaching {} to {}", image.display(), path.display()));
            }
        }
    }
    bail!("no loop device could be had in {} attempts: other processes keep taking them", limits::LOOP_ATTEMPTS)
}

/// Opens a loop device. Where the node has a /dev of its own, as a container has, only those devices are in it that were there
/// when it started: what a younger one lacks is made.
fn open(number: u32, path: &Path) -> Result<File> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_node(number, path)?;
            open()
        }
        opened => opened,
    };
    opened.with_context(|| format!("opening {}", path.display()))
}

fn make_node(number: u32, path: &Path) -> Result<()> {
    let shown = format!("/sys/block/loop{number}/dev");
    let said = fs::read_to_string(&shown).with_context(|| format!("reading {shown}"))?;
    let (major, minor) = device_number(&said).with_context(|| format!("{shown} says {said:?}, which is no device"))?;
    let device = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(CWD, path, FileType::BlockDevice, limits::LOOP_NODE_MODE.into(), device) {
        // Another process of this node was faster.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("making {}", path.display())),
    }
}

/// Major and minor number, as sysfs writes them: `7:12`.
fn device_number(said: &str) -> Option<(u32, u32)> {
    let (major, minor) = said.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn configure(device: BorrowedFd<'_>, image: &File) -> Result<(), Errno> {
    let fd = u32::try_from(image.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let info = LoopInfo64 { flags: LO_FLAGS_AUTOCLEAR, ..EMPTY_INFO };
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: LoopConfig has the layout of the kernel's struct loop_config, which this request reads.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// The devices that show `image` now. There is none, or one, unless somebody attached it by hand.
pub fn attached_to(image: &Path) -> Result<Vec<PathBuf>> {
    let wanted = fs::metadata(image).with_context(|| format!("looking at the image {}", image.display()))?;
    let mut found = Vec::new();
    let blocks = fs::read_dir("/sys/block").context("listing /sys/block")?;
    for entry in blocks.take(limits::LOOP_DEVICES_MAX as usize) {
        let entry = entry?;
        // Only an attached loop device has this folder.
        if !entry.path().join("loop").is_dir() {
            continue;
        }
        let path = Path::new("/dev").join(entry.file_name());
        let Ok(device) = File::open(&path) else { continue };
        // SAFETY: LoopInfo64 has the layout of the kernel's struct loop_info64, which this request fills.
        let status = unsafe { ioctl::ioctl(&device, Getter::<LOOP_GET_STATUS64, LoopInfo64>::new()) };
        // Whoever was detached since the listing answers ENXIO.
        let Ok(info) = status else { continue };
        if info.inode == wanted.ino() && info.device == kernel_device_number(wanted.dev()) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes sure that no device shows `image` any more. Call it after the last unmount.
pub fn detach(image: &Path) -> Result<()> {
    for _ in 0..limits::LOOP_ATTEMPTS {
        let devices = attached_to(image)?;
        if devices.is_empty() {
            return Ok(());
        }
        for path in devices {
            let Ok(device) = File::open(&path) else { continue };
            // SAFETY: the request takes no argument.
            match unsafe { ioctl::ioctl(&device, NoArg::<LOOP_CLR_FD>::new()) } {
                Ok(()) | Err(Errno::NXIO) => {}
                Err(error) => return Err(error).with_context(|| format!("detaching {}", path.display())),
            }
        }
        std::thread::sleep(limits::LOOP_RETRY);
    }
    bail!(
        "{} is still attached to a loop device: another mount namespace keeps its filesystem mounted, or it was unmounted \
         while suspended",
        image.display()
    )
}

/// The form in which the kernel reports a backing file's device in `struct loop_info64`.
fn kernel_device_number(dev: u64) -> u64 {
    let (major, minor) = (u64::from(rustix::fs::major(dev)), u64::from(rustix::fs::minor(dev)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn device_numbers_of_sysfs_are_read() {
        assert_eq!(device_number("7:12\n"), Some((7, 12)));
        for wrong in ["", "7", "7:", "seven:1", "7:-1"] {
            assert_eq!(device_number(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn device_numbers_are_packed_as_the_kernel_does() {
        assert_eq!(kernel_device_number(rustix::fs::makedev(254, 0)), 0xfe00);
        assert_eq!(kernel_device_number(rustix::fs::makedev(7, 300)), 0x10_072c);
    }
}
