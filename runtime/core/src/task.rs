//! A task: what is asked, where it stands, how it ended.
//!
//! ```text
//!            claim            park            decide
//!   ready ─────────► claimed ───────► parked ───────► ready
//!     ▲   ◄───────── │   │ │
//!     │ hand back /  │   │ └─ finish ─► done | failed
//!     └─ lost claim ─┘   └─ deliveries exhausted ─► dead
//!   ready, claimed, parked ── cancel ─► cancelled, ── deadline ─► expired
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{AgentId, Fence, TaskId, Tenant, TypeName},
    unit::{Share, Timestamp},
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
    /// Waits for a human; holds no agent.
    Parked,
    /// Ended with an answer.
    Done,
    /// Ended by the agent's verdict that it cannot or must not be done.
    Failed,
    /// Ended by its submitter.
    Cancelled,
    /// Ended by its deadline.
    Expired,
    /// Ended because its deliveries were used up.
    Dead,
}

impl State {
    /// Every state, in the order a task may pass them.
    pub const ALL: [Self; 8] = [
        Self::Ready,
        Self::Claimed,
        Self::Parked,
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
            Self::Ready | Self::Claimed | Self::Parked => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Expired | Self::Dead => true,
        }
    }

    /// The name used on the wire, in logs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Claimed => "claimed",
            Self::Parked => "parked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Dead => "dead",
        }
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot happen in this state; the caller has lost a race or has a bug.
    pub const fn after(self, event: Event) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Ready, Event::Claim) => Ok(Self::Claimed),
            (Self::Claimed, Event::HandBack | Event::Lose) | (Self::Parked, Event::Decide) => {
                Ok(Self::Ready)
            }
            (Self::Claimed, Event::Park) => Ok(Self::Parked),
            (Self::Claimed, Event::Complete) => Ok(Self::Done),
            (Self::Claimed, Event::Fail) => Ok(Self::Failed),
            (Self::Claimed, Event::Exhaust) => Ok(Self::Dead),
            (Self::Ready | Self::Claimed | Self::Parked, Event::Cancel) => Ok(Self::Cancelled),
            (Self::Ready | Self::Claimed | Self::Parked, Event::Expire) => Ok(Self::Expired),
            (from, event) => Err(Illegal { from, event }),
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
    "{text:?} is no task state; use ready, claimed, parked, done, failed, cancelled, expired or dead"
)]
pub struct UnknownState {
    /// The word.
    pub text: String,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A node takes it.
    Claim,
    /// The node gives it back untouched; not a delivery.
    HandBack,
    /// The node died or lost its lease.
    Lose,
    /// It waits for a human.
    Park,
    /// The human has decided.
    Decide,
    /// The agent has an answer.
    Complete,
    /// The agent's verdict is that it cannot be done.
    Fail,
    /// Deliveries are used up.
    Exhaust,
    /// The submitter takes it back.
    Cancel,
    /// Its deadline has passed.
    Expire,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a task that is {from}")]
pub struct Illegal {
    /// The state the task was in.
    pub from: State,
    /// What was tried.
    pub event: Event,
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

/// What came out of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The answer itself: a label for triage, text for others.
    pub text: String,
    /// How sure the agent was.
    pub confidence: Share,
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

impl Ending {
    /// The event this ending is.
    #[must_use]
    pub const fn event(&self) -> Event {
        match self {
            Self::Done(_) => Event::Complete,
            Self::Failed { .. } => Event::Fail,
        }
    }
}

/// A task as the book knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which task.
    pub id: TaskId,
    /// What was asked.
    pub spec: Arc<Spec>,
    /// Where it stands.
    pub state: State,
    /// Raised by every claim.
    pub fence: Fence,
    /// Claims that ended abnormally. Hand-backs, parks and normal ends do not count.
    pub deliveries: u32,
    /// The agent that has or had it last.
    pub agent: Option<AgentId>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// How it ended, for `done` and `failed`; a line of reason for the other endings.
    pub ending: Option<Ending>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 10] = [
        Event::Claim,
        Event::HandBack,
        Event::Lose,
        Event::Park,
        Event::Decide,
        Event::Complete,
        Event::Fail,
        Event::Exhaust,
        Event::Cancel,
        Event::Expire,
    ];

    #[test]
    fn nothing_happens_after_the_end() {
        for state in State::ALL.into_iter().filter(|s| s.is_final()) {
            for event in EVENTS {
                assert_eq!(state.after(event), Err(Illegal { from: state, event }));
            }
        }
    }

    #[test]
    fn every_live_state_can_be_left_and_reaches_an_end() {
        for state in State::ALL.into_iter().filter(|s| !s.is_final()) {
            assert_eq!(state.after(Event::Cancel), Ok(State::Cancelled));
        }
        let ended = State::Ready
            .after(Event::Claim)
            .and_then(|s| s.after(Event::Park))
            .and_then(|s| s.after(Event::Decide))
            .and_then(|s| s.after(Event::Claim))
            .and_then(|s| s.after(Event::Complete));
        assert_eq!(ended, Ok(State::Done));
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("gone".parse::<State>().is_err());
    }
}
