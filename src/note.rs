//! Small files that outlive the process that wrote them: what is about to be suspended, and in which boot.
//!
//! Nothing here needs to reach a disk: what the files are about does not outlive the kernel's memory either.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use stillpoint_core::limits::MAX_NOTE;

/// No note has this extension.
const UNFINISHED: &str = "new";

/// The id of this boot of the machine (`random/boot_id` of proc_sys_kernel(5)).
///
/// # Errors
/// If `/proc/sys` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Makes a directory for notes, for root alone, if it is not there.
///
/// # Errors
/// The kernel's.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Writes a note by way of a second file: whoever reads finds a whole note or none, also when the writer is killed in
/// between. `path` must have no extension.
///
/// # Errors
/// The kernel's, and `FileTooLarge` above [`MAX_NOTE`] bytes.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_NOTE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let unfinished = path.with_extension(UNFINISHED);
    File::create(&unfinished)?.write_all(bytes)?;
    fs::rename(&unfinished, path)
}

/// Removes a note, if it is there.
///
/// # Errors
/// The kernel's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a note; never waits, whatever lies there. `None`: it is what was left of writing one.
///
/// # Errors
/// A sentence that says why it is no note.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    if path.extension().is_some_and(|extension| extension == UNFINISHED) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| errno.to_string())?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_NOTE as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_NOTE {
        return Err(format!("it is longer than {MAX_NOTE} bytes"));
    }
    Ok(Some(bytes))
}
