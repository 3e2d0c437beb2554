//! Text from elsewhere, made fit to be shown and stored.

/// `text` with control characters (a file or a process may be named anything) replaced, and cut to `limit` characters, of
/// which the last is then an ellipsis.
pub fn printable(text: &str, limit: usize) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    if text.chars().count() <= limit {
        return text.chars().map(plain).collect();
    }
    text.chars().take(limit.saturating_sub(1)).map(plain).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::printable;

    #[test]
    fn control_characters_and_length_are_tamed() {
        for (text, expected) in [
            ("", ""),
            ("orders", "orders"),
            ("exactly8", "exactly8"),
            ("one more 9", "one mor…"),
            ("a\u{1b}[2J\n", "a\u{fffd}[2J\u{fffd}"),
        ] {
            assert_eq!(printable(text, 8), expected);
        }
    }

    proptest! {
        #[test]
        fn it_never_grows_and_never_holds_a_control_character(text: String, limit in 0_usize..50) {
            let shown = printable(&text, limit);
            prop_assert!(shown.chars().count() <= limit.max(1));
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
