//! The holds of all sizes.

use std::time::Duration;

use super::super::measure::{Repetition, Series, median};
use super::{milliseconds, print, verdict};
use crate::terminal::Terminal;

/// A hold takes at most this many times the floor and one round trip, with [`AIM_MEMBERS`] members.
const AIM_RATIO: f64 = 1.5;
/// The group that the aim is for.
const AIM_MEMBERS: usize = 30;

/// Prints them: every version against the floor, and, where there are two, one against the other.
pub fn print_all(terminal: Terminal, versions: &[&str], all: &[Series]) {
    if versions.len() > 1 {
        comparison(terminal, all);
    }
    details(terminal, versions, all);
}

fn details(terminal: Terminal, versions: &[&str], all: &[Series]) {
    terminal.heading("The hold, and the floor of the same filesystems under the same writers (medians)");
    let heading = [
        "MEMBERS",
        "VERSION",
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
    for series in all {
        rows.extend(versions.iter().enumerate().map(|(version, label)| detail(series, version, label)));
    }
    print(terminal, &rows);
    println!(
        "\n  HOLD is status.hold.duration, by the controller: the first member ready to the last one resumed. LONGEST\n  \
         SUSPENDED is the longest suspendedFor of a member, by its agent. LONGEST STALL is the longest single write.\n  \
         FLOOR: one process, a thread per filesystem, from the first FIFREEZE to the last FITHAW, the kernel cold; WARM:\n  \
         the same after each was frozen and thawed once, which agents do. ROUND TRIP: 128 bytes over TCP on the loopback\n  \
         device. RATIO: the longer of HOLD and LONGEST SUSPENDED, to FLOOR plus ROUND TRIP."
    );
}

fn detail(series: &Series, version: usize, label: &str) -> Vec<String> {
    let whole = median(series.of(version, |sample| sample.hold.max(sample.suspended)));
    let ratio = |floor: Duration| whole.as_secs_f64() / (floor + series.round_trip).as_secs_f64();
    let (cold, warm) = (floor(series, |it| it.cold_floor), floor(series, |it| it.warm_floor));
    let aim = if series.members == AIM_MEMBERS {
        verdict(&AIM_RATIO.to_string(), ratio(cold) <= AIM_RATIO)
    } else {
        String::new()
    };
    vec![
        series.members.to_string(),
        label.to_owned(),
        milliseconds(median(series.of(version, |sample| sample.hold))),
        milliseconds(median(series.of(version, |sample| sample.suspended))),
        milliseconds(median(series.of(version, |sample| sample.gathering))),
        milliseconds(median(series.of(version, |sample| sample.stall))),
        milliseconds(cold),
        milliseconds(warm),
        milliseconds(series.round_trip),
        format!("{:.2}", ratio(cold)),
        format!("{:.2}", ratio(warm)),
        aim,
    ]
}

fn floor(series: &Series, value: impl Fn(&Repetition) -> Duration) -> Duration {
    median(series.repetitions.iter().map(value).collect())
}

/// Two versions: the first one is the new one.
fn comparison(terminal: Terminal, all: &[Series]) {
    terminal.heading("New against old, measured in turns (medians)");
    let heading = [
        "MEMBERS",
        "HOLD NEW",
        "OLD",
        "NEW/OLD",
        "SUSPENDED NEW",
        "OLD",
        "NEW/OLD",
        "COLD FLOOR",
        "NEW/FLOOR",
        "OLD/FLOOR",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(all.iter().map(compared));
    print(terminal, &rows);
    println!(
        "\n  NEW/OLD: the median of the ratios of all repetitions, and the smallest and the largest: the noise. To the floor:\n  \
         the longer of hold and longest suspension, as RATIO below."
    );
}

fn compared(series: &Series) -> Vec<String> {
    let holds = [0, 1].map(|version| series.of(version, |sample| sample.hold));
    let suspensions = [0, 1].map(|version| series.of(version, |sample| sample.suspended));
    let cold = floor(series, |it| it.cold_floor);
    let to_floor = |version| {
        let whole = median(series.of(version, |sample| sample.hold.max(sample.suspended)));
        format!("{:.2}", whole.as_secs_f64() / (cold + series.round_trip).as_secs_f64())
    };
    let [new_hold, old_hold] = holds.clone().map(|values| milliseconds(median(values)));
    let [new_suspended, old_suspended] = suspensions.clone().map(|values| milliseconds(median(values)));
    vec![
        series.members.to_string(),
        new_hold,
        old_hold,
        ratios(&holds),
        new_suspended,
        old_suspended,
        ratios(&suspensions),
        milliseconds(cold),
        to_floor(0),
        to_floor(1),
    ]
}

/// The ratios of values measured in turns: the median, the smallest and the largest.
fn ratios([new, old]: &[Vec<Duration>; 2]) -> String {
    let mut ratios: Vec<f64> = new.iter().zip(old).map(|(new, old)| new.as_secs_f64() / old.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let (Some(first), Some(middle), Some(last)) = (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) else {
        return String::new();
    };
    format!("{middle:.2} ({first:.2} to {last:.2})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_repetition() {
        let millis = |values: [u64; 3]| values.map(Duration::from_millis).to_vec();
        assert_eq!(ratios(&[millis([10, 40, 30]), millis([10, 20, 40])]), "1.00 (0.75 to 2.00)");
        assert_eq!(ratios(&[Vec::new(), Vec::new()]), "");
    }
}
