//! The `stillpoint` binary: a thin entry into the roles.

use clap::{Parser, Subcommand};
use stillpoint::{agent, guardian};

/// Replicates a consistency group of Kubernetes volumes at one common point in time, or not at all.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Agent(agent::Args),
    Guardian(guardian::Args),
    #[command(hide = true)]
    Freezer,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Agent(args) => agent::run(args),
        Command::Guardian(args) => guardian::run(args),
        Command::Freezer => agent::freezer::run(),
    }
}
