//! What the benchmark prints: each figure, and its aim where it has one.

pub mod holds;
pub mod load;
pub mod piles;
pub mod traffic;

use std::time::Duration;

use super::looks::{DESCRIPTORS, Looks, PROCESSES};
use super::measure::Processes;
use crate::terminal::{Colour, Terminal, table};

/// Prints the memory of the processes.
pub fn memory(terminal: Terminal, versions: &[Processes]) {
    terminal.heading("Resident memory");
    let mut rows = vec![["VERSION", "PROCESS", "RESIDENT", "ALLOCATED"].map(String::from).to_vec()];
    for version in versions {
        rows.extend(version.memory.iter().map(|(name, memory)| {
            vec![version.label.into(), (*name).into(), mebibytes(memory.all), mebibytes(memory.anonymous)]
        }));
    }
    print(terminal, &rows);
}

/// Prints how long an agent looks.
pub fn looks(terminal: Terminal, looks: &Looks) {
    terminal.heading(&format!("A look beside {PROCESSES} processes with {DESCRIPTORS} descriptors each"));
    let mut rows = vec![["WRITES", "MEDIAN", "SHORTEST", ""].map(String::from).to_vec()];
    let aim = verdict("15 ms", looks.suspended.shortest <= Duration::from_millis(15));
    for (writes, took, aim) in [("suspended", &looks.suspended, aim), ("go on", &looks.writable, String::new())] {
        rows.push(vec![writes.into(), milliseconds(took.median), milliseconds(took.shortest), aim]);
    }
    print(terminal, &rows);
}

/// Prints the sizes of files.
pub fn sizes(terminal: Terminal, files: &[(String, u64)]) {
    terminal.heading("Size");
    let mut rows = vec![["FILE", "SIZE"].map(String::from).to_vec()];
    rows.extend(files.iter().map(|(name, bytes)| vec![name.clone(), format!("{:.1} MB", *bytes as f64 / 1e6)]));
    print(terminal, &rows);
}

/// A table whose cells say "met" and "missed" in colours.
fn print(terminal: Terminal, rows: &[Vec<String>]) {
    let lines = table(rows, |row, _, cell| match cell {
        _ if row == 0 => terminal.paint(Colour::Dim, cell),
        cell if cell.contains(": missed") => terminal.paint(Colour::Red, cell),
        cell if cell.contains(": met") => terminal.paint(Colour::Green, cell),
        cell => cell.into(),
    });
    lines.iter().for_each(|line| println!("{line}"));
}

fn verdict(aim: &str, met: bool) -> String {
    format!("≤ {aim}: {}", if met { "met" } else { "missed" })
}

fn milliseconds(duration: Duration) -> String {
    match duration.as_secs_f64() * 1e3 {
        ms if ms < 0.1 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
