//! Words that give harm away when they stand together.
//!
//! ```text
//!   [[delete, drop, wipe], [production, live], [database*, db]] within 10
//!
//!   "Please DROP the old live-databases"      each group has a phrase in the text, whole words in any case;
//!           └─────────┬────────┘              the window from the first to the last word is 10 words at most
//!                    found
//! ```
//! A word is a run of letters and digits, so punctuation and ends of sentences are no obstacle: `two-factor`
//! is two words, and so is `colleague's`. `*` at the end of a word is any ending. Groups may come in any
//! order and share words. No regular expressions: whoever writes patterns should be able to see what it
//! catches. Letters that look alike are the same (`risk/look.rs`). What phrases cannot do: understand. A risk said in
//! other words is left to [`similarity`], and beyond that to the human.

mod look;
pub mod similarity;

use std::{collections::BTreeMap, fmt, iter};

use serde::{Deserialize, Serialize};

/// Words that a window has where the pattern does not say: most of a sentence.
pub const WITHIN_DEFAULT: u32 = 8;
/// Most words that a window may have: farther apart, words do not belong together.
pub const WITHIN_MAX: u32 = 100;
/// Most characters of a text that a [`Hit`] repeats: half a line, as a question needs room for more.
const FOUND_CHARS_MAX: usize = 100;

/// One kind of harm and the words that give it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Its name, unique among them.
    pub name: String,
    /// One line for the human who decides: what the harm would be.
    pub why: String,
    /// Groups of phrases: of each group one phrase must occur.
    pub all: Vec<Vec<String>>,
    /// Most words from the first to the last word found, both counted. 1 to [`WITHIN_MAX`].
    #[serde(default = "within_default")]
    pub within: u32,
}

const fn within_default() -> u32 {
    WITHIN_DEFAULT
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody could speak of it.
    #[error("pattern number {number} has no name; give it one that says what the harm is")]
    NoName {
        /// Its place in the list, from 1.
        number: usize,
    },
    /// Nobody could tell them apart.
    #[error("pattern {name:?} is there twice; rename one, or join their groups")]
    Twice {
        /// The pattern's name.
        name: String,
    },
    /// The human would not know what the question is about.
    #[error("pattern {name:?} has no why; write one line for the human who decides")]
    NoWhy {
        /// The pattern's name.
        name: String,
    },
    /// The window is empty, or too wide to mean anything.
    #[error("pattern {name:?}: within = {within} is not between 1 and {WITHIN_MAX} words")]
    Within {
        /// The pattern's name.
        name: String,
        /// The words declared.
        within: u32,
    },
    /// Every text would match.
    #[error("pattern {name:?} has no groups; write at least one, like all = [[\"delete all\"]]")]
    NoGroups {
        /// The pattern's name.
        name: String,
    },
    /// No text could match.
    #[error("pattern {name:?}: group {group} has no phrases; write one, or take the group out")]
    NoPhrases {
        /// The pattern's name.
        name: String,
        /// The group's place, from 1.
        group: usize,
    },
    /// No letter and no digit.
    #[error("pattern {name:?}: phrase {phrase:?} has no words; write at least one letter or digit")]
    NoWords {
        /// The pattern's name.
        name: String,
        /// The phrase.
        phrase: String,
    },
    /// A star where it means nothing.
    #[error(
        "pattern {name:?}: phrase {phrase:?} has a `*` that is not at the end of a word; write it like `delet*`"
    )]
    Star {
        /// The pattern's name.
        name: String,
        /// The phrase.
        phrase: String,
    },
    /// Dots where other words were meant to be.
    #[error(
        "pattern {name:?}: phrase {phrase:?} has dots for other words; make each side a group of its own, \
         like all = [[\"delete\"], [\"database\"]]"
    )]
    Dots {
        /// The pattern's name.
        name: String,
        /// The phrase.
        phrase: String,
    },
    /// The phrase never fits into the window.
    #[error(
        "pattern {name:?}: phrase {phrase:?} has {words} words, more than within = {within}; shorten it or \
         raise within"
    )]
    Long {
        /// The pattern's name.
        name: String,
        /// The phrase.
        phrase: String,
        /// How many words it has.
        words: usize,
        /// The words of the window.
        within: u32,
    },
}

/// A pattern found in a text. Displayed as a human should read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The pattern's name.
    pub name: &'a str,
    /// The pattern's line for the human.
    pub why: &'a str,
    /// What was found, as it stands in the text, `…` for what is between: `Delete … production database`.
    pub found: String,
}

impl fmt::Display for Hit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.why, self.found)
    }
}

/// All patterns, ready to match. In the order declared: the gravest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    /// By the first letter of their last word: what may have come to its end at a word of a text.
    phrases: BTreeMap<char, Vec<Phrase>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Phrase {
    /// The places of its pattern and of its group.
    pattern: usize,
    group: usize,
    words: Vec<Word>,
}

/// A word of a phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    /// Any ending will do.
    open: bool,
}

/// A word of a text: what it looks like, and the bytes it was made of.
#[derive(Debug)]
struct Spoken {
    text: String,
    from: usize,
    to: usize,
}

/// Words of a text from `first` to `last`.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: usize,
    last: usize,
}

/// Everything wrong with a list of patterns: (place of the pattern in the list, from 0; what is wrong).
#[must_use]
pub fn problems(patterns: &[Pattern]) -> Vec<(usize, Error)> {
    let mut found = Vec::new();
    for (at, pattern) in patterns.iter().enumerate() {
        if patterns[..at].iter().any(|p| p.name == pattern.name) && !pattern.name.is_empty() {
            let name = pattern.name.clone();
            found.push((at, Error::Twice { name }));
        }
        found.extend(iter::repeat(at).zip(pattern.problems(at + 1)));
    }
    found
}

impl Pattern {
    fn problems(&self, number: usize) -> Vec<Error> {
        let mut found = Vec::new();
        if self.name.trim().is_empty() {
            found.push(Error::NoName { number });
        }
        let name = || self.name.clone();
        if self.why.trim().is_empty() {
            found.push(Error::NoWhy { name: name() });
        }
        let within = self.within;
        if !(1..=WITHIN_MAX).contains(&within) {
            let name = name();
            found.push(Error::Within { name, within });
        }
        if self.all.is_empty() {
            found.push(Error::NoGroups { name: name() });
        }
        for (group, phrases) in iter::zip(1.., &self.all) {
            if phrases.is_empty() {
                let name = name();
                found.push(Error::NoPhrases { name, group });
            }
            let refused = phrases.iter().filter_map(|p| parse(self, p).err());
            found.extend(refused);
        }
        found
    }
}

impl Patterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// The first of their [`problems`].
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, Error> {
        if let Some((_, error)) = problems(&patterns).into_iter().next() {
            return Err(error);
        }
        let mut phrases: BTreeMap<char, Vec<Phrase>> = BTreeMap::new();
        for (at, pattern) in patterns.iter().enumerate() {
            for (group, declared) in pattern.all.iter().enumerate() {
                for phrase in declared {
                    let words = parse(pattern, phrase)?;
                    let Some(letter) = words.last().and_then(|w| w.text.chars().next()) else {
                        continue;
                    };
                    let phrase = Phrase {
                        pattern: at,
                        group,
                        words,
                    };
                    phrases.entry(letter).or_default().push(phrase);
                }
            }
        }
        Ok(Self { patterns, phrases })
    }

    /// The patterns found in a text, each once, in the order declared. Of a pattern that is found in several
    /// places, the one that ends first counts.
    ///
    /// Takes time in proportion to the text, whatever it says: one walk over its words, which remembers for
    /// each group the latest start among the phrases that have come to their end. The pattern is found when
    /// the earliest of these starts is near enough to the word where the walk stands.
    #[must_use]
    pub fn hits(&self, text: &str) -> Vec<Hit<'_>> {
        let words = words(text);
        let mut ended: Vec<Vec<Option<Stretch>>> = self
            .patterns
            .iter()
            .map(|pattern| vec![None; pattern.all.len()])
            .collect();
        let mut hits: BTreeMap<usize, Hit<'_>> = BTreeMap::new();
        for (last, word) in words.iter().enumerate() {
            let candidates = word.text.chars().next().and_then(|c| self.phrases.get(&c));
            for phrase in candidates.into_iter().flatten() {
                if hits.contains_key(&phrase.pattern) || !phrase.ends(&words[..=last]) {
                    continue;
                }
                let first = last + 1 - phrase.words.len();
                let (pattern, groups) =
                    (&self.patterns[phrase.pattern], &mut ended[phrase.pattern]);
                let group = &mut groups[phrase.group];
                if group.is_none_or(|earlier| earlier.first <= first) {
                    *group = Some(Stretch { first, last });
                }
                let near = |s: &Stretch| last - s.first < pattern.within as usize;
                if groups.iter().all(|group| group.as_ref().is_some_and(near)) {
                    let hit = Hit {
                        name: &pattern.name,
                        why: &pattern.why,
                        found: quote(text, &words, groups.iter().flatten().copied().collect()),
                    };
                    hits.insert(phrase.pattern, hit);
                }
            }
        }
        hits.into_values().collect()
    }
}

impl Phrase {
    /// Whether the phrase is the end of `text`.
    fn ends(&self, text: &[Spoken]) -> bool {
        let Some(start) = text.len().checked_sub(self.words.len()) else {
            return false;
        };
        // From the back: its last word is the one that was looked up.
        iter::zip(&self.words, &text[start..])
            .rev()
            .all(|(word, spoken)| word.is(&spoken.text))
    }
}

impl Word {
    fn is(&self, spoken: &str) -> bool {
        spoken == self.text || (self.open && spoken.starts_with(&self.text))
    }
}

/// Letters and digits. U+02BC is a letter to Unicode, and an apostrophe to everybody who types it.
fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() && c != '\u{2bc}'
}

/// The words of a text.
fn words(text: &str) -> Vec<Spoken> {
    let mut words = Vec::new();
    let mut open: Option<Spoken> = None;
    for (at, c) in text.char_indices() {
        if look::is_unseen(c) {
            if let Some(word) = &mut open {
                word.to = at + c.len_utf8();
            }
            continue;
        }
        if !is_part_of_word(c) {
            words.extend(open.take());
            continue;
        }
        let word = open.get_or_insert_with(|| Spoken {
            text: String::new(),
            from: at,
            to: at,
        });
        look::push(&mut word.text, c);
        word.to = at + c.len_utf8();
    }
    words.extend(open);
    words
}

/// The words of a phrase; at least one.
fn parse(pattern: &Pattern, phrase: &str) -> Result<Vec<Word>, Error> {
    let (name, said) = (|| pattern.name.clone(), || phrase.to_owned());
    if phrase.contains("...") || phrase.contains('…') {
        let (name, phrase) = (name(), said());
        return Err(Error::Dots { name, phrase });
    }
    let mut stars = phrase.matches('*').count();
    let mut parsed = Vec::new();
    for word in words(phrase) {
        let mut after = phrase[word.to..].chars();
        let open = after.next() == Some('*') && !after.next().is_some_and(is_part_of_word);
        stars -= usize::from(open);
        let text = word.text;
        parsed.push(Word { text, open });
    }
    if parsed.is_empty() {
        let (name, phrase) = (name(), said());
        return Err(Error::NoWords { name, phrase });
    }
    if stars > 0 {
        let (name, phrase) = (name(), said());
        return Err(Error::Star { name, phrase });
    }
    if parsed.len() > pattern.within as usize {
        return Err(Error::Long {
            name: name(),
            phrase: said(),
            words: parsed.len(),
            within: pattern.within,
        });
    }
    Ok(parsed)
}

/// The stretches in the order of the text, joined where they touch.
fn quote(text: &str, words: &[Spoken], mut stretches: Vec<Stretch>) -> String {
    stretches.sort_by_key(|stretch| (stretch.first, stretch.last));
    let mut joined: Vec<Stretch> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(before) if stretch.first <= before.last + 1 => {
                before.last = before.last.max(stretch.last);
            }
            Some(_) | None => joined.push(stretch),
        }
    }
    let pieces: Vec<&str> = joined
        .iter()
        .map(|stretch| &text[words[stretch.first].from..words[stretch.last].to])
        .collect();
    let quoted = pieces.join(" … ");
    match quoted.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &quoted[..end]),
        None => quoted,
    }
}

#[cfg(test)]
mod tests;
