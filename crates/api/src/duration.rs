//! Durations as Kubernetes writes them (`1m30s`, `216.8ms`), read without trust.
//!
//! [`kube::core::Duration`] panics on some strings, such as `1s-2s` and `99999999999999999999h`. [`Duration`] wraps it, so that no
//! string reaches its parser unchecked, whoever reads it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};

/// A duration as Kubernetes writes it. It may be negative, so that who asks for a negative one can be told so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Duration(kube::core::Duration);

impl Duration {
    /// Whether it is below zero. As a [`std::time::Duration`] it is then its absolute value.
    pub fn is_negative(&self) -> bool {
        self.0.is_negative()
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration.into())
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0.into()
    }
}

impl PartialEq<time::Duration> for Duration {
    fn eq(&self, other: &time::Duration) -> bool {
        self.0 == *other
    }
}

impl PartialOrd<time::Duration> for Duration {
    fn partial_cmp(&self, other: &time::Duration) -> Option<Ordering> {
        self.0.partial_cmp(other)
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        kube::core::Duration::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        kube::core::Duration::json_schema(generator)
    }
}

/// Longest sum, in seconds. More than the largest time that an agent can report, and less than what overflows.
const MAX_SECONDS: f64 = 1e18;

/// Parses a duration.
///
/// # Errors
/// A sentence, when it is none.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is not a duration such as 30s, 1m30s or 500ms", text.escape_debug());
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() && rest != "0" {
        let end_of_number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end_of_number);
        let end_of_unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end_of_unit);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        seconds += number.parse::<f64>().map_err(|_| wrong())? * unit;
        rest = tail;
    }
    // Also refuses what is not a number.
    if seconds <= MAX_SECONDS { text.parse().map(Duration).map_err(|_| wrong()) } else { Err(wrong()) }
}

/// Reads a duration that is only told. One that is not understood is left out: a status that somebody has spoiled must not
/// keep the controller from reading all others.
///
/// # Errors
/// When it is not even text.
pub fn told<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| parse(&text).ok()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration as Std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_they_are_meant() {
        let day = Std::from_secs(86_400);
        for (text, expected) in [
            ("30s", Some(Std::from_secs(30))),
            ("1m30s", Some(Std::from_secs(90))),
            ("1h0.5s", Some(Std::from_millis(3_600_500))),
            ("216.8ms", Some(Std::from_micros(216_800))),
            ("40µs", Some(Std::from_micros(40))),
            ("0", Some(Std::ZERO)),
            ("0s", Some(Std::ZERO)),
            ("24h", Some(day)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            ("1s-2s", None),
            ("1.2.3s", None),
            ("1e3s", None),
            ("infs", None),
            ("NaNs", None),
            ("99999999999999999999h", None),
            ("9999999999999999999999999999999h", None),
        ] {
            assert_eq!(parse(text).ok().map(Std::from), expected, "{text}");
        }
        assert!(parse("-5s").expect("a duration").is_negative());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(-|\\+|[0-9]{1,25}|\\.|e|inf|nan|ns|us|µs|ms|s|m|h|.){0,12}") {
            if let Ok(duration) = parse(&text) {
                prop_assert_eq!(parse(&duration.to_string()).map(|again| again.to_string()), Ok(duration.to_string()));
            }
        }

        #[test]
        fn what_is_written_is_read_back(micros: u64) {
            // Read through floating point: exact to a microsecond up to years, which is all that is told.
            let written = Duration::from(Std::from_micros(micros >> 16));
            let read: Std = parse(&written.to_string()).expect("a duration").into();
            prop_assert!(read.abs_diff(Std::from_micros(micros >> 16)) <= Std::from_micros(1));
        }
    }
}

#[cfg(test)]
#[path = "duration_fields_tests.rs"]
mod fields;
