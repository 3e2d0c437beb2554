//! Files of the checkout that are generated and committed, so that a change to them shows in a review.

use std::path::PathBuf;

/// Set, it has [`assert_generated`] write what it would only compare.
const BLESS: &str = "BLESS";

/// A path in the checkout.
pub fn in_checkout(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../..", path].iter().collect()
}

/// Compares a file of the checkout with what it is generated from; with `BLESS` set, writes it.
///
/// # Panics
/// When they differ; the message names `command`, which writes the file.
pub fn assert_generated(path: &str, generated: &str, command: &str) {
    let file = in_checkout(path);
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&file, generated).unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    if let Some(difference) = first_difference(&committed, generated) {
        panic!("{path} is stale; `{command}` writes it anew, and `git diff` shows what that changes. {difference}");
    }
}

/// Where two texts begin to differ.
fn first_difference(committed: &str, generated: &str) -> Option<String> {
    let (mut old, mut new) = (committed.split_inclusive('\n'), generated.split_inclusive('\n'));
    for number in 1.. {
        let (old, new) = (old.next(), new.next());
        if old != new {
            return Some(format!("Line {number} is {old:?} and would be {new:?}"));
        }
        old?;
    }
    None
}
