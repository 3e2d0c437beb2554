//! The check of restored volumes.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

use crate::limits::MAX_STORES;
use crate::log::Summary;
use crate::order::{NamedLog, Verdict};

/// Read the logs of several volumes and say whether one common point in time can show them. Nothing is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volumes in the order of writing, as NAME=DIRECTORY.
    #[arg(long, value_delimiter = ',', required = true, num_args = 1..=MAX_STORES)]
    volumes: Vec<Volume>,
    /// Only say what each log shows, for volumes that are not all here; exit successfully whatever it is.
    #[arg(long)]
    dump: bool,
    /// Write the JSON there too, for example to /dev/termination-log.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A volume and the name that it goes by.
#[derive(Clone, Debug)]
struct Volume {
    name: String,
    directory: PathBuf,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, directory)) if !name.is_empty() && !directory.is_empty() => {
                Ok(Self { name: name.into(), directory: directory.into() })
            }
            _ => Err(format!("{text:?}: write NAME=DIRECTORY, for example a=/volumes/a")),
        }
    }
}

/// Prints the verdict, or with `--dump` the logs, as one line of JSON.
///
/// # Errors
/// A volume cannot be read, or the volumes are out of order.
pub fn run(args: Args) -> Result<()> {
    for volume in &args.volumes {
        ensure!(volume.directory.is_dir(), "{} is not a directory", volume.directory.display());
    }
    let read = |volume: &Volume| Ok(NamedLog { name: volume.name.clone(), log: Summary::read(&volume.directory)? });
    let logs: Vec<NamedLog> = args.volumes.iter().map(read).collect::<Result<_>>()?;
    if args.dump {
        return publish(&args, &serde_json::to_string(&logs)?);
    }
    let verdict = Verdict::new(logs);
    publish(&args, &serde_json::to_string(&verdict)?)?;
    if !verdict.in_order() {
        bail!("the volumes were not cut at one point in time: {}", verdict.violations.join("; "));
    }
    Ok(())
}

fn publish(args: &Args, json: &str) -> Result<()> {
    println!("{json}");
    if let Some(report) = &args.report {
        std::fs::write(report, json)?;
    }
    Ok(())
}
