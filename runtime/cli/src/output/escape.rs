//! Foreign text made fit for a terminal.
//!
//! Task texts, labels, names of files and settings may hold anything. A control character could move the cursor or
//! forge a line, one that turns the direction of writing could show another text than there is. The functions here
//! replace both by visible escapes; whatever this program prints goes through one of them.

use std::fmt::Write as _;

use colony_core::text::steers;

/// Text for one line: line breaks become `⏎`, tabs spaces, and what steers a terminal an escape.
pub(crate) fn clean(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push('⏎'),
            '\t' => safe.push(' '),
            _ if steers(c) => {
                // Writing to a String cannot fail.
                let _ = write!(safe, "{}", c.escape_unicode());
            }
            _ => safe.push(c),
        }
    }
    safe
}

/// Text of several lines: as [`clean`], but for the line breaks.
pub(crate) fn clean_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(clean).collect();
    lines.join("\n")
}

/// A JSON text that says the same. In JSON such characters occur inside strings only, where they have escapes.
pub(crate) fn clean_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// [`clean`] text, cut to at most `chars_max` characters.
pub(crate) fn clean_within(chars_max: usize, text: &str) -> String {
    let safe = clean(text);
    match safe.char_indices().nth(chars_max) {
        None => safe,
        Some(_) => {
            let mut cut: String = safe.chars().take(chars_max.saturating_sub(1)).collect();
            cut.push('…');
            cut
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(clean("one\ntwo"), "one⏎two");
        assert_eq!(clean("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(clean("c1 \u{9b}2J"), "c1 \\u{9b}2J");
        assert_eq!(clean("Grüße 🐜"), "Grüße 🐜");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let cut = clean_within(60, &"ü".repeat(200));
        assert_eq!(cut.chars().count(), 60);
        assert!(cut.ends_with('…'));
        assert_eq!(clean_within(60, "short"), "short");
    }

    /// Any text, with what steers a terminal far more often than chance would have it.
    fn text() -> impl Strategy<Value = String> {
        let steering = prop::sample::select(vec![
            '\0', '\u{7}', '\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{61c}',
            '\u{200f}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{2069}',
        ]);
        let any = prop_oneof![any::<char>(), steering];
        prop::collection::vec(any, 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text in text()) {
            prop_assert!(!clean(&text).contains(steers));
            prop_assert!(!clean_lines(&text).replace('\n', "").contains(steers));
            prop_assert_eq!(clean_lines(&text).lines().count(), text.split('\n').count()
                - usize::from(text.is_empty() || text.ends_with('\n')));
            prop_assert!(!clean_within(10, &text).contains(steers));
            prop_assert!(clean_within(10, &text).chars().count() <= 10);
        }

        #[test]
        fn json_says_the_same(text in text()) {
            let value = serde_json::json!({ &text: [&text] });
            let safe = clean_json(&value.to_string());
            prop_assert!(!safe.contains(steers));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("still JSON"), value);
        }
    }
}
