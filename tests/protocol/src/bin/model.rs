//! Goes through every state that a group can come into, within bounds, and says whether the promises hold in all of them.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use protocol::model::{Bounds, PROMISES, Without, check};

/// Checks the protocol: every state that a group can come into, within bounds, with the production state machines.
///
/// Succeeds if every promise holds in every state; with --without, if taking that guard out breaks one.
#[derive(Parser)]
struct Args {
    /// Members of the group, 1 to 3.
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Leaders, 1 or 2.
    #[arg(long, default_value_t = 2)]
    leaders: usize,
    /// Faults in one run.
    #[arg(long, default_value_t = 1)]
    faults: u8,
    /// Try a run that has failed once more.
    #[arg(long)]
    retry: bool,
    /// Let somebody delete the object, at any step.
    #[arg(long)]
    deletion: bool,
    /// Milliseconds that members have to become ready. It bounds the rounds: the first pause between two is 100 ms, the next
    /// 200 ms.
    #[arg(long, default_value_t = 150)]
    prepare: u64,
    /// Take this guard out; a counterexample is expected then.
    #[arg(long)]
    without: Option<Without>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let guards = args.without.map_or_else(|| "all guards".to_owned(), |without| format!("without {without:?}"));
    let Args { members, leaders, faults, retry, deletion, prepare, .. } = args;
    let beside = match (retry, deletion) {
        (false, false) => "",
        (true, false) => ", retry",
        (false, true) => ", deletion",
        (true, true) => ", retry and deletion",
    };
    println!(
        "{members} members, {leaders} leaders, at most {faults} faults{beside}, prepareTimeout {prepare} ms, {guards}"
    );
    let bounds = Bounds {
        members,
        leaders,
        faults,
        retry,
        deletion,
        prepare_timeout: Duration::from_millis(prepare),
        hold_timeout: Duration::from_secs(10),
        without: args.without,
    };
    let found = check(bounds, args.threads);
    println!("  states  {} (parts: {} node sides, {} leaders)", found.states, found.nodes, found.leaders);
    println!("  steps   {}, depth {}", found.steps, found.depth);
    println!("  time    {:.1} s", found.took.as_secs_f64());
    for promise in PROMISES {
        let broken = found.broken.iter().find(|(broken, _)| broken.name == promise.name);
        println!("  {}  {}: {}", if broken.is_some() { "BROKEN" } else { "holds " }, promise.name, promise.says);
        for line in broken.iter().flat_map(|(_, way)| way) {
            println!("          {line}");
        }
    }
    for (name, seen) in &found.seen {
        println!("  {}  {name}", if *seen { "seen  " } else { "UNSEEN" });
    }
    let expected = if args.without.is_some() { !found.broken.is_empty() } else { found.is_sound() };
    if expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
