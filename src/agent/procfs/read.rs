//! Reading files of `/proc`, however large somebody has made them.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir};
use stillpoint_core::limits::{MAX_PROC_FILE, MAX_PROC_LINE};

/// Reads a whole file of `/proc` or `/sys`, of those that the kernel keeps small.
///
/// # Errors
/// The kernel's, and `FileTooLarge` above [`MAX_PROC_FILE`]: a part of a table must not pass for the whole.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path)?.take(MAX_PROC_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROC_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Reads a file line by line; of any size, because no more than [`MAX_PROC_LINE`] of it is kept. `line` gets each without its
/// end, until it breaks; what it breaks with is returned. The buffer is taken over from file to file.
///
/// # Errors
/// The kernel's, and `FileTooLarge` for a line above the limit.
pub fn each_line<B>(
    mut file: impl Read,
    buffer: &mut Vec<u8>,
    mut line: impl FnMut(&[u8]) -> ControlFlow<B>,
) -> io::Result<Option<B>> {
    buffer.resize(buffer.len().max(4096), 0);
    // Bytes of the buffer that are read and not yet given away.
    let mut held = 0;
    loop {
        if held == buffer.len() {
            if held >= MAX_PROC_LINE {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            buffer.resize(2 * held, 0);
        }
        let read = match file.read(&mut buffer[held..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            let last = &buffer[..held];
            return Ok(if last.is_empty() { None } else { line(last).break_value() });
        }
        held += read;
        let mut begin = 0;
        while let Some(length) = buffer[begin..held].iter().position(|&byte| byte == b'\n') {
            if let ControlFlow::Break(found) = line(&buffer[begin..begin + length]) {
                return Ok(Some(found));
            }
            begin += length + 1;
        }
        buffer.copy_within(begin..held, 0);
        held -= begin;
    }
}

/// Goes through the entries of a directory whose names are numbers: processes, tasks or descriptors.
///
/// # Errors
/// The kernel's, and the first of `each`.
pub fn each_number(directory: &Path, mut each: impl FnMut(i32) -> io::Result<()>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        if let Some(number) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            each(number)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(file: impl Read) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let end = each_line(file, &mut Vec::new(), |line| {
            found.push(line.to_vec());
            ControlFlow::<()>::Continue(())
        });
        end.map(|_| found)
    }

    /// P7: what is cut off could hold the lock.
    #[test]
    fn more_than_a_limit_is_an_error_and_not_a_part() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(lines(File::open("/dev/zero").unwrap()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_of_any_size_is_read_and_can_be_left() {
        let endless = io::repeat(b'x').take(100).chain(&b"\n"[..]).chain(io::repeat(b'\n'));
        let mut seen = 0_u64;
        let found = each_line(endless, &mut Vec::new(), |_| {
            seen += 1;
            if seen == 3 * MAX_PROC_FILE { ControlFlow::Break(seen) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(found.unwrap(), Some(3 * MAX_PROC_FILE));
    }

    #[test]
    fn every_number_of_a_directory_is_found() {
        let open: Vec<File> = (0..300).map(|_| File::open("/dev/null").unwrap()).collect();
        let mut found = 0;
        each_number(Path::new("/proc/thread-self/fd"), |_| {
            found += 1;
            Ok(())
        })
        .unwrap();
        assert!(found >= open.len(), "{found}");
    }

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(buffer.len()).min(self.0.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_file(text in "([a-z]{0,40}\n)*[a-z]{0,5}", long in 0_usize..9000, step in 1_usize..5000) {
            let text = format!("{}\n{text}", "y".repeat(long));
            let expected: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(lines(Slow(text.as_bytes(), step)).unwrap(), expected);
        }
    }
}
