//! Text that others have written and people will read.

use strsim::osa_distance;

/// Whether a terminal would obey `c`, or show nothing or something else than there is: control characters, those
/// that turn the direction of writing, and those that nobody sees. What joins letters and emojis is no such
/// character.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c,
            '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// The entry of `known` that `typed` is most likely meant to be: the nearest one, where at most a third of the
/// letters are missing, too many, wrong or swapped. Case does not count.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let distances = known.into_iter().map(|name| {
        let letters = name.to_lowercase();
        let limit = typed.chars().count().max(letters.chars().count()) / 3;
        (osa_distance(&typed, &letters), limit, name)
    });
    let near = distances.filter(|(distance, limit, _)| distance <= limit);
    near.min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_what_was_meant_and_another_word_nothing() {
        let known = ["hardware", "printing", "hr"];
        for (typed, meant) in [
            ("hardwear", Some("hardware")),
            ("Printing", Some("printing")),
            ("pritning", Some("printing")),
            ("rh", None),
            ("hardwrae", Some("hardware")),
            ("billing", None),
            ("it", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed:?}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn letters_of_all_writings_do_not_steer() {
        assert!("Grüße 漢字 שלום 👩\u{200d}💻".chars().all(|c| !steers(c)));
        for c in [
            '\u{1b}',
            '\n',
            '\u{202e}',
            '\u{2067}',
            '\u{200b}',
            '\u{e0041}',
        ] {
            assert!(steers(c), "{c:?}");
        }
    }
}
