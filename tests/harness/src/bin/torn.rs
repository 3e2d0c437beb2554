//! The experiment on torn cuts: the ordered writer runs at full speed over three volumes of two nodes; how many of N cuts show
//! a state that never was, with Stillpoint and with plain VolumeSnapshots taken together?

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use harness::cluster::Cluster;
use harness::group::{Group, three_filesystems};
use harness::installed;
use harness::namespace::Place;
use harness::replication::{duration, of_claims, replicate};
use harness::restore::{Cut, judge};
use harness::snapshots::take_together;
use harness::terminal::{Colour, Terminal, seconds, table};
use stillpoint_api::Phase;
use workload::order::Verdict;

/// Cut a group many times while it is written, restore every cut, and count the torn ones.
#[derive(Debug, Parser)]
struct Args {
    /// Cuts with Stillpoint, and as many without.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=500))]
    cuts: u16,
    /// Cuts that are restored together.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: u16,
}

/// What one way of cutting came to.
#[derive(Default)]
struct Tally {
    verdicts: Vec<Verdict>,
    took: Vec<Duration>,
    stalls: Vec<Duration>,
    held: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let terminal = Terminal::detect();
    let cluster = Cluster::connect().await?;
    installed::check(&cluster).await?;
    let place = Place::new(&cluster, "torn").await?;
    let result = experiment(terminal, &place, &args).await;
    place.begin_removal().await?;
    let [with, without] = result?;
    print(terminal, &with, &without);
    let torn_cuts = torn(&with.verdicts);
    ensure!(torn_cuts == 0, "{torn_cuts} cuts of Stillpoint are torn");
    ensure!(
        torn(&without.verdicts) > 0,
        "plain snapshots were never torn, so the check proves nothing: take more cuts"
    );
    Ok(())
}

async fn experiment(terminal: Terminal, place: &Place, args: &Args) -> Result<[Tally; 2]> {
    let starting = terminal.step("Three storage pods on two nodes, and the ordered writer");
    let group = Group::start(place, three_filesystems(place.cluster.two_nodes()?), |pod| starting.detail(pod)).await?;
    starting.done("");
    let (mut with, mut without) = (Tally::default(), Tally::default());
    let mut done = 0;
    let step = terminal.step(&format!("{} cuts each way", args.cuts));
    while done < args.cuts {
        let batch = done..args.cuts.min(done + args.batch);
        done = batch.end;
        let (mut cuts, mut plain) = (Vec::new(), Vec::new());
        for number in batch {
            step.detail(&format!("{number} done, {} torn without Stillpoint", torn(&without.verdicts)));
            cuts.push(with_stillpoint(&group, number, &mut with).await?);
            plain.push(without_stillpoint(&group, number, &mut without).await?);
        }
        step.detail("restoring and reading");
        with.verdicts.extend(judge(&group, &cuts).await?);
        without.verdicts.extend(judge(&group, &plain).await?);
    }
    step.done("");
    Ok([with, without])
}

async fn with_stillpoint(group: &Group, number: u16, tally: &mut Tally) -> Result<Cut> {
    let name = format!("with-{number}");
    group.reset_stats().await?;
    let began = Instant::now();
    let run = replicate(&group.place, &of_claims(&name, &group.claims()), |_| {}).await?;
    if run.phases().last() != Some(&Phase::Done) {
        bail!("{name} went {:?}: {}", run.phases(), serde_json::to_string(&run.status())?);
    }
    tally.took.push(began.elapsed());
    tally.stalls.push(longest_append(group).await?);
    tally.held.extend(run.status().hold.and_then(|hold| hold.duration).as_ref().map(duration));
    Ok(Cut { snapshots: run.snapshots(&group.claims())?, name })
}

async fn without_stillpoint(group: &Group, number: u16, tally: &mut Tally) -> Result<Cut> {
    let name = format!("plain-{number}");
    group.reset_stats().await?;
    let began = Instant::now();
    let snapshots = take_together(&group.place, &name, &group.claims()).await?;
    tally.took.push(began.elapsed());
    tally.stalls.push(longest_append(group).await?);
    Ok(Cut { name, snapshots })
}

async fn longest_append(group: &Group) -> Result<Duration> {
    Ok(Duration::from_secs_f64(group.stats().await?.longest_append_ms / 1e3))
}

fn torn(verdicts: &[Verdict]) -> usize {
    verdicts.iter().filter(|verdict| !verdict.in_order()).count()
}

fn print(terminal: Terminal, with: &Tally, without: &Tally) {
    let heading = ["", "TORN", "LARGEST SKEW", "HOLD (MEDIAN)", "LONGEST APPEND (MEDIAN)", "TOOK (MEDIAN)"];
    let rows = [heading.map(String::from).to_vec(), row("Stillpoint", with), row("VolumeSnapshots together", without)];
    println!();
    let lines = table(&rows, |row, column, cell| match (row, column) {
        (0, _) => terminal.paint(Colour::Dim, cell),
        (1, 1) => terminal.paint(if torn(&with.verdicts) == 0 { Colour::Green } else { Colour::Red }, cell),
        (2, 1) => terminal.paint(Colour::Red, cell),
        _ => cell.into(),
    });
    lines.iter().for_each(|line| println!("{line}"));
    if let Some(violation) = without.verdicts.iter().flat_map(|verdict| &verdict.violations).next() {
        println!("\n  For example, without Stillpoint: {violation}.");
    }
}

fn row(name: &str, tally: &Tally) -> Vec<String> {
    let skew = tally.verdicts.iter().map(Verdict::skew).max().unwrap_or(0);
    vec![
        name.into(),
        format!("{} of {}", torn(&tally.verdicts), tally.verdicts.len()),
        format!("{skew} records"),
        median(&tally.held),
        median(&tally.stalls),
        median(&tally.took),
    ]
}

fn median(values: &[Duration]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).map_or_else(|| "–".into(), |value| seconds(*value))
}
