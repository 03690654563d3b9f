//! Why the node did not do what it was asked: one type for every API.
//!
//! The gRPC status, later the HTTP status, and the exit code are made of it in one place each; the table
//! for gRPC is `gateway/status.rs`.

use std::time::Duration;

use colony_core::escalation::UnknownLabel;
use colony_inference::InferenceError;
use colony_store::LedgerError;

/// See the module.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    /// Too many submissions wait for the disk.
    #[error("{in_flight} submissions wait for the disk, the limit")]
    Busy {
        /// How many.
        in_flight: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// The node is stopping.
    #[error("the node is stopping and takes no tasks")]
    Draining,
    /// A component of the node has failed for good; the process is about to exit.
    #[error("the node has failed and is about to stop: {reason}")]
    Failed {
        /// Which component, and why.
        reason: String,
    },
    /// A component does not answer in time.
    #[error("{component} does not answer in time")]
    Silent {
        /// Which.
        component: &'static str,
    },
    /// Nothing can be learned from this task.
    #[error("nothing can be learned from this task: {why}")]
    NotLearnable {
        /// Why.
        why: String,
    },
    /// Memory does not know the label, and only a known one was to be taken.
    #[error(transparent)]
    UnknownLabel(#[from] UnknownLabel),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A model.
    #[error(transparent)]
    Model(#[from] InferenceError),
}
