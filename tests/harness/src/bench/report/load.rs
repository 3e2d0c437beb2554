//! A loaded controller.

use std::time::Duration;

use super::super::load::{Load, Stage};
use super::{mebibytes, print};
use crate::terminal::{Terminal, seconds};

/// Prints the stages of all versions, which all have the same ones.
pub fn print_all(terminal: Terminal, load: Load, versions: &[(&str, Vec<Stage>)]) {
    terminal
        .heading(&format!("The controller with {} agents and {} runs at once (mode Check)", load.agents, load.runs));
    let heading = ["AFTER", "VERSION", "RESIDENT", "PEAK", "ALLOCATED", "PROCESSOR", "IN ALL", "TOOK"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for stage in 0..versions.iter().map(|(_, stages)| stages.len()).min().unwrap_or_default() {
        rows.extend(versions.iter().map(|(label, stages)| row(label, stages, stage)));
    }
    print(terminal, &rows);
    for (label, stages) in versions {
        if let [none, connected, ..] = &stages[..] {
            let all = connected.memory.anonymous.saturating_sub(none.memory.anonymous);
            println!(
                "\n  {label}: {:.1} KiB allocated for each connected agent.",
                all as f64 / load.agents.max(1) as f64
            );
        }
    }
    println!(
        "\n  RESIDENT, PEAK, ALLOCATED: VmRSS, VmHWM, RssAnon. PROCESSOR: user and system time in this stage; IN ALL: since the\n  \
         controller's start. TOOK: by the wall, with what the benchmark itself and the API server do on the same machine."
    );
}

fn row(label: &str, stages: &[Stage], number: usize) -> Vec<String> {
    let stage = &stages[number];
    let before = number.checked_sub(1).map_or(Duration::ZERO, |before| stages[before].processor);
    let processor = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    vec![
        stage.what.clone(),
        label.to_owned(),
        mebibytes(stage.memory.all),
        mebibytes(stage.memory.peak),
        mebibytes(stage.memory.anonymous),
        processor(stage.processor.saturating_sub(before)),
        processor(stage.processor),
        seconds(stage.took),
    ]
}
