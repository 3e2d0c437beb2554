//! The rule of order: which states of several logs one common point in time can show.

use serde::{Deserialize, Serialize};

use crate::log::Summary;

/// A log and the name of its volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedLog {
    /// Name of the volume.
    pub name: String,
    /// What its log shows.
    #[serde(flatten)]
    pub log: Summary,
}

/// What a set of logs, given in the order of writing, shows together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The logs, in the order of writing.
    pub logs: Vec<NamedLog>,
    /// A sentence for everything that no common point in time can show. Empty: the cut is in order.
    pub violations: Vec<String>,
}

impl Verdict {
    /// Judges logs that are given in the order of writing.
    pub fn new(logs: Vec<NamedLog>) -> Self {
        let violations = violations(&logs);
        Self { logs, violations }
    }

    /// Whether one common point in time can show these logs.
    pub fn in_order(&self) -> bool {
        self.violations.is_empty()
    }

    /// How many records the fullest log is ahead of the emptiest: at most 1 in a common cut.
    pub fn skew(&self) -> u64 {
        let counts = || self.logs.iter().map(|log| log.log.records);
        counts().max().unwrap_or(0) - counts().min().unwrap_or(0)
    }
}

fn violations(logs: &[NamedLog]) -> Vec<String> {
    let damaged = logs.iter().filter_map(|log| log.log.damage.as_ref().map(|damage| format!("{}: {damage}", log.name)));
    let mut found: Vec<String> = damaged.collect();
    for pair in logs.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if before.log.records < after.log.records {
            found.push(format!(
                "{} shows record {}, which was written only after {} had it, but {} ends at {}",
                after.name, after.log.records, before.name, before.name, before.log.records
            ));
        }
    }
    if let [first, .., last] = logs
        && first.log.records > last.log.records + 1
    {
        found.push(format!(
            "{} shows record {}, which was begun only after {} had record {}, but {} ends at {}",
            first.name,
            first.log.records,
            last.name,
            first.log.records - 1,
            last.name,
            last.log.records
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(counts: &[u64]) -> Verdict {
        let log = |(position, records): (usize, &u64)| NamedLog {
            name: ["a", "b", "c"][position].into(),
            log: Summary { records: *records, torn: false, damage: None },
        };
        Verdict::new(counts.iter().enumerate().map(log).collect())
    }

    #[test]
    fn every_state_of_a_running_writer_is_in_order() {
        let mut state = [0, 0, 0];
        for _ in 0..3 {
            for store in 0..3 {
                assert!(verdict(&state).in_order(), "{state:?}");
                state[store] += 1;
            }
        }
        assert!(verdict(&state).in_order());
        assert!(verdict(&[]).in_order());
        assert!(verdict(&[5]).in_order());
    }

    #[test]
    fn every_other_state_is_torn() {
        for torn in [[4, 5, 5], [5, 4, 5], [6, 5, 4], [5, 3, 3], [7, 7, 5]] {
            assert!(!verdict(&torn).in_order(), "{torn:?}");
        }
        let text = verdict(&[9, 12, 9]).violations.join("; ");
        assert!(text.contains("b shows record 12") && text.contains("a ends at 9"), "{text}");
        assert_eq!(verdict(&[9, 12, 9]).skew(), 3);
    }

    #[test]
    fn damage_is_a_violation_and_an_unfinished_record_is_none() {
        let log = |torn, damage: Option<&str>| {
            let log = Summary { records: 3, torn, damage: damage.map(Into::into) };
            Verdict::new(vec![NamedLog { name: "a".into(), log }])
        };
        assert!(log(true, None).in_order());
        assert_eq!(log(false, Some("a hole")).violations, ["a: a hole"]);
    }
}
