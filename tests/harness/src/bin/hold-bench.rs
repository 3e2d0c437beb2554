//! The benchmark, on the API server of KUBECONFIG: `make bench` starts one (two, when versions are compared) and runs it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use harness::bench::floor::{self, Start};
use harness::bench::load::{self, Load};
use harness::bench::measure::Group;
use harness::bench::piles::{self, Piles};
use harness::bench::report::traffic::Counts;
use harness::bench::system::own_program;
use harness::bench::traffic::{Kind, Traffic};
use harness::bench::version::Version;
use harness::bench::{looks, pod, report};
use harness::terminal::Terminal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Where the API server of the baseline is.
const BASELINE_KUBECONFIG: &str = "BASELINE_KUBECONFIG";

/// Measure Stillpoint, and compare it with another version of itself. Needs root and loop devices.
///
/// hold: how long writes are suspended, against what the kernel needs anyway. requests: what a run asks of the API server.
/// load: memory and processor time of a controller with many agents and many runs at once. memory: the same beside 1,000 large
/// ended objects, 5,000 pods, 3,000 claims and 10,000 objects that wait, while one tenant floods it. look: how long an agent
/// looks for locks beside 1,000 processes; of the new version alone.
///
/// With --baseline all of it is measured with both binaries in the same run, the holds in turns, so that both see the same
/// noise of the machine:
///
///   git worktree add ../base COMMIT     # build target/.../release/stillpoint there as the Makefile does
///
///   make bench BENCH_ARGS="--baseline ../base/FILE --baseline-crd ../base/crds/consistencygroupreplications.yaml"
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    measurements: Measurements,
    /// The program under test; the one beside this program if not given.
    #[arg(long, value_name = "FILE")]
    stillpoint: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What is measured, and with which versions.
#[derive(Debug, clap::Args)]
struct Measurements {
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Sizes of the group; if not given, 1,3,10,30,100 for holds and 3,10,30 for requests.
    #[arg(long, alias = "members", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=100))]
    sizes: Vec<u16>,
    /// Measurements of every size; medians are printed. Of requests the mean.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// Connected agents of the load.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    agents: u16,
    /// Runs at once of the load; the agents are shared out among them.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    runs: u16,
    /// Percent of the objects of the part memory.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=100))]
    piles: u16,
    /// The `stillpoint` binary of another version, to compare with.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The CRD of that version; that of this checkout if not given. Needed for requests when the two differ in what a
    /// controller writes into the status of a run that replicates.
    #[arg(long, value_name = "FILE", requires = "baseline")]
    baseline_crd: Option<PathBuf>,
    /// The image archive, for its size.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Hold,
    Requests,
    Load,
    Memory,
    Look,
}

/// What this program also is, in processes of its own.
#[derive(Debug, Subcommand)]
enum Role {
    /// The benchmark, in process and mount namespaces of its own.
    #[command(hide = true)]
    Inside(Run),
    #[command(hide = true)]
    Pod { mount: PathBuf, agents: Vec<String> },
    #[command(hide = true)]
    FloorCold { mounts: Vec<PathBuf> },
    #[command(hide = true)]
    FloorWarm { mounts: Vec<PathBuf> },
    #[command(hide = true)]
    Watchdog { freezer: i32, mounts: Vec<PathBuf> },
    #[command(hide = true)]
    Crowd,
    #[command(hide = true)]
    Bystander,
}

/// What the benchmark is told when its namespaces are made.
#[derive(Debug, clap::Args)]
struct Run {
    directory: PathBuf,
    program: PathBuf,
    #[command(flatten)]
    measurements: Measurements,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.role {
        None => step_inside(args),
        Some(Role::Inside(run)) => benchmark(run),
        Some(Role::Pod { mount, agents }) => pod::run(&mount, &agents),
        Some(Role::FloorCold { mounts }) => floor::run(&mounts, Start::Cold),
        Some(Role::FloorWarm { mounts }) => floor::run(&mounts, Start::Warm),
        Some(Role::Watchdog { freezer, mounts }) => floor::watch(freezer, &mounts),
        Some(Role::Crowd) => looks::be_crowd(),
        Some(Role::Bystander) => looks::stand_by(),
    }
}

/// Becomes the benchmark in namespaces of its own: processes and mounts end with it, however it ends. A shell is the first
/// process there, so that the benchmark has the signals of an ordinary one.
fn step_inside(args: Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark mounts and freezes filesystems: run it as root");
    kubeconfig("KUBECONFIG")?;
    if args.measurements.baseline.is_some() {
        kubeconfig(BASELINE_KUBECONFIG)?;
    }
    ensure!(args.measurements.runs <= args.measurements.agents, "every run of the load needs an agent");
    let own = own_program()?;
    let program = args.stillpoint.unwrap_or_else(|| own.with_file_name("stillpoint"));
    let directory = std::env::temp_dir().join(format!("hold-bench-{}", std::process::id()));
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"]);
    unshare.arg(own).arg("inside").args([directory, program]).args(args.measurements.again());
    Err(unshare.exec()).context("unshare cannot be run; it is part of util-linux")
}

fn kubeconfig(variable: &str) -> Result<PathBuf> {
    let file = std::env::var_os(variable).map(PathBuf::from);
    file.with_context(|| format!("{variable} is not set: run `make bench` (with --baseline in BENCH_ARGS, if wanted)"))
}

impl Measurements {
    /// The arguments that say the same.
    fn again(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = Vec::new();
        let mut say = |name: &str, value: std::ffi::OsString| arguments.extend([name.into(), value]);
        for part in &self.only {
            say("--only", part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default().into());
        }
        for size in &self.sizes {
            say("--sizes", size.to_string().into());
        }
        let numbers = [
            ("--repetitions", self.repetitions),
            ("--agents", self.agents),
            ("--runs", self.runs),
            ("--piles", self.piles),
        ];
        for (name, number) in numbers {
            say(name, number.to_string().into());
        }
        let files = [("--baseline", &self.baseline), ("--baseline-crd", &self.baseline_crd), ("--image", &self.image)];
        for (name, file) in files {
            if let Some(file) = file {
                say(name, file.into());
            }
        }
        arguments
    }

    fn asks_for(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// In ascending order, because a group only grows.
    fn sizes(&self, usual: &[usize]) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.sizes.iter().map(|size| usize::from(*size)).collect();
        sizes.sort_unstable();
        if sizes.is_empty() { usual.to_vec() } else { sizes }
    }
}

#[tokio::main]
async fn benchmark(run: Run) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // A session with a scripted agent is a descriptor.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
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
    let (terminal, wanted) = (Terminal::detect(), &run.measurements);
    let mut versions = vec![Version::new("new", &run.program, &kubeconfig("KUBECONFIG")?, None).await?];
    if let Some(baseline) = &wanted.baseline {
        let crd = wanted.baseline_crd.as_deref();
        versions.push(Version::new("old", baseline, &kubeconfig(BASELINE_KUBECONFIG)?, crd).await?);
    }
    if wanted.asks_for(Part::Hold) {
        holds(terminal, wanted, &versions, &run.directory).await?;
    }
    if wanted.asks_for(Part::Requests) {
        requests(terminal, wanted, &versions, &run.directory).await?;
    }
    if wanted.asks_for(Part::Load) {
        loads(terminal, wanted, &versions, &run.directory).await?;
    }
    if wanted.asks_for(Part::Memory) {
        piled(terminal, wanted, &versions, &run.directory).await?;
    }
    if wanted.asks_for(Part::Look) {
        report::looks(terminal, &looks::measure(&run.directory)?);
    }
    sizes(terminal, wanted, &versions)
}

async fn holds(terminal: Terminal, wanted: &Measurements, versions: &[Version], directory: &Path) -> Result<()> {
    let mut group = Group::new(versions, directory).await?;
    let mut all = Vec::new();
    for members in wanted.sizes(&[1, 3, 10, 30, 100]) {
        let step = terminal.step(&format!("hold: {members} members, {} times", wanted.repetitions));
        group.grow(members).await?;
        all.push(group.series(wanted.repetitions.into(), |done| step.detail(&format!("{done} done"))).await?);
        step.done("");
    }
    let memory = group.memory().await?;
    report::holds::print_all(terminal, &group.labels(), &all);
    report::memory(terminal, &memory);
    Ok(())
}

async fn requests(terminal: Terminal, wanted: &Measurements, versions: &[Version], directory: &Path) -> Result<()> {
    let sizes = wanted.sizes(&[3, 10, 30]);
    let most = sizes.last().copied().unwrap_or_default();
    let mut all = [Kind::Replicate, Kind::Check].map(|kind| (kind, Vec::new()));
    for version in versions {
        let step = terminal.step(&format!("requests, {} version", version.label));
        step.detail(&format!("{most} members join"));
        let directory = directory.join(format!("requests-{}", version.label));
        let mut traffic = Traffic::start(version, &directory, most).await?;
        for (kind, counts) in &mut all {
            let mut of_version = Counts { label: version.label, sizes: Vec::new() };
            for members in &sizes {
                step.detail(&format!("{kind:?} of {members}, {} times", wanted.repetitions));
                of_version.sizes.push(traffic.count(*kind, *members, wanted.repetitions.into()).await?);
            }
            counts.push(of_version);
        }
        step.done("");
    }
    for (kind, counts) in &all {
        report::traffic::print_counts(terminal, *kind, counts);
    }
    report::traffic::explain();
    Ok(())
}

async fn loads(terminal: Terminal, wanted: &Measurements, versions: &[Version], directory: &Path) -> Result<()> {
    let load = Load { agents: wanted.agents.into(), runs: wanted.runs.into() };
    let mut all = Vec::new();
    for version in versions {
        let step = terminal.step(&format!("load, {} version", version.label));
        let directory = directory.join(format!("load-{}", version.label));
        all.push((version.label, load::measure(version, &directory, load, |what| step.detail(what)).await?));
        step.done("");
    }
    report::load::print_all(terminal, load, &all);
    Ok(())
}

async fn piled(terminal: Terminal, wanted: &Measurements, versions: &[Version], directory: &Path) -> Result<()> {
    let mut all = Vec::new();
    for version in versions {
        let step = terminal.step(&format!("memory, {} version", version.label));
        let directory = directory.join(format!("memory-{}", version.label));
        std::fs::create_dir(&directory)?;
        let piles = Piles::FULL.percent(wanted.piles.into());
        all.push((version.label, piles::measure(version, &directory, piles, |what| step.detail(what)).await?));
        step.done("");
    }
    report::piles::print_all(terminal, &all);
    Ok(())
}

fn sizes(terminal: Terminal, wanted: &Measurements, versions: &[Version]) -> Result<()> {
    let bytes = |file: &Path| {
        Ok::<_, anyhow::Error>(std::fs::metadata(file).with_context(|| format!("{}", file.display()))?.len())
    };
    let mut files = Vec::new();
    for version in versions {
        files.push((format!("program, {}", version.label), bytes(&version.program)?));
    }
    if let Some(image) = &wanted.image {
        files.push(("image".to_owned(), bytes(image)?));
    }
    report::sizes(terminal, &files);
    Ok(())
}
