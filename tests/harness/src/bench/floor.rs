//! The floor of a hold: what the kernel needs to suspend and resume the same filesystems under the same writers, when one
//! process commands it and nobody looks for anything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stillpoint::fsfreeze::{freeze, thaw};
use stillpoint::undo::{Undo, until_settled};

use super::system::own_program;

/// The watchdog thaws after this time at the latest.
const WATCHDOG: Duration = Duration::from_secs(10);

/// Whether the kernel was just made to do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The last freeze was long ago: each freeze waits for RCU grace periods.
    Cold,
    /// Each filesystem was frozen and thawed just before, as agents do it.
    Warm,
}

/// From the first freeze's entry to the last thaw's return, each filesystem frozen by a thread of its own and thawed when
/// all are frozen. Another process stands by to thaw.
///
/// # Errors
/// A filesystem could not be frozen or thawed.
pub fn measure(mounts: &[&Path], start: Start) -> Result<Duration> {
    let freezer_role = if start == Start::Warm { "floor-warm" } else { "floor-cold" };
    let mut freezer = Role::start(freezer_role, &[], mounts)?;
    freezer.expect_line("ready")?;
    let mut watchdog = Role::start("watchdog", &[freezer.process.id().to_string()], mounts)?;
    watchdog.expect_line("armed")?;
    freezer.process.stdin.as_mut().context("it is a pipe")?.write_all(b"go\n")?;
    let answer = freezer.line()?;
    freezer.end()?;
    watchdog.end()?;
    Ok(Duration::from_nanos(answer.parse().with_context(|| format!("the floor is {answer:?}"))?))
}

/// A process of this program in another role.
struct Role {
    process: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Role {
    fn start(role: &str, arguments: &[String], mounts: &[&Path]) -> Result<Self> {
        let mut command = Command::new(own_program()?);
        command.arg(role).args(arguments).args(mounts).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let says = BufReader::new(process.stdout.take().context("its standard output is a pipe")?);
        Ok(Self { process, says })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a helping process ended early");
        Ok(line.trim().to_owned())
    }

    fn expect_line(&mut self, expected: &str) -> Result<()> {
        let line = self.line()?;
        ensure!(line == expected, "a helping process said {line:?} where {expected:?} was expected");
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        drop(self.process.stdin.take());
        ensure!(self.process.wait()?.success(), "a helping process failed");
        Ok(())
    }
}

/// The life of the process that freezes. It begins when it reads a line, and prints nanoseconds.
///
/// # Errors
/// A filesystem cannot be opened, frozen or thawed.
pub fn run(mounts: &[PathBuf], start: Start) -> Result<()> {
    let roots = open(mounts)?;
    let together = Barrier::new(roots.len() + 1);
    let spans: Vec<rustix::io::Result<(Instant, Instant)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = roots.iter().map(|root| scope.spawn(|| one(root, start, &together))).collect();
        // All threads exist before they may begin.
        println!("ready");
        let mut go = String::new();
        let asked = io::stdin().read_line(&mut go).is_ok_and(|bytes| bytes > 0);
        if !asked {
            std::process::exit(1);
        }
        for _ in 0..barriers(start) {
            together.wait();
        }
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let spans = spans.into_iter().collect::<rustix::io::Result<Vec<_>>>().context("a freeze or a thaw failed")?;
    let (first, last) = (spans.iter().map(|span| span.0).min(), spans.iter().map(|span| span.1).max());
    let (Some(first), Some(last)) = (first, last) else { bail!("no filesystem is named") };
    println!("{}", (last - first).as_nanos());
    Ok(())
}

fn barriers(start: Start) -> usize {
    if start == Start::Warm { 3 } else { 2 }
}

fn one(root: &OwnedFd, start: Start, together: &Barrier) -> rustix::io::Result<(Instant, Instant)> {
    together.wait();
    let mut warmed = Ok(());
    if start == Start::Warm {
        warmed = freeze(root).and_then(|()| thaw(root));
        together.wait();
    }
    let first = Instant::now();
    let frozen = warmed.and_then(|()| freeze(root));
    // A thread that failed comes here too, or the others would wait for it.
    together.wait();
    frozen?;
    thaw(root)?;
    Ok((first, Instant::now()))
}

/// The life of the process that stands by: thaws when its standard input ends (the benchmark is done, or dead), or after
/// [`WATCHDOG`], and ends the freezing process if it is still there.
///
/// # Errors
/// There is no such process, or a filesystem cannot be opened.
pub fn watch(freezer: i32, mounts: &[PathBuf]) -> Result<()> {
    let freezer = Pid::from_raw(freezer).context("no process id")?;
    let freezer = pidfd_open(freezer, PidfdFlags::empty())?;
    let roots = open(mounts)?;
    println!("armed");
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let _ = end.recv_timeout(WATCHDOG);
    for root in &roots {
        // `EINVAL`: the freezer has thawed it; and whatever it is, the next one's turn comes.
        let _ = until_settled(Undo::Thaw, root, &freezer);
    }
    Ok(())
}

fn open(mounts: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    mounts.iter().map(|mount| Ok(File::open(mount)?.into())).collect()
}
