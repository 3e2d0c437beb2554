//! Fault injection on a real cluster: everything that can die or hang does, at every moment of a run, while the ordered writer
//! writes. Torn cuts, datasets that stay suspended, and anything left behind must never be found.

use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use harness::chaos::application::Application;
use harness::chaos::case::{Classes, Played, Stage};
use harness::chaos::guard::{self, Guard};
use harness::chaos::inject::controllers;
use harness::chaos::kind::{Kind, MOMENTS, Moment};
use harness::chaos::limits::{ATTEMPTS, BATCH, CUT_DELAY};
use harness::chaos::outcome::Outcome;
use harness::chaos::plan::{self, Case};
use harness::chaos::report::{Missed, Report, told};
use harness::chaos::settle::settle;
use harness::classes::SnapshotClass;
use harness::cluster::{Cluster, checkout};
use harness::installed;
use harness::namespace::Place;
use harness::terminal::{Colour, Step, Terminal};
use rustix::process::geteuid;
use tokio::runtime::Builder;
use tokio::signal::ctrl_c;

/// What the names of the last member's snapshots have in common.
const LAST_MEMBER: &str = "-c-";

/// Break everything that can break around a running group, one thing at a time, and judge every run.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many faults.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    faults: u32,
    /// Every kind of fault once, instead.
    #[arg(long, conflicts_with_all = ["faults", "only"])]
    short: bool,
    /// Only this kind of fault, such as kill-agent.
    #[arg(long, value_name = "KIND")]
    only: Option<Kind>,
    /// Only at this moment of a run, such as held.
    #[arg(long, value_name = "PHASE")]
    phase: Option<Moment>,
    /// Decides everything that is left to chance. With --only and --phase: the seed of that one fault, as the report gives it.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Undo faults when the other process says so, or dies. Started by this program itself.
    #[command(name = guard::COMMAND, hide = true)]
    Guard,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Guard) => guard::serve(),
        None => Builder::new_multi_thread().enable_all().build()?.block_on(chaos(&args)),
    }
}

async fn chaos(args: &Args) -> Result<()> {
    ensure!(geteuid().is_root(), "faults are made in processes and networks of other users: run this as root");
    let terminal = Terminal::detect();
    let cluster = Cluster::connect().await?;
    installed::check(&cluster).await?;
    let guard = Guard::start()?;
    let place = Place::new(&cluster, "chaos").await?;
    let result = everything(args, terminal, &place, guard).await;
    let removed = place.begin_removal().await;
    let wrongs = result?;
    removed?;
    ensure!(wrongs == 0, "{wrongs} times something happened that must never happen, or too many faults were not made");
    Ok(())
}

/// Plays all cases between two snapshot classes that come and go.
async fn everything(args: &Args, terminal: Terminal, place: &Place, guard: Guard) -> Result<usize> {
    let (slow, slow_last) = (SnapshotClass::new(place, "slow"), SnapshotClass::new(place, "slow-last"));
    slow.create(&[("delay", CUT_DELAY)]).await?;
    slow_last.create(&[("delay", CUT_DELAY), ("only", LAST_MEMBER)]).await?;
    let classes = Classes { slow: slow.name().into(), slow_last: slow_last.name().into() };
    // The guard undoes what is broken when it loses its input, so an interrupt needs nothing more than to clean up here.
    let result = tokio::select! {
        result = play(args, terminal, place, guard, classes) => result,
        _ = ctrl_c() => Err(anyhow!("interrupted")),
    };
    slow.delete().await.and(slow_last.delete().await).and(result)
}

async fn play(args: &Args, terminal: Terminal, place: &Place, guard: Guard, classes: Classes) -> Result<usize> {
    let began = Instant::now();
    let starting = terminal.step("Three storage pods on two nodes, and the ordered writer");
    let application = Application::start(place, |pod| starting.detail(pod)).await?;
    starting.done("");
    let standby = controllers(&application.group).await? > 1;
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 1_000_000,
    };
    let cases = cases(args, seed, standby)?;
    println!("  {} faults, seed {seed}{}", cases.len(), if standby { "" } else { "; one controller, so no standby" });
    let mut stage = Stage { application, guard, classes };
    let (mut outcomes, mut missed) = (Vec::new(), Vec::new());
    let played = play_all(terminal, &mut stage, &cases, &mut outcomes, &mut missed).await;
    let report = Report { seed, outcomes: &outcomes, missed: &missed, took: began.elapsed() };
    report.print(terminal);
    let file = write(&report)?;
    println!("\n  every fault: {}", file.display());
    stage.guard.end().await?;
    played?;
    Ok(report.wrongs())
}

fn cases(args: &Args, seed: u64, standby: bool) -> Result<Vec<Case>> {
    if let (Some(kind), Some(moment), Some(seed)) = (args.only, args.phase, args.seed) {
        ensure!(standby || !kind.needs_standby(), "{kind} needs more than one controller");
        ensure!(kind.can_happen(moment), "there is nothing to break for {kind} {moment}");
        return Ok(vec![Case { kind, moment, seed }]);
    }
    let cases = if args.short { plan::short(seed, standby) } else { plan::all(args.faults as usize, seed, standby) };
    let wanted = |case: &Case| {
        args.only.is_none_or(|kind| kind == case.kind) && args.phase.is_none_or(|moment| moment == case.moment)
    };
    let cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no fault is left: try --faults 200, or another --only or --phase of {}", MOMENTS.len());
    Ok(cases)
}

async fn play_all(
    terminal: Terminal,
    stage: &mut Stage,
    cases: &[Case],
    outcomes: &mut Vec<Outcome>,
    missed: &mut Vec<Missed>,
) -> Result<()> {
    for (batch, chunk) in cases.chunks(BATCH).enumerate() {
        let first = outcomes.len();
        for (position, case) in chunk.iter().enumerate() {
            let number = batch * BATCH + position + 1;
            let title = format!("{number:>3}/{} {:<22} {:<10}", cases.len(), case.kind, case.moment);
            let step = terminal.step(&title);
            match attempt(stage, number, *case, &step).await? {
                Played::Judged(outcome) => {
                    step.done(&told(&outcome));
                    outcomes.push(*outcome);
                }
                Played::Missed(why) => {
                    step.done(&format!("not made: {why}"));
                    missed.push(Missed { number, case: *case, why });
                }
            }
        }
        let step = terminal.step("        cuts and leftovers");
        settle(&stage.application.group, &mut outcomes[first..], &|what| step.detail(what)).await?;
        step.done(&settled(terminal, &outcomes[first..]));
    }
    Ok(())
}

/// Plays a case, and again when its fault was not made: a run may be quicker than the fault that is aimed at it.
async fn attempt(stage: &mut Stage, number: usize, case: Case, step: &Step) -> Result<Played> {
    let mut played = stage.play(number, case, &|what| step.detail(what)).await?;
    for _ in 1..ATTEMPTS {
        if matches!(played, Played::Judged(_)) {
            break;
        }
        played = stage.play(number, case, &|what| step.detail(what)).await?;
    }
    Ok(played)
}

/// What was found in a batch only when it was settled.
fn settled(terminal: Terminal, outcomes: &[Outcome]) -> String {
    let wrongs = outcomes.iter().flat_map(|outcome| &outcome.wrongs).map(|(wrong, what)| format!("{wrong}: {what}"));
    let wrongs: Vec<String> = wrongs.collect();
    if wrongs.is_empty() { String::new() } else { terminal.paint(Colour::Red, &wrongs.join("; ")) }
}

fn write(report: &Report<'_>) -> Result<PathBuf> {
    let directory = checkout().canonicalize()?.join("target/chaos");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join("report.txt");
    fs::write(&file, report.text()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
