//! The report: a table for people who watch, and a file with every fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use stillpoint_api::Phase;

use super::kind::{Kind, MOMENTS, Moment};
use super::limits::{HOLD, MISSED_ONE_IN, STALL};
use super::outcome::{Outcome, WRONGS, Wrong};
use super::plan::Case;
use crate::terminal::{Colour, Terminal, seconds, table};

/// A fault that was not made.
#[derive(Clone, Debug)]
pub struct Missed {
    /// Its number in the plan.
    pub number: usize,
    /// The fault.
    pub case: Case,
    /// Why not.
    pub why: String,
}

/// Everything that there is to tell.
pub struct Report<'a> {
    /// The seed of the plan.
    pub seed: u64,
    /// What was judged.
    pub outcomes: &'a [Outcome],
    /// What was not.
    pub missed: &'a [Missed],
    /// How long it took.
    pub took: Duration,
}

impl Report<'_> {
    /// How often something happened that must never happen, and how often too many the test itself did not get to its fault.
    pub fn wrongs(&self) -> usize {
        let allowed = (self.outcomes.len() + self.missed.len()) / MISSED_ONE_IN;
        let wrongs: usize = self.outcomes.iter().map(|outcome| outcome.wrongs.len()).sum();
        wrongs + self.missed.len().saturating_sub(allowed)
    }

    fn count(&self, wrong: Wrong) -> usize {
        count(self.outcomes.iter(), wrong)
    }

    /// The table: kinds of faults, and how the runs ended at each moment.
    pub fn print(&self, terminal: Terminal) {
        let mut heading = vec!["FAULT".to_owned()];
        heading.extend(MOMENTS.map(|moment| moment.to_string().to_uppercase()));
        heading.push("LONGEST APPEND".into());
        let mut rows = vec![heading];
        let mut kinds: Vec<Kind> = self.outcomes.iter().map(|outcome| outcome.case.kind).collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            let of_kind: Vec<&Outcome> = self.outcomes.iter().filter(|outcome| outcome.case.kind == kind).collect();
            let mut row = vec![kind.to_string()];
            row.extend(MOMENTS.map(|moment| cell(&of_kind, moment)));
            row.push(longest(&of_kind));
            rows.push(row);
        }
        println!();
        let lines = table(&rows, |row, column, cell| match (row, column) {
            (0, _) => terminal.paint(Colour::Dim, cell),
            (_, 0) => terminal.paint(Colour::Cyan, cell),
            _ if cell.contains('!') => terminal.paint(Colour::Red, cell),
            _ => cell.into(),
        });
        lines.iter().for_each(|line| println!("{line}"));
        println!("\n  D done, A aborted, F failed, ! something that must never happen\n");
        for line in self.summary() {
            let colour = if self.wrongs() == 0 { Colour::Green } else { Colour::Red };
            println!("  {}", terminal.paint(colour, &line));
        }
    }

    fn summary(&self) -> Vec<String> {
        let ended = |phase| self.outcomes.iter().filter(|outcome| outcome.phase() == Some(phase)).count();
        let wrongs = WRONGS.map(|wrong| format!("{wrong} {}", self.count(wrong))).join(", ");
        let all: Vec<&Outcome> = self.outcomes.iter().collect();
        vec![
            format!(
                "{} faults in {}: {} done, {} aborted, {} failed; seed {}",
                self.outcomes.len(),
                seconds(self.took),
                ended(Phase::Done),
                ended(Phase::Aborted),
                ended(Phase::Failed),
                self.seed
            ),
            format!(
                "longest append {}, bound {} for a holdTimeout of {}",
                longest(&all),
                seconds(STALL),
                seconds(HOLD)
            ),
            format!("{wrongs}; not made {}", self.missed.len()),
        ]
    }

    /// All of it, for a file.
    pub fn text(&self) -> String {
        let mut out = self.summary().join("\n");
        out.push_str("\n\nThe longest append is measured by the stores around write and fdatasync, on their monotonic clocks. A store\n");
        out.push_str("that was itself killed, stopped or deleted is left out for that fault; those of the other members count.\n\n");
        let mut rows = vec![
            ["FAULT", "PHASE", "RUNS", "ENDED", "LONGEST", "TORN", "SUSPENDED", "TOO LONG", "LEFT", "STUCK"]
                .map(String::from)
                .to_vec(),
        ];
        let mut groups: BTreeMap<(Kind, Moment), Vec<&Outcome>> = BTreeMap::new();
        for outcome in self.outcomes {
            groups.entry((outcome.case.kind, outcome.case.moment)).or_default().push(outcome);
        }
        for ((kind, moment), all) in &groups {
            let mut row = vec![kind.to_string(), moment.to_string(), all.len().to_string(), endings(all), longest(all)];
            row.extend(WRONGS.map(|wrong| count(all.iter().copied(), wrong).to_string()));
            rows.push(row);
        }
        out.push_str(&table(&rows, |_, _, cell| cell.into()).join("\n"));
        out.push_str("\n\nEvery fault. One alone: chaos --only FAULT --phase PHASE --seed SEED\n\n");
        let mut rows = vec![
            ["NO", "FAULT", "PHASE", "SEED", "MEMBER", "SEEN BEFORE", "ENDED", "LONGEST", "WRITES AFTER", "TOOK"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(self.outcomes.iter().map(line));
        out.push_str(&table(&rows, |_, _, cell| cell.into()).join("\n"));
        out.push('\n');
        for outcome in self.outcomes {
            for (wrong, what) in &outcome.wrongs {
                let Case { kind, moment, seed } = outcome.case;
                let _ = writeln!(out, "\n{wrong}: no {} {kind} {moment} --seed {seed}: {what}", outcome.number);
            }
        }
        for missed in self.missed {
            let Case { kind, moment, seed } = missed.case;
            let _ = writeln!(out, "\nnot made: no {} {kind} {moment} --seed {seed}: {}", missed.number, missed.why);
        }
        out
    }
}

/// One line for one fault, as it is told when it is over.
pub fn told(outcome: &Outcome) -> String {
    let wrongs: Vec<String> = outcome.wrongs.iter().map(|(wrong, what)| format!("{wrong}: {what}")).collect();
    format!(
        "{:<8} {:<22} longest append {}{}",
        outcome.phase().map_or("no end".into(), |phase| format!("{phase:?}")),
        outcome.reason(),
        longest(&[outcome]),
        if wrongs.is_empty() { String::new() } else { format!("  ! {}", wrongs.join("; ")) }
    )
}

fn line(outcome: &Outcome) -> Vec<String> {
    let Case { kind, moment, seed } = outcome.case;
    vec![
        outcome.number.to_string(),
        kind.to_string(),
        moment.to_string(),
        seed.to_string(),
        outcome.member.clone().unwrap_or_else(|| "–".into()),
        outcome.before.map_or("–".into(), |phase| format!("{phase:?}")),
        endings(&[outcome]),
        longest(&[outcome]),
        outcome.writes_after.map_or("never".into(), seconds),
        seconds(outcome.took),
    ]
}

fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>, wrong: Wrong) -> usize {
    outcomes.flat_map(|outcome| &outcome.wrongs).filter(|(found, _)| *found == wrong).count()
}

fn longest(outcomes: &[&Outcome]) -> String {
    outcomes.iter().filter_map(|outcome| outcome.longest()).max().map_or_else(|| "–".into(), seconds)
}

/// How runs ended, with their reasons: `2 Done, 1 Failed HoldBroken`.
fn endings(outcomes: &[&Outcome]) -> String {
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes {
        let phase = outcome.phase().map_or("no end".into(), |phase| format!("{phase:?}"));
        let reason = if outcome.phase() == Some(Phase::Done) { "" } else { outcome.reason() };
        *endings.entry(format!("{phase} {reason}").trim().to_owned()).or_default() += 1;
    }
    endings.iter().map(|(ending, count)| format!("{count} {ending}")).collect::<Vec<_>>().join(", ")
}

/// How the runs of one moment ended, in letters.
fn cell(outcomes: &[&Outcome], moment: Moment) -> String {
    let here: Vec<&&Outcome> = outcomes.iter().filter(|outcome| outcome.case.moment == moment).collect();
    let ended = |phase| here.iter().filter(|outcome| outcome.phase() == Some(phase)).count();
    let letters = [("D", Phase::Done), ("A", Phase::Aborted), ("F", Phase::Failed)];
    let mut words: Vec<String> = letters
        .iter()
        .map(|(letter, phase)| (letter, ended(*phase)))
        .filter(|(_, count)| *count > 0)
        .map(|(letter, count)| format!("{letter}{count}"))
        .collect();
    let wrongs: usize = here.iter().map(|outcome| outcome.wrongs.len()).sum();
    if wrongs > 0 {
        words.push(format!("!{wrongs}"));
    }
    words.join(" ")
}
