//! A task: what is asked, where it stands, how it ended. What may become of it is decided in
//! [`crate::ledger`].

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Tenant, TypeName},
    unit::{Ratio, Timestamp},
};

/// Largest task input, in bytes of UTF-8. Larger work belongs in a store, with its address as input.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Most attributes a task may carry.
pub const ATTRIBUTES_MAX: usize = 32;
/// Longest attribute key or value, deduplication key, expected answer, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// How urgent a task is: 1 (background) to 10 (critical).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// Work that may wait for an idle moment.
    pub const BACKGROUND: Self = Self(1);
    /// Below the normal.
    pub const LOW: Self = Self(3);
    /// What a task has unless it says otherwise.
    pub const NORMAL: Self = Self(5);
    /// Above the normal.
    pub const HIGH: Self = Self(7);
    /// First of all.
    pub const CRITICAL: Self = Self(10);

    /// Takes a number from 1 to 10.
    ///
    /// # Errors
    /// [`PriorityError`] for any other number.
    pub fn new(value: u8) -> Result<Self, PriorityError> {
        if (1..=10).contains(&value) {
            Ok(Self(value))
        } else {
            Err(PriorityError { value })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl TryFrom<u8> for Priority {
    type Error = PriorityError;
    fn try_from(value: u8) -> Result<Self, PriorityError> {
        Self::new(value)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// A priority outside 1 to 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("priority {value} is not between 1 and 10")]
pub struct PriorityError {
    /// The refused number.
    pub value: u8,
}

/// The W3C trace context a task travels with: trace id, the span that submitted it, and whether it is
/// sampled. All zeros when the submitter is not traced and the colony did not sample the task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// 128-bit trace id.
    pub trace_id: u128,
    /// 64-bit id of the span that is the parent of everything done for the task.
    pub span_id: u64,
    /// Whether spans are recorded.
    pub sampled: bool,
}

/// What a submitter asks for. Never changes after it was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Whose task it is.
    pub tenant: Tenant,
    /// The agent type that shall do it.
    pub agent_type: TypeName,
    /// The text of the task.
    pub input: Arc<str>,
    /// Free keys and values that go along.
    pub attributes: BTreeMap<String, String>,
    /// How urgent it is.
    pub priority: Priority,
    /// After this moment it expires unless it has ended; none = never.
    pub deadline: Option<Timestamp>,
    /// The client's own key: a second submission with the same key returns the first task.
    pub dedupe_key: Option<String>,
    /// The right answer where the submitter knows it; verify compares with it.
    pub expected: Option<String>,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Spec {
    /// A plain task of the default tenant.
    #[must_use]
    pub fn new(agent_type: TypeName, input: impl Into<Arc<str>>) -> Self {
        Self {
            tenant: Tenant::default(),
            agent_type,
            input: input.into(),
            attributes: BTreeMap::new(),
            priority: Priority::default(),
            deadline: None,
            dedupe_key: None,
            expected: None,
            trace: TraceContext::default(),
        }
    }

    /// Same request, whatever the trace and the moment: what a deduplication key must agree on.
    #[must_use]
    pub fn same_payload(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && self.agent_type == other.agent_type
            && self.input == other.input
            && self.attributes == other.attributes
            && self.priority == other.priority
            && self.expected == other.expected
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written down and waiting for a claim.
    Ready,
    /// A node works on it.
    Claimed,
    /// Waits for somebody, such as a human; holds no agent.
    Waiting,
    /// Ended with an answer.
    Done,
    /// Ended by the agent's verdict that it cannot or must not be done.
    Failed,
    /// Ended by its submitter.
    Cancelled,
    /// Ended by its deadline.
    Expired,
    /// Ended because its attempts were exhausted, or because it cannot be read.
    Dead,
}

impl State {
    /// Every state, in the order a task may pass them.
    pub const ALL: [Self; 8] = [
        Self::Ready,
        Self::Claimed,
        Self::Waiting,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Dead,
    ];

    /// Whether nothing more will happen to the task.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Ready | Self::Claimed | Self::Waiting => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Expired | Self::Dead => true,
        }
    }

    /// Whether a task in this state can be made ready again.
    #[must_use]
    pub const fn is_revivable(self) -> bool {
        match self {
            Self::Dead | Self::Cancelled | Self::Expired => true,
            Self::Ready | Self::Claimed | Self::Waiting | Self::Done | Self::Failed => false,
        }
    }

    /// The name used on the wire, in logs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Claimed => "claimed",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| UnknownState {
                text: text.to_owned(),
            })
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no task state; use ready, claimed, waiting, done, failed, cancelled, expired or dead"
)]
pub struct UnknownState {
    /// The word.
    pub text: String,
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A rule without learning, such as echo.
    Rule,
    /// Similar solved episodes.
    Memory,
    /// A language model.
    Model,
    /// A person.
    Human,
}

impl Source {
    /// The name used in traces and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Memory => "memory",
            Self::Model => "model",
            Self::Human => "human",
        }
    }
}

/// What came out of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The answer itself: a label for triage, text for others.
    pub text: String,
    /// How sure the agent was.
    pub confidence: Ratio,
    /// Who or what gave it.
    pub source: Source,
    /// One line on why.
    pub reason: String,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With an answer.
    Done(Answer),
    /// Without one, and why.
    Failed {
        /// One line on why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("gone".parse::<State>().is_err());
    }
}
