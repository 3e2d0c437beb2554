//! How long an agent looks for locks beside many processes with many descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use stillpoint::agent::dataset;
use stillpoint::agent::locks::look;
use stillpoint_core::locks::Suspension;

use super::system::own_program;
use super::volume::Volume;

/// Processes beside the agent.
pub const PROCESSES: usize = 1_000;
/// Descriptors of each.
pub const DESCRIPTORS: usize = 100;
/// Looks of each kind.
const TIMES: usize = 15;

/// How long looks took.
pub struct Looks {
    /// While writes are suspended.
    pub suspended: Took,
    /// While writes go on.
    pub writable: Took,
}

/// How long looks of one kind took.
pub struct Took {
    /// The median.
    pub median: Duration,
    /// The shortest: whatever else the machine does adds to the others.
    pub shortest: Duration,
}

/// Looks at a volume that none of the processes has.
///
/// # Errors
/// Without root or loop devices, or when a look is not clean.
pub fn measure(directory: &Path) -> Result<Looks> {
    let volume = Volume::new(directory, "looks")?;
    let _crowd = Crowd::start(&volume.mount)?;
    let dataset = dataset::open(&volume.mount).map_err(|blocker| anyhow!("{}", blocker.message))?;
    let times = |when| {
        let took = |_| {
            let began = Instant::now();
            let found = look(&dataset, &[], when);
            ensure!(found.is_clean(), "{found:?}");
            Ok(began.elapsed())
        };
        let mut all = (0..TIMES).map(took).collect::<Result<Vec<_>>>()?;
        all.sort_unstable();
        Ok::<_, anyhow::Error>(Took { median: all[TIMES / 2], shortest: all[0] })
    };
    Ok(Looks { suspended: times(Suspension::Suspended)?, writable: times(Suspension::Writable)? })
}

/// Processes of a container that does not have the volume. They end with their standard input.
struct Crowd(Child);

impl Crowd {
    /// Returns when each has all its descriptors.
    fn start(volume: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "umount \"$1\" && shift && exec \"$@\"", "sh"]).arg(volume);
        command.arg(own_program()?).arg("crowd").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut crowd = Self(command.spawn().context("unshare cannot be run; it is part of util-linux")?);
        let said = crowd.0.stdout.as_mut().context("it has an output")?;
        said.read_exact(&mut [0; PROCESSES]).context("not all of the processes could be started")?;
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Is the first process of the crowd, and starts the others.
///
/// # Errors
/// One cannot be started.
pub fn be_crowd() -> Result<()> {
    let one = |_| Command::new(own_program()?).arg("bystander").spawn().context("a process cannot be started");
    let mut all = (0..PROCESSES).map(one).collect::<Result<Vec<Child>>>()?;
    for child in &mut all {
        child.wait()?;
    }
    Ok(())
}

/// Is one of them.
///
/// # Errors
/// Something cannot be opened.
pub fn stand_by() -> Result<()> {
    let _open = (0..DESCRIPTORS).map(|_| File::open("/dev/zero")).collect::<io::Result<Vec<_>>>()?;
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
