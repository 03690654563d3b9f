//! The rules of admission: what is taken in, and what is refused with which words.
//!
//! Called by the gateway before anything is written. A refusal is final: the same submission will be
//! refused again. Every rule has a code that never changes its meaning. That the colony is full is for
//! the ledger to say, which counts live tasks in the same transaction.
//!
//! | code | refused |
//! |---|---|
//! | CLY0001 | an input without any visible character |
//! | CLY0002 | an input that is too long |
//! | CLY0003 | an agent type that is not declared |
//! | CLY0004 | a deadline that has passed |
//! | CLY0005 | too many attributes |
//! | CLY0006 | a key or value that is too long |
//! | CLY0007 | a key or answer that is empty |
//! | CLY0008 | a key or answer with a control character |
//! | CLY0009 | too many tasks in one batch |
//!
//! The input and attribute values may be any Unicode text: control characters, NUL, unpaired direction
//! marks, emoji. They are data; agents normalise what they read. Keys, which people read in lists and
//! logs, may not hold control characters. Invalid UTF-8 never gets here: the type excludes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::TypeName,
    task::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, INPUT_BYTES_MAX, Spec},
    unit::Timestamp,
};

/// What is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest input, in bytes.
    pub input_bytes_max: usize,
    /// Most attributes of a task.
    pub attributes_max: usize,
    /// Longest attribute key or value, deduplication key or expected answer, in bytes.
    pub attribute_bytes_max: usize,
    /// Most submissions that wait for the disk at once.
    pub submits_in_flight_max: usize,
    /// Most tasks of one batch.
    pub batch_tasks_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            input_bytes_max: INPUT_BYTES_MAX,
            attributes_max: ATTRIBUTES_MAX,
            attribute_bytes_max: ATTRIBUTE_BYTES_MAX,
            // Group commit takes them all with a few syncs.
            submits_in_flight_max: 1_024,
            // One transaction of some megabytes at most.
            batch_tasks_max: 1_000,
        }
    }
}

/// Why a submission was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// CLY0001.
    #[error("input of {bytes} bytes has no visible character")]
    Blank {
        /// Its length.
        bytes: usize,
    },
    /// CLY0002.
    #[error("input of {bytes} bytes is longer than {limit} bytes")]
    InputTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// CLY0003.
    #[error("agent type {name:?} is not declared")]
    UnknownType {
        /// What was asked for.
        name: TypeName,
    },
    /// CLY0004.
    #[error("deadline passed {ago:?} ago")]
    DeadlinePassed {
        /// How long ago.
        ago: Duration,
    },
    /// CLY0005.
    #[error("{count} attributes are more than {limit}")]
    TooManyAttributes {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// CLY0006.
    #[error("{part} of {bytes} bytes is longer than {limit} bytes")]
    TooLong {
        /// What.
        part: Part,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// CLY0007.
    #[error("{part} is empty")]
    Empty {
        /// What.
        part: Part,
    },
    /// CLY0008.
    #[error("{part} holds the control character {character:?}")]
    Control {
        /// What.
        part: Part,
        /// The character.
        character: char,
    },
    /// CLY0009.
    #[error("batch of {count} tasks is larger than {limit} tasks")]
    BatchTooLarge {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

/// A part of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A key among the attributes.
    AttributeKey,
    /// The value of the attribute with this key.
    AttributeValue(String),
    /// The deduplication key.
    DedupeKey,
    /// The expected answer.
    Expected,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AttributeKey => f.write_str("attribute key"),
            Self::AttributeValue(key) => write!(f, "value of attribute {key:?}"),
            Self::DedupeKey => f.write_str("deduplication key"),
            Self::Expected => f.write_str("expected answer"),
        }
    }
}

impl Refusal {
    /// The stable code of the rule.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Blank { .. } => "CLY0001",
            Self::InputTooLong { .. } => "CLY0002",
            Self::UnknownType { .. } => "CLY0003",
            Self::DeadlinePassed { .. } => "CLY0004",
            Self::TooManyAttributes { .. } => "CLY0005",
            Self::TooLong { .. } => "CLY0006",
            Self::Empty { .. } => "CLY0007",
            Self::Control { .. } => "CLY0008",
            Self::BatchTooLarge { .. } => "CLY0009",
        }
    }
}

impl Limits {
    /// Checks one task. `is_declared` says whether an agent type exists.
    ///
    /// # Errors
    /// The first [`Refusal`], in the order of the fields of [`Spec`].
    pub fn admit(
        &self,
        spec: &Spec,
        now: Timestamp,
        is_declared: impl Fn(&TypeName) -> bool,
    ) -> Result<(), Refusal> {
        if !is_declared(&spec.agent_type) {
            let name = spec.agent_type.clone();
            return Err(Refusal::UnknownType { name });
        }
        self.admit_input(&spec.input)?;
        self.admit_attributes(spec)?;
        if let Some(deadline) = spec.deadline.filter(|deadline| *deadline <= now) {
            let ago = now.since(deadline);
            return Err(Refusal::DeadlinePassed { ago });
        }
        if let Some(key) = &spec.dedupe_key {
            self.admit_key(Part::DedupeKey, key)?;
        }
        if let Some(expected) = &spec.expected {
            self.admit_key(Part::Expected, expected)?;
        }
        Ok(())
    }

    /// Checks the size of a batch; its tasks are checked one by one.
    ///
    /// # Errors
    /// [`Refusal::BatchTooLarge`].
    pub const fn admit_batch(&self, count: usize) -> Result<(), Refusal> {
        let limit = self.batch_tasks_max;
        if count > limit {
            return Err(Refusal::BatchTooLarge { count, limit });
        }
        Ok(())
    }

    fn admit_input(&self, input: &str) -> Result<(), Refusal> {
        let (bytes, limit) = (input.len(), self.input_bytes_max);
        // First: looking for a visible character in something endless takes long.
        if bytes > limit {
            return Err(Refusal::InputTooLong { bytes, limit });
        }
        if input.chars().all(is_invisible) {
            return Err(Refusal::Blank { bytes });
        }
        Ok(())
    }

    fn admit_attributes(&self, spec: &Spec) -> Result<(), Refusal> {
        let (count, limit) = (spec.attributes.len(), self.attributes_max);
        if count > limit {
            return Err(Refusal::TooManyAttributes { count, limit });
        }
        for (key, value) in &spec.attributes {
            self.admit_key(Part::AttributeKey, key)?;
            self.admit_length(|| Part::AttributeValue(key.clone()), value)?;
        }
        Ok(())
    }

    fn admit_key(&self, part: Part, text: &str) -> Result<(), Refusal> {
        self.admit_length(|| part.clone(), text)?;
        if text.chars().all(is_invisible) && !text.chars().any(char::is_control) {
            return Err(Refusal::Empty { part });
        }
        match text.chars().find(|c| c.is_control()) {
            Some(character) => Err(Refusal::Control { part, character }),
            None => Ok(()),
        }
    }

    fn admit_length(&self, part: impl Fn() -> Part, text: &str) -> Result<(), Refusal> {
        let (bytes, limit) = (text.len(), self.attribute_bytes_max);
        if bytes > limit {
            let part = part();
            return Err(Refusal::TooLong { part, bytes, limit });
        }
        Ok(())
    }
}

/// Whether a reader would see nothing: spaces, control characters (NUL among them), and the marks of
/// zero width that remain when text is copied from elsewhere.
fn is_invisible(c: char) -> bool {
    let zero_width = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
    );
    c.is_whitespace() || c.is_control() || zero_width
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn spec(input: &str) -> Spec {
        Spec::new(TypeName::new("triage").unwrap(), input)
    }

    fn admit(spec: &Spec) -> Result<(), Refusal> {
        Limits::default().admit(spec, NOW, |name| name.as_str() == "triage")
    }

    #[test]
    fn blank_inputs_are_refused_and_odd_ones_are_not() {
        for blank in [
            "",
            " \n\t",
            "\0",
            "\u{feff}",
            "\u{200b}\u{a0}\u{3000}",
            "\u{1b}\u{7f}",
        ] {
            assert!(
                matches!(admit(&spec(blank)), Err(Refusal::Blank { .. })),
                "{blank:?}"
            );
        }
        let zalgo = "Z\u{351}\u{32b}\u{343}";
        for odd in [
            "0",
            "'; DROP TABLE tasks; --",
            "\0a",
            "\u{202e}abc",
            zalgo,
            "👩‍👩‍👧",
            "﷽",
            "../..",
        ] {
            assert_eq!(admit(&spec(odd)), Ok(()), "{odd:?}");
        }
        let long = "ä".repeat(INPUT_BYTES_MAX / 2 + 1);
        let refused = admit(&spec(&long)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "input of 65538 bytes is longer than 65536 bytes"
        );
    }

    #[test]
    fn every_rule_has_a_code_of_its_own_and_says_what_is_wrong() {
        let with = |change: &dyn Fn(&mut Spec)| {
            let mut spec = spec("help");
            change(&mut spec);
            admit(&spec).unwrap_err()
        };
        let long = "x".repeat(1_025);
        let refusals = [
            admit(&spec("")).unwrap_err(),
            admit(&spec(&"x".repeat(INPUT_BYTES_MAX + 1))).unwrap_err(),
            with(&|s| s.agent_type = TypeName::new("poet").unwrap()),
            with(&|s| s.deadline = Some(NOW)),
            with(&|s| s.attributes = (0..33).map(|i| (i.to_string(), String::new())).collect()),
            with(&|s| s.attributes = [("k".to_owned(), long.clone())].into()),
            with(&|s| s.dedupe_key = Some(String::new())),
            with(&|s| s.expected = Some("a\0b".to_owned())),
            Limits::default().admit_batch(1_001).unwrap_err(),
        ];
        let codes: BTreeSet<_> = refusals.iter().map(Refusal::code).collect();
        assert_eq!(codes.len(), refusals.len());
        assert_eq!(codes.last(), Some(&"CLY0009"));
        let texts: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(texts[2], "agent type \"poet\" is not declared");
        assert_eq!(
            texts[5],
            "value of attribute \"k\" of 1025 bytes is longer than 1024 bytes"
        );
        assert_eq!(
            texts[7],
            "expected answer holds the control character '\\0'"
        );
    }

    #[test]
    fn the_limits_themselves_are_let_in() {
        let mut spec = spec(&"x".repeat(INPUT_BYTES_MAX));
        let value = "v".repeat(ATTRIBUTE_BYTES_MAX);
        spec.attributes = (0..32).map(|i| (i.to_string(), value.clone())).collect();
        spec.deadline = Some(NOW.after(Duration::from_micros(1)));
        spec.dedupe_key = Some("order-☂-17".to_owned());
        assert_eq!(admit(&spec), Ok(()));
        assert_eq!(Limits::default().admit_batch(1_000), Ok(()));
    }

    proptest! {
        #[test]
        fn any_text_is_let_in_or_blank(input in any::<String>(), tail in proptest::char::any()) {
            let admitted = admit(&spec(&format!("{input}{tail}")));
            let blank = matches!(admitted, Err(Refusal::Blank { .. }));
            prop_assert!(admitted.is_ok() || blank);
            let with_letter = format!("{input}x");
            prop_assert_eq!(admit(&spec(&with_letter)), Ok(()));
        }
    }
}
