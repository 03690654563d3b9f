//! Names of things: tasks, agents, tenants, nodes. Newtypes, so that one cannot be taken for another.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::unit::Timestamp;

/// Longest tenant, type or node name, in bytes. Names are keys in every index of the ledger.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than [`NAME_BYTES_MAX`].
    #[error("name of {bytes} bytes is longer than {NAME_BYTES_MAX} bytes")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character outside `a-z 0-9 _ - .`, or a first character that is not a letter or digit.
    #[error(
        "name {name:?} may hold only a-z, 0-9, '_', '-' and '.', and starts with a letter or digit"
    )]
    Character {
        /// The refused name.
        name: String,
    },
}

fn checked(name: &str) -> Result<Arc<str>, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: name.len() });
    }
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !starts_well || !name.chars().all(legal) {
        return Err(NameError::Character {
            name: name.to_owned(),
        });
    }
    Ok(Arc::from(name))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Clones share their text, and are compared without looking at it: names are keys in every
        /// map of the node.
        #[derive(Clone, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) {
                    Ordering::Equal
                } else {
                    self.0.cmp(&other.0)
                }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] says which rule the name breaks.
            pub fn new(name: &str) -> Result<Self, NameError> {
                checked(name).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

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
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// Whose task it is. Every key in the ledger starts with it.
    Tenant
}
name! {
    /// The name of an agent type as declared in `colony.toml`, such as `triage`.
    TypeName
}
name! {
    /// Where a task waits for a claim: the name of the agent type that shall do it.
    QueueName
}
name! {
    /// The name of a node, unique in its cluster.
    NodeId
}

impl From<&TypeName> for QueueName {
    fn from(agent_type: &TypeName) -> Self {
        Self(Arc::clone(&agent_type.0))
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

macro_rules! uuid_v7 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A UUIDv7 from a time and 80 bits of chance; ids sort by time of creation.
            #[must_use]
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                let millis = now.as_micros() / 1_000;
                let mut bytes = [0; 16];
                bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
                bytes[6..].copy_from_slice(&random);
                bytes[6] = (bytes[6] & 0x0f) | 0x70;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                Self(Uuid::from_bytes(bytes))
            }

            /// The moment it was drawn, to the millisecond.
            #[must_use]
            pub fn drawn_at(self) -> Timestamp {
                let mut millis = [0; 8];
                millis[2..].copy_from_slice(&self.0.as_bytes()[..6]);
                Timestamp::from_micros(u64::from_be_bytes(millis).saturating_mul(1_000))
            }

            /// Reads the hyphenated form.
            ///
            /// # Errors
            /// The text is not a UUID.
            pub fn parse(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_v7! {
    /// One task, for ever.
    TaskId
}
uuid_v7! {
    /// One question put to a human.
    ApprovalId
}

/// The beginning of an id, as people write it: hexadecimal digits, with the hyphens of the whole id or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPrefix {
    first: Uuid,
    last: Uuid,
}

/// Why a text is no beginning of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdPrefixError {
    /// It names nothing.
    #[error("it is empty")]
    Empty,
    /// It holds something else than digits.
    #[error("{character:?} is no hexadecimal digit")]
    Character {
        /// The character.
        character: char,
    },
    /// It is longer than an id.
    #[error("it is longer than the 32 digits of an id")]
    TooLong,
}

impl IdPrefix {
    /// Reads it.
    ///
    /// # Errors
    /// [`IdPrefixError`].
    pub fn parse(text: &str) -> Result<Self, IdPrefixError> {
        let (mut bits, mut digits) = (0_u128, 0_u32);
        for character in text.chars().filter(|c| *c != '-') {
            let digit = character
                .to_digit(16)
                .ok_or(IdPrefixError::Character { character })?;
            if digits == 32 {
                return Err(IdPrefixError::TooLong);
            }
            bits = (bits << 4) | u128::from(digit);
            digits += 1;
        }
        if digits == 0 {
            return Err(IdPrefixError::Empty);
        }
        let open = 4 * (32 - digits);
        let first = bits << open;
        let last = first | ((1_u128 << open) - 1);
        Ok(Self {
            first: Uuid::from_u128(first),
            last: Uuid::from_u128(last),
        })
    }

    /// The lowest id that begins so.
    #[must_use]
    pub const fn first(&self) -> Uuid {
        self.first
    }

    /// The highest id that begins so.
    #[must_use]
    pub const fn last(&self) -> Uuid {
        self.last
    }

    /// Whether `id` begins so.
    #[must_use]
    pub fn begins(&self, id: Uuid) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// Names one request of a client, so that its repeat is known for what it is. Any UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl RequestId {
    /// From 128 bits of chance.
    #[must_use]
    pub const fn new(random: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(random))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One agent: its type and its number within the type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentId {
    /// The agent's type.
    pub agent_type: TypeName,
    /// Its number within the type, from 1.
    pub ordinal: u32,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent_type, self.ordinal)
    }
}

/// How often this node's data directory has been opened; tells the living node from its former self.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Raised by every claim; a writer that shows an old fence has lost its claim.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Fence(pub u64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_refuse_what_would_break_a_key() {
        assert_eq!(Tenant::new(""), Err(NameError::Empty));
        assert!(Tenant::new("acme-1.eu_west").is_ok());
        for bad in ["Acme", "a b", "a/b", "-a", "ä", "a\0"] {
            assert!(
                matches!(Tenant::new(bad), Err(NameError::Character { .. })),
                "{bad:?}"
            );
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(
            Tenant::new(&long),
            Err(NameError::TooLong {
                bytes: NAME_BYTES_MAX + 1
            })
        );
    }

    proptest! {
        #[test]
        fn an_id_tells_when_it_was_drawn(millis in 0..1_u64 << 48, random: [u8; 10]) {
            let at = Timestamp::from_micros(millis * 1_000);
            prop_assert_eq!(TaskId::new(at, random).drawn_at(), at);
        }

        #[test]
        fn a_prefix_begins_exactly_the_ids_that_are_written_so(id: u128, other: u128, length in 1_usize..=36) {
            let (id, other) = (Uuid::from_u128(id), Uuid::from_u128(other));
            let beginning = &id.to_string()[..length];
            let prefix = IdPrefix::parse(beginning).expect("the beginning of an id");
            prop_assert!(prefix.begins(id));
            prop_assert_eq!(prefix.begins(other), other.to_string().starts_with(beginning.trim_end_matches('-')));
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        assert_eq!(IdPrefix::parse(""), Err(IdPrefixError::Empty));
        assert_eq!(IdPrefix::parse("-"), Err(IdPrefixError::Empty));
        let character = 'x';
        assert_eq!(
            IdPrefix::parse("01x"),
            Err(IdPrefixError::Character { character })
        );
        assert_eq!(
            IdPrefix::parse(&"0".repeat(33)),
            Err(IdPrefixError::TooLong)
        );
    }

    #[test]
    fn task_ids_are_version_seven_and_sort_by_time() {
        let early = TaskId::new(Timestamp::from_micros(1_000_000), [255; 10]);
        let late = TaskId::new(Timestamp::from_micros(1_001_000), [0; 10]);
        assert!(early < late);
        assert_eq!(early.0.get_version_num(), 7);
    }
}
