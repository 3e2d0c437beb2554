//! The application that does not let go: takes one write lock and keeps it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde_json::json;
use tokio::net::TcpListener;

use crate::http::{self, Answer};
use crate::shutdown;

/// The kinds of file lock that Linux knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// fcntl(2) F_SETLK: belongs to the process.
    Posix,
    /// fcntl(2) F_OFD_SETLK: belongs to the open file description; no process is named in /proc/locks.
    Ofd,
    /// flock(2): belongs to the open file description, whole file.
    Flock,
}

/// Take a write lock on a file and hold it until SIGTERM or POST /unlock.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The file; created if it is not there.
    #[arg(long)]
    file: PathBuf,
    /// The kind of lock.
    #[arg(long = "type", value_enum, default_value_t = Kind::Posix)]
    kind: Kind,
    /// First and last byte, like 0-99; without it the whole file. Not for flock.
    #[arg(long, value_parser = parse_range)]
    range: Option<(i64, i64)>,
    /// Let another process take the lock on a shared open file description and exit: the lock stays, and /proc/locks names a
    /// process that is gone. Not for posix, whose locks end with their process.
    #[arg(long)]
    inherit: bool,
    /// Begin without the lock; POST /lock takes it.
    #[arg(long)]
    on_request: bool,
    /// Address of POST /lock and POST /unlock. GET / says whether the lock is held.
    #[arg(long, default_value = "0.0.0.0:7002")]
    listen: SocketAddr,
    /// Take the lock on the file that is standard input, and exit without dropping it.
    #[arg(long, hide = true, conflicts_with = "inherit")]
    take_for_parent: bool,
}

fn parse_range(text: &str) -> Result<(i64, i64), String> {
    let parsed = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if 0 <= first && first <= last && last < i64::MAX => Ok((first, last)),
        _ => Err(format!("{text:?}: write FIRST-LAST in bytes, for example 0-99")),
    }
}

/// Holds the lock until SIGTERM.
///
/// # Errors
/// The file cannot be opened, somebody else holds the lock, or the address cannot be used.
pub async fn run(args: Args) -> Result<()> {
    ensure!(args.kind != Kind::Flock || args.range.is_none(), "flock locks whole files: leave out --range");
    ensure!(args.kind != Kind::Posix || !args.inherit, "a posix lock cannot be inherited: use ofd or flock");
    if args.take_for_parent {
        let shared = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        return take(&shared, args.kind, args.range);
    }
    let shutdown = shutdown::listen()?;
    OpenOptions::new().append(true).create(true).open(&args.file).with_context(|| cannot_open(&args.file))?;
    let held = RefCell::new(if args.on_request { None } else { Some(acquire(&args)?) });
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let state = if args.on_request { "not locked yet" } else { "locked" };
    println!("{} is {state} ({}), served on {}", args.file.display(), kind_name(args.kind), listener.local_addr()?);
    tokio::select! {
        ended = http::serve(listener, move |request| answer(request, &args, &held)) => ended,
        () = shutdown => Ok(()),
    }
}

/// The lock lives as long as the file is open.
fn answer(request: &str, args: &Args, held: &RefCell<Option<File>>) -> Answer {
    let mut held = held.borrow_mut();
    match request {
        "GET /" => {}
        "POST /unlock" => *held = None,
        "POST /lock" if held.is_some() => {}
        "POST /lock" => match acquire(args) {
            Ok(file) => *held = Some(file),
            Err(error) => return (409, json!({"error": format!("{error:#}")}).to_string()),
        },
        _ => return (404, json!({"error": "try GET /, POST /lock or POST /unlock"}).to_string()),
    }
    (200, json!({"locked": held.is_some()}).to_string())
}

fn acquire(args: &Args) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(&args.file).with_context(|| cannot_open(&args.file))?;
    if args.inherit {
        take_by_child(&file, args)?;
    } else {
        take(&file, args.kind, args.range).with_context(|| format!("cannot lock {}", args.file.display()))?;
    }
    Ok(file)
}

fn cannot_open(file: &Path) -> String {
    format!("cannot open {} for writing", file.display())
}

/// Takes the lock without waiting.
fn take(file: &File, kind: Kind, range: Option<(i64, i64)>) -> Result<()> {
    let (start, length) = range.map_or((0, 0), |(first, last)| (first, last - first + 1));
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    match kind {
        Kind::Posix => fcntl(file, FcntlArg::F_SETLK(&request)).map(drop).context("F_SETLK refused"),
        Kind::Ofd => fcntl(file, FcntlArg::F_OFD_SETLK(&request)).map(drop).context("F_OFD_SETLK refused"),
        Kind::Flock => file.try_lock().context("flock refused"),
    }
}

/// The child gets the open file description as its standard input, takes the lock on it, and exits.
fn take_by_child(file: &File, args: &Args) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program);
    child.args(["lock", "--take-for-parent", "--type", kind_name(args.kind), "--file"]).arg(&args.file);
    if let Some((first, last)) = args.range {
        child.arg("--range").arg(format!("{first}-{last}"));
    }
    let ended = child.stdin(Stdio::from(file.try_clone()?)).status().context("cannot start the process that locks")?;
    ensure!(ended.success(), "the process that was to lock {} failed", args.file.display());
    Ok(())
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Posix => "posix",
        Kind::Ofd => "ofd",
        Kind::Flock => "flock",
    }
}
