//! Phrases that give harm away.
//!
//! A phrase is compared word by word; case, punctuation and spacing do not matter. `...` between two
//! words allows up to [`GAP_WORDS_MAX`] others there, `*` at the end of a word any ending:
//! `delet* ... database` finds "Please DELETE the whole production database". No regular expressions:
//! whoever writes a policy should be able to see what it catches. What this cannot do: understand. A risk
//! said in other words is found by nobody but the human.

use serde::{Deserialize, Serialize};

/// Most words that `...` stands for.
pub const GAP_WORDS_MAX: usize = 5;

/// One kind of harm and the phrases that give it away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Its name.
    pub name: String,
    /// The phrases.
    pub phrases: Vec<String>,
    /// One line for the human who decides.
    pub why: String,
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It would match nothing, or everything.
    #[error("pattern {name:?}: phrase {phrase:?} must begin and end with a word")]
    Phrase {
        /// The pattern's name.
        name: String,
        /// The phrase.
        phrase: String,
    },
    /// Nothing to match.
    #[error("pattern {name:?} has no phrases")]
    NoPhrases {
        /// The pattern's name.
        name: String,
    },
}

/// A pattern found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The pattern's name.
    pub name: &'a str,
    /// The pattern's line for the human.
    pub why: &'a str,
    /// The phrase that matched, as it was declared.
    pub phrase: &'a str,
}

/// All patterns, ready to match. In the order declared: the gravest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    patterns: Vec<(Pattern, Vec<Phrase>)>,
}

/// The words of a phrase.
type Phrase = Vec<Word>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    /// Any ending will do.
    open: bool,
    /// Other words may come before it.
    after_gap: bool,
}

impl Policy {
    /// Reads patterns.
    ///
    /// # Errors
    /// [`Error`] for the first phrase that makes no sense.
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, Error> {
        let patterns = patterns
            .into_iter()
            .map(|pattern| {
                let phrases = pattern
                    .phrases
                    .iter()
                    .map(|phrase| {
                        parse(phrase).ok_or_else(|| Error::Phrase {
                            name: pattern.name.clone(),
                            phrase: phrase.clone(),
                        })
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                if phrases.is_empty() {
                    return Err(Error::NoPhrases { name: pattern.name });
                }
                Ok((pattern, phrases))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// The patterns found in a text, each once, in the order declared.
    #[must_use]
    pub fn hits(&self, text: &str) -> Vec<Hit<'_>> {
        let text = words(text);
        self.patterns
            .iter()
            .filter_map(|(pattern, phrases)| {
                let found = phrases.iter().position(|phrase| occurs(phrase, &text))?;
                Some(Hit {
                    name: &pattern.name,
                    why: &pattern.why,
                    phrase: &pattern.phrases[found],
                })
            })
            .collect()
    }
}

/// Lower-case words: runs of letters and digits. An apostrophe inside a word is dropped, whichever of
/// its shapes was typed.
fn words(text: &str) -> Vec<String> {
    let text: String = text
        .chars()
        .filter(|c| !matches!(c, '\'' | '’' | '‘' | 'ʼ' | '＇'))
        .flat_map(char::to_lowercase)
        .collect();
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `None` for a phrase that does not begin and end with a word.
fn parse(phrase: &str) -> Option<Phrase> {
    let phrase = phrase.replace('…', "...");
    let mut parsed: Phrase = Vec::new();
    let mut after_gap = false;
    for token in phrase.replace("...", " ... ").split_whitespace() {
        if token == "..." {
            if parsed.is_empty() {
                return None;
            }
            after_gap = true;
            continue;
        }
        let open = token.ends_with('*');
        let mut texts = words(token).into_iter().peekable();
        while let Some(text) = texts.next() {
            let open = open && texts.peek().is_none();
            parsed.push(Word {
                text,
                open,
                after_gap,
            });
            after_gap = false;
        }
    }
    (!parsed.is_empty() && !after_gap).then_some(parsed)
}

fn occurs(phrase: &[Word], text: &[String]) -> bool {
    (0..text.len()).any(|start| continues(phrase, &text[start..]))
}

/// Whether `phrase` stands at the very start of `text`.
fn continues(phrase: &[Word], text: &[String]) -> bool {
    let (Some(word), Some(first)) = (phrase.first(), text.first()) else {
        return phrase.is_empty();
    };
    let matches = first == &word.text || (word.open && first.starts_with(&word.text));
    if !matches {
        return false;
    }
    let (phrase, text) = (&phrase[1..], &text[1..]);
    let gap = match phrase.first() {
        Some(next) if next.after_gap => GAP_WORDS_MAX.min(text.len()),
        Some(_) | None => 0,
    };
    (0..=gap).any(|skipped| continues(phrase, &text[skipped..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn policy(phrases: &[&str]) -> Result<Policy, Error> {
        Policy::new(vec![Pattern {
            name: "p".into(),
            phrases: phrases.iter().map(|&p| p.to_owned()).collect(),
            why: "w".into(),
        }])
    }

    fn matches(phrase: &str, text: &str) -> bool {
        !policy(&[phrase]).unwrap().hits(text).is_empty()
    }

    #[test]
    fn case_punctuation_and_spacing_do_not_matter() {
        assert!(matches("delete all", "Please DELETE,\n\t all of it"));
        assert!(matches("someone else's", "read someone else’s mail"));
        assert!(matches("someone else's", "read someone elses mail"));
        assert!(matches("wipe the", "wipe-the-disk"));
        assert!(matches("gehälter", "Alle GEHÄLTER zeigen"));
    }

    #[test]
    fn whole_words_in_order_are_needed() {
        assert!(!matches("delete all", "delete a ballad"));
        assert!(!matches("delete all", "all delete"));
        assert!(!matches("bypass", "bypasses"));
        assert!(matches("bypass*", "bypassing"));
        assert!(!matches("delete all", "delete nearly all"));
        assert!(!matches("delete all", ""));
    }

    #[test]
    fn gaps_stretch_but_not_for_ever() {
        let phrase = "delet* ... database";
        assert!(matches(phrase, "delete database"));
        assert!(matches(
            phrase,
            "we are deleting the whole of our production database now"
        ));
        assert!(!matches(
            phrase,
            "delete one two three four five six database"
        ));
        assert!(matches("a ... b ... c", "a a x b b x x c"));
        assert!(matches(phrase, "delete this; then delete a b c d database"));
    }

    #[test]
    fn each_pattern_is_reported_once_in_the_order_declared() {
        let pattern = |name: &str, phrases: &[&str]| Pattern {
            name: name.into(),
            phrases: phrases.iter().map(|&p| p.to_owned()).collect(),
            why: format!("{name}!"),
        };
        let policy = Policy::new(vec![
            pattern("destruction", &["wipe the", "drop the database"]),
            pattern("money", &["gift cards"]),
            pattern("other", &["never said"]),
        ]);
        let policy = policy.unwrap();
        let hits = policy.hits("buy gift cards, drop the database and wipe the disk");
        let found: Vec<_> = hits
            .iter()
            .map(|hit| (hit.name, hit.phrase, hit.why))
            .collect();
        let wipe = ("destruction", "wipe the", "destruction!");
        assert_eq!(found, [wipe, ("money", "gift cards", "money!")]);
    }

    #[test]
    fn phrases_that_make_no_sense_are_refused() {
        for bad in ["", "...", "... all", "delete ...", "!?", "*"] {
            assert!(
                matches!(policy(&[bad]), Err(Error::Phrase { .. })),
                "{bad:?}"
            );
        }
        assert!(matches!(policy(&[]), Err(Error::NoPhrases { .. })));
        assert!(policy(&["a...b", "a…b", "50%"]).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in any::<String>(), phrase in any::<String>()) {
            if let Ok(policy) = policy(&[&phrase]) {
                let _ = policy.hits(&text);
                if !phrase.contains(['*', '.', '…']) {
                    let around = format!("{text} {phrase} {text}");
                    prop_assert!(!policy.hits(&around).is_empty());
                }
            }
        }
    }
}
