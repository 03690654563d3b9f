//! The demo's stream: hand-written texts and filled templates, wrapped and misspelt as people do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde::Deserialize;

use super::{OUT_OF_SCOPE, Split, Ticket, parse};

/// Percent of the stream that is the test part, at its end.
const TEST_PERCENT: usize = 20;
/// Percent of the templates and hand-written texts that only the test part uses; about a fifth of its
/// tickets come from them.
const HELD_OUT_PERCENT: usize = 10;
/// Percent of tickets that are out of scope: few while learning, more in the test.
const OUT_OF_SCOPE_PERCENT: (usize, usize) = (5, 15);
/// Percent of tickets that ask for something risky.
const RISKY_PERCENT: usize = 3;
/// Tries to find a text that the stream does not hold yet.
const TRIES_MAX: usize = 40;

/// What `templates.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Templates {
    slots: BTreeMap<String, Vec<String>>,
    wrap: Wrap,
    intent: Vec<Intent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrap {
    openers: Vec<String>,
    closers: Vec<String>,
    urgency: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Intent {
    label: String,
    templates: Vec<String>,
    #[serde(default)]
    risky: Vec<String>,
}

static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    toml::from_str(include_str!("../../tickets/templates.toml")).expect("a test reads this file")
});
static HANDWRITTEN: LazyLock<Vec<Ticket>> =
    LazyLock::new(|| parse(include_bytes!("../../tickets/handwritten.jsonl")).tickets);

/// `count` tickets in which the last fifth are the test part; the same for the same `seed`.
///
/// Hand-written texts come once each, spread over the stream; filled templates make up the rest.
#[must_use]
pub fn stream(seed: u64, count: usize) -> Vec<Ticket> {
    let mut dice = Dice(seed);
    let test_count = count * TEST_PERCENT / 100;
    let mut deck = Deck::new(&mut dice);
    let mut tickets = deck.deal(Split::Train, count - test_count, &mut dice);
    tickets.extend(deck.deal(Split::Test, test_count, &mut dice));
    tickets
}

/// A text to make tickets of.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    label: &'a str,
    once: bool,
}

/// The sources of each split, and the texts made so far.
#[derive(Debug)]
struct Deck {
    /// By split; then in scope, out of scope, risky.
    sources: BTreeMap<(Split, Sort), Vec<Source<'static>>>,
    made: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    InScope,
    OutOfScope,
    Risky,
}

impl Deck {
    fn new(dice: &mut Dice) -> Self {
        let mut all: BTreeMap<Sort, Vec<Source<'static>>> = BTreeMap::new();
        let mut add = |text: &'static str, label: &'static str, risky: bool, once: bool| {
            let sort = match (risky, label == OUT_OF_SCOPE) {
                (true, _) => Sort::Risky,
                (false, true) => Sort::OutOfScope,
                (false, false) => Sort::InScope,
            };
            let source = Source { text, label, once };
            all.entry(sort).or_default().push(source);
        };
        for ticket in HANDWRITTEN.iter() {
            if let Some(label) = &ticket.label {
                add(&ticket.text, label, ticket.risky, true);
            }
        }
        for intent in &TEMPLATES.intent {
            for text in &intent.templates {
                add(text, &intent.label, false, false);
            }
            for text in &intent.risky {
                add(text, &intent.label, true, false);
            }
        }
        let mut sources = BTreeMap::new();
        for (sort, mut list) in all {
            dice.shuffle(&mut list);
            let held_out = list.len() * HELD_OUT_PERCENT / 100;
            let rest = list.split_off(held_out);
            list.extend(rest.iter().filter(|source| !source.once));
            sources.insert((Split::Test, sort), list);
            sources.insert((Split::Train, sort), rest);
        }
        Self {
            sources,
            made: BTreeSet::new(),
        }
    }

    fn deal(&mut self, split: Split, count: usize, dice: &mut Dice) -> Vec<Ticket> {
        let (train, test) = OUT_OF_SCOPE_PERCENT;
        let out_of_scope = if split == Split::Train { train } else { test };
        let mut sorts: Vec<Sort> = (0..count)
            .map(|i| match i * 100 / count {
                at if at < out_of_scope => Sort::OutOfScope,
                at if at < out_of_scope + RISKY_PERCENT => Sort::Risky,
                _ => Sort::InScope,
            })
            .collect();
        dice.shuffle(&mut sorts);
        sorts
            .into_iter()
            .map(|sort| self.draw(split, sort, dice))
            .collect()
    }

    /// A new ticket, or a repeated one when the sources give nothing new.
    fn draw(&mut self, split: Split, sort: Sort, dice: &mut Dice) -> Ticket {
        let sources = self.sources.entry((split, sort)).or_default();
        let mut tries = 0;
        loop {
            tries += 1;
            let at = dice.below(sources.len());
            let Some(&source) = sources.get(at) else {
                // No sources at all: the data files are empty, which a test rules out.
                return Ticket {
                    text: OUT_OF_SCOPE.to_owned(),
                    label: None,
                    split,
                    risky: false,
                };
            };
            let text = if source.once {
                source.text.to_owned()
            } else {
                spoken(&filled(source.text, dice), dice)
            };
            if self.made.insert(text.clone()) || tries >= TRIES_MAX {
                return Ticket {
                    text,
                    label: Some(source.label.to_owned()),
                    split,
                    risky: sort == Sort::Risky,
                };
            }
        }
    }
}

/// The template with each `{slot}` replaced by one of its words.
fn filled(template: &str, dice: &mut Dice) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let (slot, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(
            TEMPLATES
                .slots
                .get(slot)
                .map_or(slot, |words| dice.one_of(words)),
        );
        rest = after;
    }
    text.push_str(rest);
    text
}

/// The request as somebody would write it: greeting, haste, thanks, slips of the finger.
fn spoken(request: &str, dice: &mut Dice) -> String {
    let wrap = &TEMPLATES.wrap;
    let mut text = request.to_owned();
    if dice.percent(20) {
        text = misspelt(&text, dice);
    }
    if !dice.percent(30) {
        let mut letters = text.chars();
        text = letters.next().map_or_else(String::new, |first| {
            first.to_uppercase().chain(letters).collect()
        });
    }
    if dice.percent(50) && text.ends_with(char::is_alphanumeric) {
        text.push('.');
    }
    let mut parts = Vec::new();
    if dice.percent(35) {
        parts.push(dice.one_of(&wrap.openers));
    }
    parts.push(&text);
    if dice.percent(12) {
        parts.push(dice.one_of(&wrap.urgency));
    }
    if dice.percent(25) {
        parts.push(dice.one_of(&wrap.closers));
    }
    let text = parts.join(" ");
    if dice.percent(12) {
        text.to_lowercase()
    } else {
        text
    }
}

/// One longer word with two letters swapped, one dropped or one doubled.
fn misspelt(text: &str, dice: &mut Dice) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let long = |word: &String| word.len() > 4 && word.chars().all(|c| c.is_ascii_lowercase());
    let longer: Vec<usize> = (0..words.len())
        .filter(|&i| words.get(i).is_some_and(long))
        .collect();
    let Some(word) = longer
        .get(dice.below(longer.len()))
        .and_then(|&i| words.get_mut(i))
    else {
        return text.to_owned();
    };
    // ASCII, so bytes are letters; the first one stays.
    let at = 1 + dice.below(word.len() - 2);
    let letter = word.remove(at);
    match dice.below(3) {
        0 => word.insert(at + 1, letter),
        1 => {}
        _ => {
            word.insert(at, letter);
            word.insert(at, letter);
        }
    }
    words.join(" ")
}

/// SplitMix64: the same throws for the same seed, on every machine and in every version.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 when that is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.throw() % limit).unwrap_or(0)
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    fn one_of<'a>(&mut self, words: &'a [String]) -> &'a str {
        words
            .get(self.below(words.len()))
            .map_or("", String::as_str)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
