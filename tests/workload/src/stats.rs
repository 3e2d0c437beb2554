//! What the writer tells about itself: how fast it writes, and the longest time that it had to wait.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Counts since the last reset. The clock is passed in.
#[derive(Debug)]
pub struct Stats {
    since: Instant,
    records: u64,
    longest: Duration,
    longest_store: Option<String>,
    running: Option<(Instant, String)>,
    last_record: u64,
    reconnects: u64,
    last_error: Option<String>,
}

/// The counts as the writer serves them under `/stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The last record that every store has.
    pub last_record: u64,
    /// Since the last reset.
    pub seconds: f64,
    /// Records that every store got since the last reset.
    pub records: u64,
    /// `records` by `seconds`.
    pub records_per_second: f64,
    /// The longest that one append to one store took since the last reset, the running one included.
    pub longest_append_ms: f64,
    /// The store of that append.
    pub longest_append_store: Option<String>,
    /// Connections lost since the writer began.
    pub reconnects: u64,
    /// Why the last connection was lost.
    pub last_error: Option<String>,
}

impl Stats {
    /// Nothing counted yet.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            records: 0,
            longest: Duration::ZERO,
            longest_store: None,
            running: None,
            last_record: 0,
            reconnects: 0,
            last_error: None,
        }
    }

    /// An append to one store begins.
    pub fn append_begins(&mut self, store: &str, now: Instant) {
        self.running = Some((now, store.into()));
    }

    /// The append that began last is on disk.
    pub fn append_ends(&mut self, now: Instant) {
        if let Some((began, store)) = self.running.take() {
            self.note(now - began, store);
        }
    }

    /// Every store has this record.
    pub fn record_complete(&mut self, number: u64) {
        self.records += 1;
        self.last_record = number;
    }

    /// The connections are lost.
    pub fn disconnected(&mut self, error: String, now: Instant) {
        self.append_ends(now);
        self.reconnects += 1;
        self.last_error = Some(error);
    }

    /// The counts at this moment; with `reset` they begin anew.
    pub fn report(&mut self, reset: bool, now: Instant) -> Report {
        if let Some((began, store)) = self.running.clone() {
            self.note(now - began, store);
        }
        let seconds = (now - self.since).as_secs_f64();
        let report = Report {
            last_record: self.last_record,
            seconds,
            records: self.records,
            records_per_second: if seconds > 0.0 { self.records as f64 / seconds } else { 0.0 },
            longest_append_ms: self.longest.as_secs_f64() * 1e3,
            longest_append_store: self.longest_store.clone(),
            reconnects: self.reconnects,
            last_error: self.last_error.clone(),
        };
        if reset {
            (self.since, self.records, self.longest, self.longest_store) = (now, 0, Duration::ZERO, None);
        }
        report
    }

    fn note(&mut self, took: Duration, store: String) {
        if took > self.longest {
            (self.longest, self.longest_store) = (took, Some(store));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_rate_and_longest_append_until_reset() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stats = Stats::new(start);
        for (store, from, to) in [("a", 0, 10), ("b", 10, 300), ("c", 300, 400)] {
            stats.append_begins(store, at(from));
            stats.append_ends(at(to));
        }
        stats.record_complete(1);
        let report = stats.report(true, at(500));
        assert_eq!((report.records, report.records_per_second), (1, 2.0));
        assert_eq!((report.longest_append_ms, report.longest_append_store.as_deref()), (290.0, Some("b")));
        let report = stats.report(false, at(1500));
        assert_eq!((report.records, report.longest_append_ms, report.last_record), (0, 0.0, 1));
    }

    #[test]
    fn an_append_that_still_runs_counts() {
        let start = Instant::now();
        let mut stats = Stats::new(start);
        stats.append_begins("a", start);
        let later = start + Duration::from_secs(3);
        assert_eq!(stats.report(true, later).longest_append_ms, 3000.0);
        stats.disconnected("gone".into(), later + Duration::from_secs(1));
        let report = stats.report(false, later + Duration::from_secs(1));
        assert_eq!(report.longest_append_ms, 4000.0, "its whole length counts, also what lies before the reset");
        assert_eq!((report.reconnects, report.last_error.as_deref()), (1, Some("gone")));
    }
}
