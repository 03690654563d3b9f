//! Why a model call gave no result.

use std::time::Duration;

/// A refusal or failure of a model call.
///
/// The caller may try again where [`InferenceError::is_retryable`] says so; the others repeat
/// themselves for the same request.
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
    /// The engine failed or panicked while it computed this request's batch.
    #[error("{model} failed: {what}")]
    Engine {
        /// The model asked for.
        model: String,
        /// What the engine said.
        what: String,
    },
    /// The worker has been shut, or gave up after repeated failures.
    #[error("the worker of {model} is shut")]
    Shut {
        /// The model asked for.
        model: String,
    },
}

impl InferenceError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Engine { .. } => true,
            Self::DeadlinePassed { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Schema { .. }
            | Self::Model { .. }
            | Self::Shut { .. } => false,
        }
    }

    /// How long to wait before another try, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after, .. } => Some(*retry_after),
            Self::Engine { .. }
            | Self::DeadlinePassed { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Schema { .. }
            | Self::Model { .. }
            | Self::Shut { .. } => None,
        }
    }
}
