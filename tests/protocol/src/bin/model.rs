//! Goes through every state that a group can come into, within bounds, and says whether the promises hold in all of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::model::{Bounds, Group, Without};
use stateright::{Checker, Model};

/// Checks the protocol with the production state machines.
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
    /// Milliseconds that members have to become ready; bounds the rounds.
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
    let begun = Instant::now();
    let checker = Group::new(bounds).checker().threads(args.threads).spawn_bfs();
    let checker = checker.report(&mut stateright::report::WriteReporter::new(&mut std::io::stderr()));
    println!("{} states, depth {}, {:?}, parts {:?}", checker.unique_state_count(), checker.max_depth(), begun.elapsed(), checker.model().parts());
    for (name, path) in checker.discoveries() {
        println!("{name}: {}", path.clone().into_actions().len());
        if !name.contains("reached") && !name.contains("given up") {
            for action in path.into_actions() { println!("   {action:?}"); }
        }
    }
    ExitCode::SUCCESS
}
