//! Text from elsewhere, made fit to be shown and stored.

/// `text` with replaced what would change how the text around it is shown (a file or a process may be named anything), and cut
/// to `limit` characters, of which the last is then an ellipsis.
pub fn printable(text: &str, limit: usize) -> String {
    let plain = |c: char| if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER };
    if text.chars().count() <= limit {
        return text.chars().map(plain).collect();
    }
    text.chars().take(limit.saturating_sub(1)).map(plain).chain(['…']).collect()
}

/// As [`printable`], but `limit` counts bytes of UTF-8, as some fields of Kubernetes do. Cut at the end of a character.
pub fn printable_bytes(text: &str, limit: usize) -> String {
    const ELLIPSIS: char = '…';
    let shown = printable(text, limit);
    if shown.len() <= limit {
        return shown;
    }
    let end = shown.floor_char_boundary(limit.saturating_sub(ELLIPSIS.len_utf8()));
    shown[..end].chars().chain([ELLIPSIS]).collect()
}

/// Whether it is shown where it stands and changes nothing else: no control character, no line or paragraph separator, nothing
/// that is invisible, nothing that turns the direction of writing (Unicode Standard Annex 9, section 2).
fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let hides = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    !(c.is_control() || turns || separates || hides)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_plain, printable, printable_bytes};

    #[test]
    fn control_characters_and_length_are_tamed() {
        for (text, expected) in [
            ("", ""),
            ("orders", "orders"),
            ("exactly8", "exactly8"),
            ("one more 9", "one mor…"),
            ("a\u{1b}[2J\n", "a\u{fffd}[2J\u{fffd}"),
            ("a\u{202e}b\u{2028}c\u{200b}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("für 数据 🎉", "für 数据 🎉"),
        ] {
            assert_eq!(printable(text, 8), expected);
        }
    }

    #[test]
    fn a_limit_in_bytes_is_kept_and_no_character_is_cut_in_two() {
        for (text, expected) in [
            ("", ""),
            ("exactly 8", "exact…"),
            ("8 bytes.", "8 bytes."),
            ("数据", "数据"),
            ("数据库", "数…"),
            ("ab数据", "ab数据"),
        ] {
            assert_eq!(printable_bytes(text, 8), expected);
        }
        // What replaces a control character is longer than it.
        assert_eq!(printable_bytes("\u{1}\u{1}\u{1}", 8), "\u{fffd}…");
    }

    proptest! {
        #[test]
        fn bytes_never_exceed_their_limit(text: String, limit in 3_usize..50) {
            prop_assert!(printable_bytes(&text, limit).len() <= limit);
        }

        #[test]
        fn it_never_grows_and_never_holds_a_control_character(text: String, limit in 0_usize..50) {
            let shown = printable(&text, limit);
            prop_assert!(shown.chars().count() <= limit.max(1));
            prop_assert!(!shown.chars().any(char::is_control));
            // What is harmless and fits stays as it is.
            for (before, after) in text.chars().zip(shown.chars()).take(limit.saturating_sub(1)) {
                prop_assert!(after == before || !is_plain(before));
            }
        }
    }
}
