//! Times as people read them, and the round numbers of an axis.

/// A length of time in microseconds as text: `850 µs`, `4.2 ms`, `212 ms`, `1.84 s`.
pub fn text(micros: i64) -> String {
    let sign = if micros < 0 { "−" } else { "" };
    let micros = micros.unsigned_abs();
    let (value, unit) = match micros {
        0..1_000 => return format!("{sign}{micros} µs"),
        1_000..999_500 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    let digits = match value {
        v if v < 9.95 && unit == "s" => 2,
        v if v < 9.95 || (v < 99.5 && unit == "s") => 1,
        _ => 0,
    };
    format!("{sign}{value:.digits$} {unit}")
}

/// The round times within `from..=to` microseconds, at most `most` of them, 1, 2 or 5 times a power of ten apart.
pub fn ticks(from: i64, to: i64, most: usize) -> Vec<i64> {
    let wanted = (to.saturating_sub(from) / most.max(1) as i64).max(1);
    let step = steps().find(|step| *step >= wanted).unwrap_or(i64::MAX);
    let first = from.div_euclid(step).saturating_mul(step);
    (0..=most as i64 + 1)
        .map(|n| first.saturating_add(n.saturating_mul(step)))
        .filter(|tick| (from..=to).contains(tick))
        .take(most)
        .collect()
}

/// 1, 2, 5, 10, 20, 50, … as long as they fit.
fn steps() -> impl Iterator<Item = i64> {
    (0..18).map(|power| 10_i64.pow(power)).flat_map(|base| [base, 2 * base, 5 * base])
}

/// A tick's text, in the one unit that fits the whole axis.
pub fn tick_text(tick: i64, to: i64) -> String {
    match to.abs() {
        0..1_000 => format!("{tick} µs"),
        1_000..2_000_000 => format!("{} ms", tick as f64 / 1e3),
        _ => format!("{} s", tick as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_have_a_unit() {
        for (micros, expected) in [
            (0, "0 µs"),
            (850, "850 µs"),
            (1_000, "1.0 ms"),
            (4_230, "4.2 ms"),
            (9_960, "10 ms"),
            (212_400, "212 ms"),
            (999_400, "999 ms"),
            (999_600, "1.00 s"),
            (1_840_000, "1.84 s"),
            (10_000_000, "10.0 s"),
            (120_000_000, "120 s"),
            (-4_230, "−4.2 ms"),
        ] {
            assert_eq!(text(micros), expected);
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(-12_000, 230_000, 6), [0, 50_000, 100_000, 150_000, 200_000]);
        assert_eq!(ticks(0, 10, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(ticks(5, 5, 4), [5]);
        for (from, to) in [(i64::MIN, i64::MAX), (0, 0), (-1, 1), (-3_000, 9_999_999)] {
            assert!(ticks(from, to, 7).len() <= 7);
        }
    }
}
