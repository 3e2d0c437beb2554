//! The test application: stores, the ordered writer, the check of what was restored, and a lock that stays.

use anyhow::Result;
use clap::Parser;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use workload::{check, lock, store, writer};

/// An application whose volumes show whether they were cut at one common point in time.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-workload", version)]
enum Command {
    Store(store::Args),
    Write(writer::Args),
    Check(check::Args),
    Lock(lock::Args),
}

fn main() -> Result<()> {
    let command = Command::parse();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = LocalSet::new().block_on(&runtime, async {
        match command {
            Command::Store(args) => store::run(args).await,
            Command::Write(args) => writer::run(args).await,
            Command::Check(args) => check::run(args),
            Command::Lock(args) => lock::run(args).await,
        }
    });
    // An append that waits for a suspended volume cannot be interrupted; do not wait for it here.
    runtime.shutdown_background();
    ended
}
