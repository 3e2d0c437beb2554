//! Goes through every state that a group can come into, within bounds, and says whether the promises hold in all of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::model::{Bounds, Group, POSSIBLE, PROMISES, Without};
use stateright::{Checker, HasDiscoveries, Model};

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
    let bounds = Bounds {
        members: args.members,
        leaders: args.leaders,
        faults: args.faults,
        prepare_timeout: Duration::from_millis(args.prepare),
        hold_timeout: Duration::from_secs(10),
        without: args.without,
    };
    println!(
        "members {}, leaders {}, faults {}, prepareTimeout {} ms, {}",
        args.members,
        args.leaders,
        args.faults,
        args.prepare,
        args.without.map_or_else(|| "all guards".to_owned(), |without| format!("without {without:?}"))
    );
    let begun = Instant::now();
    let group = Group::new(bounds).checker().threads(args.threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = group.spawn_bfs().join();
    let found = checker.discoveries();
    let (nodes, leaders) = checker.model().parts();
    println!(
        "{} states ({} steps), depth {}, {:.1} s; {nodes} different node sides, {leaders} different leaders",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    let mut broken = false;
    for promise in PROMISES {
        let path = found.get(promise.name);
        broken |= path.is_some();
        println!("  {:<6} {}: {}", if path.is_some() { "BROKEN" } else { "holds" }, promise.name, promise.says);
        for line in path.map(|path| checker.model().tell_path(path.clone())).unwrap_or_default() {
            println!("         {line}");
        }
    }
    let mut possible = true;
    for (name, _) in POSSIBLE {
        let seen = found.contains_key(name);
        possible &= seen;
        println!("  {:<6} {name}", if seen { "seen" } else { "UNSEEN" });
    }
    let expected = if args.without.is_some() { broken } else { !broken && possible };
    if expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
