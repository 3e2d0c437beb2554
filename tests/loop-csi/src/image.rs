//! Image files: making them and copying them.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom as Find, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// How an image was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// FICLONE: both files share their blocks until one of them changes. Takes milliseconds at any size.
    Reflink,
    /// The data was read and written; holes stayed holes.
    Data,
}

/// Makes an image of `size` bytes that is one hole. Fails if `path` exists.
pub fn create(path: &Path, size: u64) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("creating the image {}", path.display()))?;
    file.set_len(size).with_context(|| format!("making the image {} {size} bytes long", path.display()))
}

/// Copies the image `source` to `target`, replacing what is there.
///
/// The copy shows one instant only if nobody writes to `source` meanwhile. It is not forced to the disk: a test's
/// snapshot need not survive a power cut, and the flush would take place while the caller's group is held.
pub fn copy(source: &Path, target: &Path) -> Result<CopyMethod> {
    let from = File::open(source).with_context(|| format!("opening the image {}", source.display()))?;
    let to = File::create(target).with_context(|| format!("creating the image {}", target.display()))?;
    let method = match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(CopyMethod::Reflink),
        // The disk's filesystem has no reflinks, or the two files are on different ones.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) => {
            copy_data(&from, &to).map(|()| CopyMethod::Data)
        }
        Err(error) => Err(error.into()),
    };
    method.with_context(|| format!("copying the image {} to {}", source.display(), target.display()))
}

fn copy_data(from: &File, to: &File) -> Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut position = 0;
    while position < size {
        let start = match seek(from, Find::Data(position)) {
            Ok(start) => start,
            // No data after this position.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        position = seek(from, Find::Hole(start))?;
        copy_range(from, to, start, position)?;
    }
    Ok(())
}

/// Copies the bytes from `start` up to, not including, `end`.
fn copy_range(from: &File, mut to: &File, start: u64, end: u64) -> Result<()> {
    let mut read_at = start;
    to.seek(SeekFrom::Start(start))?;
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        // copy_file_range moves `read_at` on, and the file position of `to`.
        if copy_file_range(from, Some(&mut read_at), to, None, left)? == 0 {
            bail!("the image ended at {read_at} bytes while it was copied up to {end}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_image_is_one_hole_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        create(&path, 1 << 30).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (1 << 30, 0));
        assert!(create(&path, 1).is_err());
    }

    #[test]
    fn a_copy_keeps_data_holes_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        create(&source, 64 << 20).unwrap();
        let mut file = OpenOptions::new().write(true).open(&source).unwrap();
        for position in [0, 10 << 20, (64 << 20) - 5] {
            file.seek(SeekFrom::Start(position)).unwrap();
            file.write_all(b"hello").unwrap();
        }
        std::fs::write(&target, b"something that was there before").unwrap();

        copy(&source, &target).unwrap();

        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        File::open(&source).unwrap().read_to_end(&mut expected).unwrap();
        File::open(&target).unwrap().read_to_end(&mut actual).unwrap();
        assert!(expected == actual, "the copy differs");
        assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20, "the copy is not sparse");
    }
}
