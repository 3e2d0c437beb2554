//! Roles of processes that make a look expensive, or hide what a filesystem carries.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Watches so many files, which it makes in a directory: one descriptor whose fdinfo has a line for each.
pub fn watch(directory: &Path, count: usize) {
    // SAFETY: no arguments but flags; the descriptor stays open as long as the process.
    let watches = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    for number in 0..count {
        let file = directory.join(number.to_string());
        File::create(&file).expect("the directory has room");
        let name = CString::new(super::volume::text(&file)).expect("a path has no null byte");
        // SAFETY: the descriptor is open and the name ends with a null byte.
        let watch = unsafe { libc::inotify_add_watch(watches, name.as_ptr(), libc::IN_MODIFY) };
        assert!(watch > 0, "inotify: {}", std::io::Error::last_os_error());
    }
}

/// Takes a flock on each of so many files, which it makes in a directory.
pub fn lock_many(directory: &Path, count: usize) {
    for number in 0..count {
        std::mem::forget(super::roles::take("flock-write", &directory.join(format!("{number:03}"))));
    }
}

/// Mounts a FUSE filesystem that nobody serves.
pub fn mount_fuse(at: &Path) {
    let device = File::options().read(true).write(true).open("/dev/fuse").expect("the kernel has FUSE");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let (at, options) = (CString::new(super::volume::text(at)), CString::new(options));
    let (at, options) = (at.expect("a path has no null byte"), options.expect("nor has this"));
    // SAFETY: all are strings that end with a null byte.
    let result = unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast()) };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
    std::mem::forget(device);
}

/// Makes so many processes with so many descriptors each. They end with this one.
pub fn crowd(processes: usize, descriptors: usize) {
    for _ in 0..descriptors {
        std::mem::forget(File::open("/dev/null").expect("it is there"));
    }
    for _ in 0..processes {
        // SAFETY: the child only calls functions that may follow a fork in a process of several threads.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // Its output would keep the one that waits for the role's end waiting.
                libc::close(1);
                loop {
                    libc::pause();
                }
            },
            child => assert!(child > 0, "fork: {}", std::io::Error::last_os_error()),
        }
    }
}
