//! What the benchmark prints: each figure, and its aim where it has one.

use std::time::Duration;

use super::measure::{Sample, Series, median};
use super::memory::Resident;
use crate::terminal::{Colour, Terminal, table};

/// A hold takes at most this many times the floor and one round trip, with [`AIM_MEMBERS`] members.
const AIM_RATIO: f64 = 1.5;
/// The group that the aim is for.
const AIM_MEMBERS: usize = 30;

/// Prints the holds of all series.
pub fn holds(terminal: Terminal, all: &[Series]) {
    terminal.heading("The hold, and the floor of the same filesystems under the same writers (medians)");
    let heading = [
        "MEMBERS",
        "HOLD",
        "LONGEST SUSPENDED",
        "FIRST TO LAST READY",
        "LONGEST STALL",
        "FLOOR",
        "WARM FLOOR",
        "ROUND TRIP",
        "RATIO",
        "WARM RATIO",
        "AIM",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(all.iter().map(row));
    let lines = table(&rows, |row, column, cell| match (row, column) {
        (0, _) => terminal.paint(Colour::Dim, cell),
        (_, 10) => terminal.paint(if cell.contains("missed") { Colour::Red } else { Colour::Green }, cell),
        _ => cell.into(),
    });
    lines.iter().for_each(|line| println!("{line}"));
    println!(
        "\n  HOLD is status.hold.duration, by the controller: the first member ready to the last one resumed. LONGEST\n  \
         SUSPENDED is the longest suspendedFor of a member, by its agent. LONGEST STALL is the longest single write.\n  \
         FLOOR: one process, a thread per filesystem, from the first FIFREEZE to the last FITHAW, the kernel cold; WARM:\n  \
         the same after each was frozen and thawed once, which agents do. ROUND TRIP: 128 bytes over TCP on the loopback\n  \
         device. RATIO: the longer of HOLD and LONGEST SUSPENDED, to FLOOR plus ROUND TRIP."
    );
}

fn row(series: &Series) -> Vec<String> {
    let of = |value: fn(&Sample) -> Duration| median(series.samples.iter().map(value).collect());
    let whole = of(|sample| sample.hold.max(sample.suspended)).as_secs_f64();
    let ratio = |floor: Duration| whole / (floor + series.round_trip).as_secs_f64();
    let (cold, warm) = (of(|sample| sample.cold_floor), of(|sample| sample.warm_floor));
    let aim = if series.members != AIM_MEMBERS {
        String::new()
    } else if ratio(cold) <= AIM_RATIO {
        format!("≤ {AIM_RATIO}: met")
    } else {
        format!("≤ {AIM_RATIO}: missed")
    };
    vec![
        series.members.to_string(),
        milliseconds(of(|sample| sample.hold)),
        milliseconds(of(|sample| sample.suspended)),
        milliseconds(of(|sample| sample.gathering)),
        milliseconds(of(|sample| sample.stall)),
        milliseconds(cold),
        milliseconds(warm),
        milliseconds(series.round_trip),
        format!("{:.2}", ratio(cold)),
        format!("{:.2}", ratio(warm)),
        aim,
    ]
}

fn milliseconds(duration: Duration) -> String {
    match duration.as_secs_f64() * 1e3 {
        ms if ms < 0.1 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// Prints what one replication asks of the API server.
pub fn requests(terminal: Terminal, all: &[Series]) {
    terminal.heading("Requests of the controller to the API server per replication (mode Check)");
    let mut kinds: Vec<&String> = all.iter().flat_map(|series| series.requests.keys()).collect();
    kinds.sort();
    kinds.dedup();
    let mut rows = vec![vec!["REQUEST".to_owned()]];
    rows[0].extend(all.iter().map(|series| format!("N = {}", series.members)));
    let mean = |count: u64, series: &Series| format!("{:.1}", count as f64 / series.samples.len() as f64);
    for kind in kinds {
        let counts = all.iter().map(|series| mean(*series.requests.get(kind).unwrap_or(&0), series));
        rows.push(std::iter::once(kind.clone()).chain(counts).collect());
    }
    let totals = all.iter().map(|series| mean(series.requests.values().sum(), series));
    rows.push(std::iter::once("all".to_owned()).chain(totals).collect());
    print_plain(terminal, &rows);
    println!("\n  Counted by apiserver_request_total, without the benchmark's own; a watch counts when it ends.");
}

/// Prints the memory of the processes.
pub fn memory(terminal: Terminal, processes: &[(&str, Resident)]) {
    terminal.heading("Resident memory");
    let mut rows = vec![["PROCESS", "RESIDENT", "ALLOCATED"].map(String::from).to_vec()];
    let mebibytes = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    rows.extend(
        processes.iter().map(|(name, memory)| vec![(*name).into(), mebibytes(memory.all), mebibytes(memory.anonymous)]),
    );
    print_plain(terminal, &rows);
}

/// Prints the sizes of files.
pub fn sizes(terminal: Terminal, files: &[(&str, u64)]) {
    terminal.heading("Size");
    let mut rows = vec![["FILE", "SIZE"].map(String::from).to_vec()];
    rows.extend(files.iter().map(|(name, bytes)| vec![(*name).into(), format!("{:.1} MB", *bytes as f64 / 1e6)]));
    print_plain(terminal, &rows);
}

fn print_plain(terminal: Terminal, rows: &[Vec<String>]) {
    let lines = table(rows, |row, _, cell| if row == 0 { terminal.paint(Colour::Dim, cell) } else { cell.into() });
    lines.iter().for_each(|line| println!("{line}"));
}
