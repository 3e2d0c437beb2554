//! The live demonstration: an application on three volumes of two nodes is cut at one common point in time, and then, because
//! one of its pods does not let go of a lock, it is not.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use harness::cluster::Cluster;
use harness::group::{Group, LockHolder, Member};
use harness::installed;
use harness::live::Live;
use harness::namespace::Place;
use harness::replication::{Run, duration, of_claims, replicate};
use harness::restore::{Cut, judge};
use harness::snapshots;
use harness::terminal::{Colour, Terminal, seconds, table};
use kube::ResourceExt;
use stillpoint::picture::{Timeline, svg, terminal as drawing};
use stillpoint_api::{Blocker, Phase};
use workload::stats::Report;

/// Show Stillpoint at work on the cluster of KUBECONFIG.
#[derive(Debug, Parser)]
struct Args {
    /// Where the picture of the hold goes.
    #[arg(long, value_name = "FILE", default_value = "target/demo/hold.svg")]
    svg: PathBuf,
    /// Leave everything as it is at the end, to look around.
    #[arg(long)]
    keep: bool,
}

const LOCKED_CLAIM: &str = "b";
const LOCKER: LockHolder = LockHolder { container: "backup", arguments: &["--type", "posix", "--range", "0-99"] };
const PREPARE_TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let terminal = Terminal::detect();
    println!("{}: many volumes, one point in time, or not at all", terminal.paint(Colour::Bold, "Stillpoint"));
    let cluster = Cluster::connect().await?;
    installed::check(&cluster).await?;
    let place = Place::new(&cluster, "demo").await?;
    let shown = show(terminal, &place, &args).await;
    if args.keep {
        println!("\nEverything is left in namespace {}.", place.name);
    } else {
        place.begin_removal().await?;
    }
    shown
}

async fn show(terminal: Terminal, place: &Place, args: &Args) -> Result<()> {
    let group = start(terminal, place).await?;
    let run = cut(terminal, &group).await?;
    list_snapshots(terminal, place, &run).await?;
    check_restored(terminal, &group, &run).await?;
    refuse(terminal, &group).await?;
    draw(terminal, &run, args)
}

async fn start(terminal: Terminal, place: &Place) -> Result<Group> {
    terminal.heading("1. An application on three volumes of two nodes");
    let [one, two] = place.cluster.two_nodes()?;
    let members = vec![
        Member::new("a", one, "loop-ext4"),
        Member::new(LOCKED_CLAIM, two, "loop-xfs").with_lock_holders(&[LOCKER]),
        Member::new("c", one, "loop-btrfs"),
    ];
    let describe = |member: &Member| format!("{} {} on {}", member.name, member.storage_class, member.node);
    let described: Vec<String> = members.iter().map(describe).collect();
    let starting = terminal.step("Storage pods");
    let group = Group::start(place, members, |pod| starting.detail(&format!("{pod} is ready"))).await?;
    starting.done(&described.join(", "));
    group.reset_stats().await?;
    let writing = terminal.step("The writer puts record n on a, then on b, then on c, each on disk before the next");
    writing.done(&rate(&group.written(100).await?));
    Ok(group)
}

async fn cut(terminal: Terminal, group: &Group) -> Result<Run> {
    terminal.heading("2. One replication, while the writer runs");
    let run = watch(terminal, group, "all-at-once", of_claims("all-at-once", &group.claims())).await?;
    ensure!(run.phases().last() == Some(&Phase::Done), "{}", ending(&run));
    let during = group.stats().await?;
    if let Some(hold) = run.status().hold.and_then(|hold| hold.duration) {
        println!("  From the first member ready to the last resumed: {}.", seconds(duration(&hold)));
    }
    let store =
        during.longest_append_store.as_deref().and_then(|address| address.split(':').next()).unwrap_or_default();
    println!("  The writer saw one slow append, {} on {store}, and no error.", longest(&during));
    Ok(run)
}

async fn watch(
    terminal: Terminal,
    group: &Group,
    name: &str,
    wanted: stillpoint_api::ConsistencyGroupReplication,
) -> Result<Run> {
    println!("  {}\n", terminal.paint(Colour::Dim, &format!("kubectl get cgr {name} -n {} -w", group.place.name)));
    group.reset_stats().await?;
    let mut live = Live::new(terminal);
    let run = replicate(&group.place, &wanted, |state| live.show(state)).await?;
    live.end(&run.last);
    Ok(run)
}

async fn list_snapshots(terminal: Terminal, place: &Place, run: &Run) -> Result<()> {
    terminal.heading("3. What it left: one VolumeSnapshot per member");
    let heading = ["NAME", "CLAIM", "CUT AT", "USABLE"].map(String::from).to_vec();
    let mut rows = vec![heading];
    for snapshot in snapshots::of_replication(place, &run.last.name_any()).await? {
        let status = snapshot.status.clone().unwrap_or_default();
        rows.push(vec![
            snapshot.name_any(),
            snapshot.spec.source.persistent_volume_claim_name.clone().unwrap_or_default(),
            status.creation_time.map(|time| time.0.to_string()).unwrap_or_default(),
            status.ready_to_use.unwrap_or(false).to_string(),
        ]);
    }
    list(terminal, &rows);
    Ok(())
}

async fn check_restored(terminal: Terminal, group: &Group, run: &Run) -> Result<()> {
    terminal.heading("4. Restored into new claims, and read");
    let step = terminal.step("Restoring and reading");
    let cut = Cut { name: "restored".into(), snapshots: run.snapshots(&group.claims())? };
    let verdicts = judge(group, std::slice::from_ref(&cut)).await?;
    step.done("");
    let verdict = verdicts.first().context("nothing was judged")?;
    let heading = ["SNAPSHOT", "RESTORED CLAIM", "STORAGE CLASS", "NODE", "RECORDS"].map(String::from).to_vec();
    let mut rows = vec![heading];
    for ((member, snapshot), log) in group.members.iter().zip(&cut.snapshots).zip(&verdict.logs) {
        let (class, node) = (member.storage_class.clone(), member.node.clone());
        rows.push(vec![snapshot.clone(), cut.claim(member), class, node, log.log.records.to_string()]);
    }
    list(terminal, &rows);
    ensure!(verdict.in_order(), "the cut is torn: {}", verdict.violations.join("; "));
    let verdict = terminal.paint(Colour::Green, "in order");
    println!("\n  The group is {verdict}: a ≥ b ≥ c, and a at most one ahead. One moment shows all three volumes.");
    Ok(())
}

/// Prints a table whose second column says which claim a line is about.
fn list(terminal: Terminal, rows: &[Vec<String>]) {
    let paint = |row, column, cell: &str| match (row, column) {
        (0, _) => terminal.paint(Colour::Dim, cell),
        (_, 1) => terminal.paint(Colour::Cyan, cell),
        _ => cell.into(),
    };
    table(rows, paint).iter().for_each(|line| println!("{line}"));
}

async fn refuse(terminal: Terminal, group: &Group) -> Result<()> {
    terminal.heading("5. One pod takes a lock and does not let go");
    group.reset_stats().await?;
    let before = group.written(100).await?;
    group.lock(LOCKED_CLAIM, LOCKER.container).await?;
    let mut wanted = of_claims("blocked", &group.claims());
    wanted.spec.suspension.prepare_timeout = PREPARE_TIMEOUT.into();
    let run = watch(terminal, group, "blocked", wanted).await?;
    let during = group.stats().await?;
    ensure!(run.phases().last() == Some(&Phase::Aborted), "{}", ending(&run));
    println!();
    for blocker in run.status().members.iter().flat_map(|member| &member.blockers) {
        blame(terminal, blocker);
    }
    let left = snapshots::of_replication(&group.place, "blocked").await?.len();
    ensure!(left == 0, "{left} snapshots were left of an aborted replication");
    println!("  Nothing was cut, and writes went on: {} before, {} meanwhile.", rate(&before), rate(&during));
    println!("  Longest append: {} before, {} meanwhile.", longest(&before), longest(&during));
    group.unlock(LOCKED_CLAIM, LOCKER.container).await
}

fn blame(terminal: Terminal, blocker: &Blocker) {
    let line = |name: &str, value: String| {
        if !value.is_empty() {
            println!("  {} {value}", terminal.paint(Colour::Dim, &format!("{name:<9}")));
        }
    };
    println!("  {} {}", terminal.paint(Colour::Red, &blocker.reason), blocker.message);
    line("pod", blocker.pod.clone().unwrap_or_default());
    line("container", blocker.container.clone().unwrap_or_default());
    line(
        "process",
        blocker.process.as_ref().map(|each| format!("{} (pid {})", each.name, each.pid)).unwrap_or_default(),
    );
    if let Some(lock) = &blocker.lock {
        let end = lock.end.map_or("end of file".into(), |end| end.to_string());
        line("lock", format!("{} {}, bytes {} to {end}", lock.kind, lock.mode, lock.start));
    }
    line("path", blocker.path.clone().unwrap_or_default());
    line("seen for", blocker.seen_for.as_ref().map(|seen| seconds(duration(seen))).unwrap_or_default());
    println!();
}

fn draw(terminal: Terminal, run: &Run, args: &Args) -> Result<()> {
    terminal.heading("6. The hold of the first replication");
    let timeline = Timeline::from_status(&run.last.name_any(), &run.status())?;
    println!("{}", drawing::render(&timeline, terminal.drawing_style()));
    if let Some(directory) = args.svg.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    std::fs::write(&args.svg, svg::render(&timeline))
        .with_context(|| format!("cannot write {}", args.svg.display()))?;
    println!("  The same as a picture: {}", args.svg.display());
    Ok(())
}

fn rate(report: &Report) -> String {
    format!("{:.0} records/s", report.records_per_second)
}

fn longest(report: &Report) -> String {
    seconds(Duration::from_secs_f64(report.longest_append_ms / 1e3))
}

/// Why a replication ended as it did, in the words of its status.
fn ending(run: &Run) -> String {
    let conditions = run.status().conditions;
    let said = conditions.iter().map(|condition| format!("{}: {}", condition.type_, condition.message));
    format!("the replication went {:?}: {}", run.phases(), said.collect::<Vec<_>>().join("; "))
}
