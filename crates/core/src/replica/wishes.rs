//! What a spec asks for of replicas beside their kind, and whether Kubernetes would take it: a creation that is refused for a
//! label would be refused in the hold.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{MAX_REPLICA_ANNOTATION, MAX_REPLICA_LABELS};
use crate::run::state::Verdict;
use stillpoint_api::{Reason, labels};

/// Kubernetes' bound on the name of a label or an annotation, without its prefix, and on the value of a label.
const MAX_NAME: usize = 63;
/// Kubernetes' bound on the prefix of a label or an annotation (a DNS subdomain, RFC 1123).
const MAX_PREFIX: usize = 253;

/// What is asked for of every replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Labels beside Stillpoint's own.
    pub labels: BTreeMap<String, String>,
    /// Annotations beside Stillpoint's own.
    pub annotations: BTreeMap<String, String>,
    /// How long replicas of a proven cut may take to become usable; `None`: as long as they need.
    pub ready_timeout: Option<Duration>,
}

impl Wishes {
    /// Whether Kubernetes takes these labels and annotations, and Stillpoint does not need them itself.
    ///
    /// # Errors
    /// What is wrong with the first that it does not.
    pub fn check(&self) -> Result<(), Verdict> {
        let of = |what: &'static str, all: &BTreeMap<String, String>, fits: fn(&str) -> Option<&'static str>| {
            let many = (all.len() > MAX_REPLICA_LABELS).then(|| format!("there are more than {MAX_REPLICA_LABELS}"));
            let wrong = all.iter().find_map(|(key, value)| {
                let why = wrong_key(key).or_else(|| fits(value))?;
                Some(format!("`{key}: {value}`: {why}"))
            });
            many.or(wrong).map(|why| format!("the {what} that are asked for on replicas cannot be given: {why}"))
        };
        let wrong = of("labels", &self.labels, wrong_label);
        match wrong.or_else(|| of("annotations", &self.annotations, wrong_annotation)) {
            None => Ok(()),
            Some(message) => Err(Verdict::new(Reason::ReplicaLabelsInvalid, message)),
        }
    }
}

/// Why Kubernetes or Stillpoint would not take the key of a label or an annotation.
fn wrong_key(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((prefix, name)) => (Some(prefix), name),
    };
    if prefix == labels::CLAIM.split_once('/').map(|(own, _)| own) {
        return Some("the prefix is Stillpoint's own");
    }
    let is_prefix = |prefix: &str| prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_dns_label);
    if prefix.is_some_and(|prefix| !is_prefix(prefix)) {
        return Some("what stands before the slash must be a DNS name of small letters, digits, hyphens and dots");
    }
    (!is_word(name)).then_some(
        "a name has at most 63 letters, digits, hyphens, underscores and dots, and begins and ends with a letter or a digit",
    )
}

fn wrong_label(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !is_word(value)).then_some(
        "a value has at most 63 letters, digits, hyphens, underscores and dots, and begins and ends with a letter or a digit",
    )
}

fn wrong_annotation(value: &str) -> Option<&'static str> {
    const { assert!(MAX_REPLICA_ANNOTATION == 256) };
    (value.chars().count() > MAX_REPLICA_ANNOTATION).then_some("a value has at most 256 characters")
}

fn is_word(word: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    word.len() <= MAX_NAME && word.bytes().all(inside) && has_ends(word)
}

fn is_dns_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    label.bytes().all(inside) && has_ends(label)
}

/// It begins and ends with a letter or a digit, and so is not empty.
fn has_ends(word: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(word.as_bytes().first()) && ends(word.as_bytes().last())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn refused(key: &str, value: &str, label: bool) -> Option<String> {
        let one: BTreeMap<_, _> = [(key.to_owned(), value.to_owned())].into();
        let none = BTreeMap::new();
        let (labels, annotations) = if label { (one, none) } else { (none, one) };
        Wishes { labels, annotations, ready_timeout: None }.check().err().map(|verdict| verdict.message)
    }

    #[test]
    fn what_kubernetes_would_refuse_in_the_hold_is_refused_before() {
        let long = "x".repeat(64);
        let taken = [("team", "shop"), ("cost.example.com/center", "4711"), ("a", ""), ("A_b.c", "x-1_y.Z")];
        for (key, value) in taken {
            assert_eq!((refused(key, value, true), refused(key, value, false)), (None, None), "{key}: {value}");
        }
        for key in ["", "/x", "x/", "-x", "x.", "a b", "Upper.example.com/x", "a..b/x", "a/b/c", &long, "ä"] {
            assert!(refused(key, "x", true).is_some() && refused(key, "x", false).is_some(), "{key}");
        }
        for value in ["-x", "x.", "a b", "ä", &long] {
            assert!(refused("team", value, true).is_some(), "{value}");
            assert_eq!(refused("team", value, false), None, "{value}");
        }
        assert_eq!(refused("note", &"ä".repeat(256), false), None);
        assert!(refused("note", &"ä".repeat(257), false).is_some());
    }

    #[test]
    fn stillpoints_own_marks_are_its_own() {
        for key in [labels::ATTEMPT, labels::PROVEN_AT, "stillpoint.io/anything"] {
            assert!(refused(key, "1", true).unwrap().contains("Stillpoint's own"));
            assert!(refused(key, "1", false).is_some());
        }
    }

    #[test]
    fn there_are_at_most_so_many() {
        let so_many = |count: usize| (0..count).map(|number| (format!("l{number}"), String::new())).collect();
        let check = |count| Wishes { labels: so_many(count), ..Wishes::default() }.check();
        assert_eq!(check(MAX_REPLICA_LABELS), Ok(()));
        assert!(check(MAX_REPLICA_LABELS + 1).is_err());
    }
}
