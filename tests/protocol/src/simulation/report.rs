//! What many seeds have shown, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use stillpoint_api::Mode;
use stillpoint_core::limits::{GUARDIAN_GRACE, THAW_RETRY, THAW_TIMEOUT};

use super::{Fault, Story};

/// The sum of many stories.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    seeds: u64,
    steps: u64,
    virtual_time: Duration,
    faults: Vec<u64>,
    endings: BTreeMap<(String, String), u64>,
    /// The longest suspension in parts of its limit, and both.
    longest: Option<(f64, Duration, Duration)>,
}

impl Tally {
    /// Adds a story.
    pub fn add(&mut self, story: &Story) {
        self.seeds += 1;
        self.steps += story.steps;
        self.virtual_time += story.lasted;
        self.faults.resize(Fault::ALL.len(), 0);
        for (sum, count) in self.faults.iter_mut().zip(story.faults) {
            *sum += count;
        }
        let phase = story.ending.phase.map_or_else(|| "(gone)".to_owned(), |phase| format!("{phase:?}"));
        let mode = if story.ending.mode == Mode::Check { " (check)" } else { "" };
        *self.endings.entry((phase + mode, story.ending.reason.clone())).or_default() += 1;
        self.compare((story.longest.as_secs_f64() / story.limit.as_secs_f64(), story.longest, story.limit));
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.faults.resize(Fault::ALL.len(), 0);
        for (sum, count) in self.faults.iter_mut().zip(&other.faults) {
            *sum += count;
        }
        for (ending, count) in &other.endings {
            *self.endings.entry(ending.clone()).or_default() += count;
        }
        if let Some(longest) = other.longest {
            self.compare(longest);
        }
    }

    fn compare(&mut self, longest: (f64, Duration, Duration)) {
        if self.longest.is_none_or(|known| known.0 < longest.0) {
            self.longest = Some(longest);
        }
    }

    /// A table.
    pub fn table(&self, took: Duration) -> String {
        let mut text = String::new();
        let per_second = self.seeds as f64 / took.as_secs_f64().max(1e-9);
        let hours = self.virtual_time.as_secs() / 3_600;
        let _ =
            writeln!(text, "seeds       {:>12}   {per_second:.0} per second, {:.1} s", self.seeds, took.as_secs_f64());
        let _ = writeln!(text, "steps       {:>12}   {hours} hours of virtual time", self.steps);
        if let Some((_, longest, limit)) = self.longest {
            let (guarded, alone) = (GUARDIAN_GRACE + THAW_RETRY, THAW_TIMEOUT + THAW_RETRY);
            let _ = writeln!(
                text,
                "suspended   {longest:>12.3?}   longest in parts of its limit, which was {limit:?}; allowed"
            );
            let _ = writeln!(
                text,
                "                           beyond it: {guarded:?} under a guardian, {alone:?} if that died too"
            );
        }
        let _ = writeln!(text, "\nhow runs ended");
        for ((phase, reason), count) in &self.endings {
            let _ = writeln!(text, "{count:>12}   {phase:<18} {reason}");
        }
        let _ = writeln!(text, "\nfaults");
        for (fault, count) in Fault::ALL.into_iter().zip(&self.faults) {
            let _ = writeln!(text, "{count:>12}   {}", fault.what());
        }
        text
    }
}
