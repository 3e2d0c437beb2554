//! Simulates whole groups, seed by seed, until one breaks a promise.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::simulation::report::Tally;
use protocol::simulation::{Break, Story, tell};

/// Steps that are shown of a seed that failed.
const LAST_STEPS: usize = 40;
/// Steps that are shown of a seed that is traced: all.
const ALL_STEPS: usize = usize::MAX;
/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// Simulates whole groups with the real planner and the real hold, in virtual time, with faults at every step.
#[derive(Parser, Debug)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step of it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Take a guard away, to see that it is missed.
    #[arg(long = "break", value_name = "GUARD")]
    broken: Option<Break>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // What a seed panics with is told with the seed.
    std::panic::set_hook(Box::new(|_| {}));
    let (first, seeds) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    if args.trace {
        for line in tell(first, args.broken, ALL_STEPS).trace {
            println!("{line}");
        }
    }
    let begun = Instant::now();
    let (tally, failed) = simulate(first, seeds, args.threads, args.broken);
    println!("{}", tally.table(begun.elapsed()));
    match failed {
        None => {
            println!("every promise was kept in every seed");
            ExitCode::SUCCESS
        }
        Some(seed) => {
            explain(seed, args.broken);
            ExitCode::FAILURE
        }
    }
}

/// Gives the sum, and the lowest seed that failed among those that were tried.
fn simulate(first: u64, seeds: u64, threads: u64, broken: Option<Break>) -> (Tally, Option<u64>) {
    let end = first.saturating_add(seeds);
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut tally = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.min(failed.load(Ordering::Relaxed)) {
                        break;
                    }
                    let story = tell(seed, broken, 0);
                    tally.add(&story);
                    if story.violation.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                if let Ok(mut total) = total.lock() {
                    total.merge(&tally);
                }
            });
        }
        draw(first, end, &next, &failed);
    });
    let failed = failed.into_inner();
    (total.into_inner().unwrap_or_default(), (failed != u64::MAX).then_some(failed))
}

/// A bar, on a terminal.
fn draw(first: u64, end: u64, next: &AtomicU64, failed: &AtomicU64) {
    if !stderr().is_terminal() {
        return;
    }
    loop {
        let at = next.load(Ordering::Relaxed).min(end);
        if at >= end || failed.load(Ordering::Relaxed) != u64::MAX {
            eprint!("\r\x1b[K");
            return;
        }
        let share = (at - first) as f64 / (end - first).max(1) as f64;
        let full = (share * 50.0) as usize;
        eprint!("\r[{}{}] {at} ", "#".repeat(full), " ".repeat(50 - full));
        let _ = stderr().flush();
        std::thread::sleep(DRAW);
    }
}

fn explain(seed: u64, broken: Option<Break>) {
    let Story { violation, trace, .. } = tell(seed, broken, LAST_STEPS);
    println!("seed {seed} failed. Its last steps:\n");
    for line in trace {
        println!("  {line}");
    }
    if let Some(violation) = violation {
        println!("\n{} is broken at {:.6} s: {}", violation.promise, violation.at.as_secs_f64(), violation.what);
    }
    let broken = broken.map(|broken| format!(" --break {}", format!("{broken:?}").to_lowercase())).unwrap_or_default();
    println!("\nsimulate --seed {seed} --trace{broken}    tells it from the beginning");
}
