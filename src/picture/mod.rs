//! `stillpoint picture`: the picture of a hold, from the status of a finished (or running) replication.
//!
//! [`Timeline`] turns the status into intervals, [`terminal`] and [`svg`] draw them. All three are pure; only [`run`] reads
//! and writes.

mod scale;
pub mod svg;
pub mod terminal;
mod timeline;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use stillpoint_api::ConsistencyGroupReplication;
use stillpoint_core::limits;

pub use timeline::{Interval, Member, NothingToDraw, Suspension, Timeline};

/// Draws the hold of one ConsistencyGroupReplication: who was suspended when, and where the cuts fell.
///
/// kubectl get cgr NAME -o json | stillpoint picture --svg hold.svg
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The object as JSON, from `kubectl get cgr NAME -o json`; `-` reads standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Also write the picture as SVG to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Columns of the picture; left out, the terminal's own, or 100 where there is none.
    #[arg(long, value_parser = clap::value_parser!(u16).range(60..=400))]
    width: Option<u16>,
}

/// Reads the object, prints its picture, and writes the SVG where one was asked for.
///
/// # Errors
/// The input is not one ConsistencyGroupReplication, its status has nothing to draw, or a file cannot be read or written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let object = parse(&read(&args.file)?)?;
    let name = object.metadata.name.as_deref().unwrap_or("unnamed");
    let Some(status) = &object.status else {
        bail!("{name} has no status yet: no controller has seen it. Is stillpoint-controller running?")
    };
    let timeline = Timeline::from_status(name, status)?;

    let mut out = io::stdout().lock();
    let style = terminal::Style { columns: columns(args.width), colour: wants_colour() };
    out.write_all(terminal::render(&timeline, style).as_bytes())
        .context("the picture cannot be written to the output")?;
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::render(&timeline))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = limits::MAX_PICTURE_INPUT;
    let count = if file.as_os_str() == "-" {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).context("standard input cannot be read")?
    } else {
        let opened = File::open(file).with_context(|| format!("{} cannot be opened", file.display()))?;
        opened.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("{} cannot be read", file.display()))?
    };
    if count as u64 > limit {
        bail!("the input is longer than {limit} bytes, which no object of the API server is: give it one object");
    }
    Ok(bytes)
}

/// One object, or a list of exactly one.
fn parse(json: &[u8]) -> anyhow::Result<ConsistencyGroupReplication> {
    const HOW: &str = "feed it `kubectl get cgr NAME -o json`";
    if json.iter().all(u8::is_ascii_whitespace) {
        bail!("the input is empty: {HOW}");
    }
    let mut value: Value = serde_json::from_slice(json).with_context(|| format!("the input is not JSON: {HOW}"))?;
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        let count = items.len();
        match items.pop() {
            Some(only) if count == 1 => value = only,
            _ => bail!("the input is a list of {count} objects, and a picture shows one: {HOW}"),
        }
    }
    match value.get("kind").and_then(Value::as_str) {
        Some("ConsistencyGroupReplication") => {}
        Some(other) => bail!("the input is a {other}, not a ConsistencyGroupReplication: {HOW}"),
        None => bail!("the input is not a Kubernetes object: {HOW}"),
    }
    serde_json::from_value(value).context("the input is not a ConsistencyGroupReplication of this version")
}

fn columns(asked: Option<u16>) -> usize {
    let own =
        || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0);
    usize::from(asked.or_else(own).unwrap_or(100))
}

/// Colours for people only, and not for those who decline them (<https://no-color.org>).
fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        format!("{:#}", parse(json.as_bytes()).expect_err("it is no single replication"))
    }

    #[test]
    fn what_is_not_one_replication_is_refused_with_a_sentence() {
        for (input, sentence) in [
            ("", "the input is empty"),
            (" \n", "the input is empty"),
            ("apiVersion: v1", "the input is not JSON"),
            ("[]", "not a Kubernetes object"),
            (r#"{"kind": "Pod"}"#, "the input is a Pod"),
            (r#"{"kind": "List", "items": []}"#, "a list of 0 objects"),
            (r#"{"kind": "List", "items": [{}, {}]}"#, "a list of 2 objects"),
            (r#"{"kind": "ConsistencyGroupReplication", "spec": 7}"#, "of this version"),
        ] {
            let refusal = refusal(input);
            assert!(refusal.contains(sentence), "{input:?}: {refusal}");
        }
    }

    #[test]
    fn a_list_of_one_is_that_one() {
        let one = r#"{"kind": "ConsistencyGroupReplication", "metadata": {"name": "a"}, "spec": {"source": {}}}"#;
        let list = format!(r#"{{"kind": "List", "items": [{one}]}}"#);
        for json in [one, &list] {
            let object = parse(json.as_bytes()).expect("one replication");
            assert_eq!(object.metadata.name.as_deref(), Some("a"));
        }
    }
}
