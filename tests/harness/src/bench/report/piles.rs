//! A controller beside piles of objects.

use std::time::Duration;

use super::super::piles::Found;
use super::{mebibytes, print, verdict};
use crate::terminal::{Terminal, seconds};

/// The most memory that a controller is to take beside its sessions, in KiB: 100 MB.
const AIM: u64 = 100_000_000 / 1024;

/// Prints what was seen of all versions.
pub fn print_all(terminal: Terminal, versions: &[(&str, Found)]) {
    terminal.heading("The controller beside piles of objects");
    let heading = ["AFTER", "VERSION", "RESIDENT", "PEAK", "", "ALLOCATED", "TOOK"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for stage in 0..versions.iter().map(|(_, found)| found.stages.len()).min().unwrap_or_default() {
        rows.extend(versions.iter().map(|(label, found)| {
            let stage = &found.stages[stage];
            vec![
                stage.what.clone(),
                (*label).to_owned(),
                mebibytes(stage.memory.all),
                mebibytes(stage.memory.peak),
                verdict("100 MB", stage.memory.peak <= AIM),
                mebibytes(stage.memory.anonymous),
                seconds(stage.took),
            ]
        }));
    }
    print(terminal, &rows);
    for (label, Found { served, sessions, created, .. }) in versions {
        let longest = served.iter().max().copied().unwrap_or_default();
        let mean = served.iter().sum::<Duration>() / u32::try_from(served.len().max(1)).unwrap_or(u32::MAX);
        println!(
            "\n  {label}: while one tenant opened {sessions} sessions and created {created} objects, {} runs of a neighbour ended,\n  \
             one after the other, in {} on average and {} at most.",
            served.len(),
            seconds(mean),
            seconds(longest),
        );
    }
}
