//! Why a model call gave no result.

use std::time::Duration;

/// A refusal or failure of a model call.
///
/// Three kinds, told apart by two methods:
///
/// | variants | [`is_infrastructure`] | [`is_retryable`] | the caller |
/// | --- | --- | --- | --- |
/// | `Full`, `Unavailable` | yes | yes | comes back, or asks another worker |
/// | `DeadlinePassed`, `Closed` | yes | no | asks another worker, or with a later deadline |
/// | `Engine` | no | yes | may try again; it is a failed attempt |
/// | the others | no | no | gives the request up |
///
/// [`is_infrastructure`]: InferenceError::is_infrastructure
/// [`is_retryable`]: InferenceError::is_retryable
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InferenceError {
    /// The worker's queue is full; nothing was done.
    #[error("{model} has {waiting} requests waiting, the limit is {limit}")]
    Full {
        /// The model asked for.
        model: String,
        /// Requests admitted and not answered.
        waiting: usize,
        /// The most that may be.
        limit: usize,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The request's deadline passed before it was answered.
    #[error("the deadline passed {late:?} ago, before {model} had answered")]
    DeadlinePassed {
        /// The model asked for.
        model: String,
        /// By how much.
        late: Duration,
    },
    /// The prompt with its answer does not fit into the model.
    #[error("{tokens} tokens of prompt and answer, {model} takes {max}")]
    TooLong {
        /// The model asked for.
        model: String,
        /// Prompt tokens plus the most tokens of answer that were asked for.
        tokens: usize,
        /// What fits.
        max: usize,
    },
    /// The request cannot be meant: an empty prompt, a temperature below zero.
    #[error("bad request: {what}")]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// The answer's schema cannot be used.
    #[error("bad answer schema: {what}")]
    Schema {
        /// What is wrong with it.
        what: String,
    },
    /// The model's files are missing, damaged, or of another kind.
    #[error("model {model}: {what}")]
    Model {
        /// The model's name or folder.
        model: String,
        /// What is wrong.
        what: String,
    },
    /// The engine returned an error for this request while it was alone in a call.
    #[error("{model} failed: {what}")]
    Engine {
        /// The model asked for.
        model: String,
        /// What the engine said.
        what: String,
    },
    /// The engine panicked over this request while it was alone in a call, and again after it
    /// had been opened anew. The worker does not try it again.
    #[error("{model} panics over this request: {what}")]
    Poisoned {
        /// The model asked for.
        model: String,
        /// What the panic said.
        what: String,
    },
    /// The engine is away: it panicked and could not be opened again yet.
    #[error("{model} is unavailable: {what}")]
    Unavailable {
        /// The model asked for.
        model: String,
        /// Why.
        what: String,
        /// When the engine is tried again.
        retry_after: Duration,
    },
    /// The worker has been closed.
    #[error("the worker of {model} is closed")]
    Closed {
        /// The model asked for.
        model: String,
    },
}

impl InferenceError {
    /// Whether the same request may succeed later at the same worker.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Unavailable { .. } | Self::Engine { .. } => true,
            Self::DeadlinePassed { .. }
            | Self::Closed { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Schema { .. }
            | Self::Model { .. }
            | Self::Poisoned { .. } => false,
        }
    }

    /// Whether the state of the worker is the reason, whatever was asked: such a refusal says
    /// nothing about the request.
    #[must_use]
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::Unavailable { .. }
            | Self::DeadlinePassed { .. }
            | Self::Closed { .. } => true,
            Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Schema { .. }
            | Self::Model { .. }
            | Self::Engine { .. }
            | Self::Poisoned { .. } => false,
        }
    }

    /// How long to wait before another try, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::Engine { .. }
            | Self::DeadlinePassed { .. }
            | Self::Closed { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Schema { .. }
            | Self::Model { .. }
            | Self::Poisoned { .. } => None,
        }
    }
}
