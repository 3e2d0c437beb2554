//! The `stillpoint` binary: a thin entry into the roles.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stillpoint::telemetry::{self, LogFormat};
use stillpoint::{agent, controller, guardian, picture};

/// Replicates a consistency group of Kubernetes volumes at one common point in time, or not at all.
///
/// One binary, one role per process: the controller decides and commands; an agent beside every member volume suspends
/// and resumes its writes. People ask for a replication with `kubectl apply` of a ConsistencyGroupReplication and watch it
/// with `kubectl get cgr`.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Form of the log on standard error. What is logged is set by STILLPOINT_LOG, for example `info` or
    /// `stillpoint=debug`.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Decide about replications and command the agents. Runs in a Deployment.
    Controller(controller::Args),
    /// Suspend and resume the writes to claims. Runs on every node, or as a native sidecar in a storage pod.
    Agent(agent::Args),
    /// Give writes back when an agent cannot: at the deadline, or when the agent is gone. Runs on every node.
    Guardian(guardian::Args),
    /// The process of an agent that does the system calls that can hang.
    #[command(hide = true)]
    Freezer {
        /// How it suspends writes.
        method: String,
    },
    /// Draw who was suspended from when to when and where the cuts fell, from a finished replication.
    Picture(picture::Args),
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Controller(args) => controller::run(args),
            Self::Agent(args) => agent::run(args),
            Self::Guardian(args) => guardian::run(args),
            Self::Freezer { method } => agent::freezer::run(&method),
            Self::Picture(args) => picture::run(args),
        }
    }
}

fn main() -> ExitCode {
    let Cli { log_format, command } = Cli::parse();
    match telemetry::init(log_format).and_then(|()| command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillpoint: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of causes in one line. Many libraries repeat the cause in their own text; once is enough.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.contains(&cause) {
            let separator = if sentence.is_empty() { "" } else { ": " };
            sentence = format!("{sentence}{separator}{cause}");
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use clap::CommandFactory;

    use super::*;

    /// Also those to come: the flags are taken from the command line's definition.
    #[test]
    fn no_text_in_any_flag_panics() {
        for role in Cli::command().get_subcommands() {
            for flag in role.get_arguments().filter_map(clap::Arg::get_long) {
                for text in ["1s-2s", "99999999999999999999h", "NaNs", "-", ""] {
                    let line = ["stillpoint".to_owned(), role.get_name().to_owned(), format!("--{flag}={text}")];
                    let read = catch_unwind(|| Cli::try_parse_from(line).is_ok());
                    assert!(read.is_ok(), "{} --{flag}={text} panics", role.get_name());
                }
            }
        }
    }
}
