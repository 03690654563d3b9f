//! Where a signal is and what it is about: checked text.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest location or subject, in bytes: they are keys in memory and on the wire.
const BYTES_MAX: usize = 128;
/// Most levels of a location. Deeper trees were never read below their fourth level.
const DEPTH_MAX: usize = 8;

/// Why a location or subject was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Nothing, or nothing between two dots.
    #[error("{text:?} has an empty part")]
    Empty {
        /// The refused text.
        text: String,
    },
    /// Longer than 128 bytes.
    #[error("text of {bytes} bytes is longer than {BYTES_MAX} bytes")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// More than eight levels.
    #[error("location {text:?} has {depth} levels, the limit is {DEPTH_MAX}")]
    TooDeep {
        /// The refused text.
        text: String,
        /// Its levels.
        depth: usize,
    },
    /// In a location: not a-z, 0-9, `_`, `-`. In a subject: a control character.
    #[error("{text:?} holds {character:?}, which is not allowed here")]
    Character {
        /// The refused text.
        text: String,
        /// The offending character.
        character: char,
    },
}

/// A place in a hierarchy: `finance.reconciliation` lies in `finance`.
///
/// Sorts part by part, so that everything below a place follows it without a gap (as plain text,
/// `finance-x` would stand between `finance` and `finance.reconciliation`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(Arc<str>);

impl Location {
    /// Checks and takes a location: one to eight parts of a-z, 0-9, `_`, `-`, joined by dots.
    ///
    /// # Errors
    /// [`PlaceError`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, PlaceError> {
        if text.len() > BYTES_MAX {
            return Err(PlaceError::TooLong { bytes: text.len() });
        }
        let depth = text.split('.').count();
        if depth > DEPTH_MAX {
            let text = text.to_owned();
            return Err(PlaceError::TooDeep { text, depth });
        }
        if text.split('.').any(str::is_empty) {
            let text = text.to_owned();
            return Err(PlaceError::Empty { text });
        }
        let legal = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(*c);
        if let Some(character) = text.chars().find(|c| !legal(c)) {
            let text = text.to_owned();
            return Err(PlaceError::Character { text, character });
        }
        Ok(Self(Arc::from(text)))
    }

    /// The location as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this place or lies in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Ord for Location {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most cells that meet in a map lie in one place.
        if self.0 == other.0 {
            return Ordering::Equal;
        }
        self.0.split('.').cmp(other.0.split('.'))
    }
}

impl PartialOrd for Location {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a signal is about: an agent's id, a label, a tool's name. Any text without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks and takes a subject.
    ///
    /// # Errors
    /// [`PlaceError`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, PlaceError> {
        if text.is_empty() {
            let text = text.to_owned();
            return Err(PlaceError::Empty { text });
        }
        if text.len() > BYTES_MAX {
            return Err(PlaceError::TooLong { bytes: text.len() });
        }
        if let Some(character) = text.chars().find(|c| c.is_control()) {
            let text = text.to_owned();
            return Err(PlaceError::Character { text, character });
        }
        Ok(Self(Arc::from(text)))
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = PlaceError;
            fn try_from(text: String) -> Result<Self, PlaceError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

as_text!(Location);
as_text!(Subject);

impl Subject {
    /// Sorts before every checked subject: the start of a range.
    pub(super) fn first() -> Self {
        Self(Arc::from(""))
    }
}
