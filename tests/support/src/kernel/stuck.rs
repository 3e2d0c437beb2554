//! A write that is stuck inside the kernel, where it keeps a freeze from completing: its data lies on a page that nobody
//! fills in (userfaultfd(2)) until the test says so.

use std::ffi::c_void;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr::null_mut;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, userfaultfd};

const PAGE: usize = 4096;

type Api = [u64; 3];
type Range = [u64; 4];

const UFFDIO_API: Opcode = opcode::read_write::<Api>(0xaa, 0x3f);
const UFFDIO_REGISTER: Opcode = opcode::read_write::<Range>(0xaa, 0x00);
const UFFDIO_ZEROPAGE: Opcode = opcode::read_write::<Range>(0xaa, 0x04);
const MODE_MISSING: u64 = 1;

/// A thread whose write does not end until it is finished.
pub struct StuckWrite {
    faults: OwnedFd,
    page: u64,
    writer: JoinHandle<()>,
}

impl StuckWrite {
    /// Begins a write to a new file of the directory, and waits until it is stuck.
    pub fn new(directory: &Path) -> Self {
        Self::begin(directory, |file, data| (&*file).write_all(data).unwrap())
    }

    /// The same through Linux AIO, so that no look of an agent sees it.
    pub fn unseen(directory: &Path) -> Self {
        Self::begin(directory, |file, data| {
            let (opcode, descriptor) = (1_u64, u64::from(file.as_raw_fd().cast_unsigned()));
            // As struct iocb of linux/aio_abi.h, on a little-endian machine.
            let write: [u64; 8] = [0, 0, opcode | descriptor << 32, data.as_ptr() as u64, data.len() as u64, 0, 0, 0];
            let writes = &raw const write;
            let mut context = 0_u64;
            // SAFETY: all that is pointed to outlives the calls; a buffered write has ended when io_submit(2) returns.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_io_setup, 1, &raw mut context), 0);
                assert_eq!(libc::syscall(libc::SYS_io_submit, context, 1, &raw const writes), 1);
                assert_eq!(libc::syscall(libc::SYS_io_destroy, context), 0);
            }
        })
    }

    fn begin(directory: &Path, write: fn(&File, &[u8])) -> Self {
        // SAFETY: a new mapping that nothing else uses, and the structures of linux/userfaultfd.h.
        let (faults, page) = unsafe {
            let faults = userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK).unwrap();
            let page = mmap_anonymous(null_mut::<c_void>(), PAGE, ProtFlags::READ, MapFlags::PRIVATE).unwrap() as u64;
            ioctl(&faults, Updater::<UFFDIO_API, Api>::new(&mut [0xaa, 0, 0])).unwrap();
            let mut range = [page, PAGE as u64, MODE_MISSING, 0];
            ioctl(&faults, Updater::<UFFDIO_REGISTER, Range>::new(&mut range)).unwrap();
            (faults, page)
        };
        let file = File::create(directory.join("stuck")).unwrap();
        let writer = std::thread::spawn(move || {
            // SAFETY: the mapping is never unmapped; reading it waits until `finish`.
            let data = unsafe { std::slice::from_raw_parts(page as *const u8, PAGE) };
            write(&file, data);
        });
        let mut fds = [rustix::event::PollFd::new(&faults, rustix::event::PollFlags::IN)];
        let begun = Instant::now();
        while {
            let polled = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 }));
            polled != Ok(1) || !fds[0].revents().contains(rustix::event::PollFlags::IN)
        } {
            assert!(begun.elapsed() < Duration::from_secs(30), "the write never faulted");
        }
        Self { faults, page, writer }
    }

    /// Lets the write end.
    pub fn finish(self) {
        let mut range = [self.page, PAGE as u64, 0, 0];
        // SAFETY: the range that was registered.
        unsafe { ioctl(&self.faults, Updater::<UFFDIO_ZEROPAGE, Range>::new(&mut range)).unwrap() };
        self.writer.join().unwrap();
    }
}
