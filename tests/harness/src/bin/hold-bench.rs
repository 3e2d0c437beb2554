//! The benchmark of the hold, on the API server of KUBECONFIG: `make bench` starts one and runs it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use harness::bench::floor::{self, Start};
use harness::bench::measure::Group;
use harness::bench::memory::resident;
use harness::bench::objects::service_account;
use harness::bench::system::{System, own_program};
use harness::bench::{pod, report};
use harness::cluster::Cluster;
use harness::namespace::Place;
use harness::terminal::Terminal;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

/// Measure how long writes are suspended, against what the kernel needs anyway. Needs root and loop devices.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// Sizes of the group.
    #[arg(long, value_delimiter = ',', default_value = "1,3,10,30", value_parser = clap::value_parser!(u16).range(1..=100))]
    members: Vec<u16>,
    /// Measurements of every size; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// The program under test; the one beside this program if not given.
    #[arg(long, value_name = "FILE")]
    stillpoint: Option<PathBuf>,
    /// The image archive, for its size.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program also is, in processes of its own.
#[derive(Debug, Subcommand)]
enum Role {
    /// The benchmark, in process and mount namespaces of its own.
    #[command(hide = true)]
    Inside(Run),
    #[command(hide = true)]
    Pod {
        mount: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        agent: Vec<String>,
    },
    #[command(hide = true)]
    FloorCold { mounts: Vec<PathBuf> },
    #[command(hide = true)]
    FloorWarm { mounts: Vec<PathBuf> },
    #[command(hide = true)]
    Watchdog { freezer: i32, mounts: Vec<PathBuf> },
}

/// What the benchmark is told when its namespaces are made.
#[derive(Debug, clap::Args)]
struct Run {
    directory: PathBuf,
    program: PathBuf,
    image: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    members: Vec<u16>,
    #[arg(long)]
    repetitions: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.role {
        None => step_inside(args),
        Some(Role::Inside(run)) => benchmark(run),
        Some(Role::Pod { mount, agent }) => pod::run(&mount, &agent),
        Some(Role::FloorCold { mounts }) => floor::run(&mounts, Start::Cold),
        Some(Role::FloorWarm { mounts }) => floor::run(&mounts, Start::Warm),
        Some(Role::Watchdog { freezer, mounts }) => floor::watch(freezer, &mounts),
    }
}

/// Becomes the benchmark in namespaces of its own: processes and mounts end with it, however it ends. A shell is the first
/// process there, so that the benchmark has the signals of an ordinary one.
fn step_inside(args: Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark mounts and freezes filesystems: run it as root");
    ensure!(std::env::var_os("KUBECONFIG").is_some(), "KUBECONFIG is not set: run `make bench`");
    let own = own_program()?;
    let program = args.stillpoint.unwrap_or_else(|| own.with_file_name("stillpoint"));
    // The group only grows.
    let mut members = args.members;
    members.sort_unstable();
    let members: Vec<String> = members.iter().map(u16::to_string).collect();
    let directory = std::env::temp_dir().join(format!("hold-bench-{}", std::process::id()));
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"]);
    unshare.arg(own).arg("inside").args(["--members", &members.join(",")]);
    unshare.args(["--repetitions", &args.repetitions.to_string()]).args([directory, program]);
    Err(unshare.args(args.image).exec()).context("unshare cannot be run; it is part of util-linux")
}

#[tokio::main]
async fn benchmark(run: Run) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    std::fs::create_dir(&run.directory)?;
    // What is dropped by a signal cleans up behind itself.
    let result = tokio::select! {
        result = measure(&run) => result,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("interrupted")),
    };
    let removed = std::fs::remove_dir_all(&run.directory);
    result.and(removed.with_context(|| format!("{} could not be removed", run.directory.display())))
}

async fn measure(run: &Run) -> Result<()> {
    let terminal = Terminal::detect();
    let client = Client::try_default().await.context("KUBECONFIG names no usable cluster")?;
    let system = System::start(&client, &run.program, &run.directory).await?;
    let place = Place::new(&Cluster { client: client.clone(), nodes: Vec::new() }, "bench").await?;
    service_account(&place).await?;
    let mut group = Group::new(&place, &system, &run.directory);
    let mut all = Vec::new();
    for members in &run.members {
        let step = terminal.step(&format!("{members} members, {} times", run.repetitions));
        group.grow(usize::from(*members)).await?;
        all.push(group.series(run.repetitions.into(), |done| step.detail(&format!("{done} done"))).await?);
        step.done("");
    }
    let [agent, freezer] = group.agents_memory().await?;
    let controller = resident(system.controller.pid())?;
    let guardian = resident(system.guardian.pid())?;

    report::holds(terminal, &all);
    report::requests(terminal, &all);
    let processes = [("controller", controller), ("agent", agent), ("its freezer", freezer), ("guardian", guardian)];
    report::memory(terminal, &processes);
    let mut files = vec![("program", std::fs::metadata(&run.program)?.len())];
    if let Some(image) = &run.image {
        files.push(("image", std::fs::metadata(image).with_context(|| format!("{}", image.display()))?.len()));
    }
    report::sizes(terminal, &files);
    Ok(())
}
