//! A worker's state and figures, the same for tests, `colony status` and benches.

use std::sync::atomic::{AtomicU64, Ordering};

use colony_core::unit::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether a worker can answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Its engine is open.
    #[default]
    Ready,
    /// Its engine has panicked and is being opened again. Requests wait until an opening has
    /// failed; from then on they are refused as `Unavailable`.
    Reopening {
        /// When the engine was lost.
        since: Timestamp,
        /// Openings that failed since then. The pause before the next grows with them, to 30 s.
        failures: u32,
        /// What went wrong last.
        reason: String,
    },
    /// It was closed, or its thread has ended: it answers nothing any more.
    Closed,
}

/// Counters of one worker since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// The model.
    pub model: String,
    /// Whether the worker can answer.
    pub state: WorkerState,
    /// Requests admitted and not yet answered.
    pub waiting: u64,
    /// Requests admitted.
    pub requests: u64,
    /// Requests answered well.
    pub answered: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Requests whose deadline passed.
    pub late: u64,
    /// Requests whose caller went away.
    pub cancelled: u64,
    /// Requests that ended with another error: the engine's, or since it was away or closed.
    pub failed: u64,
    /// Those among them that made the engine panic while they were alone with it.
    pub poisoned: u64,
    /// Batched model calls: encoder calls, or decode steps (prefills are not among them).
    pub batches: u64,
    /// Rows of all these calls together.
    pub rows: u64,
    /// Tokens of texts and prompts, cached prefixes not counted.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from the prefix cache.
    pub prefix_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Panics of the engine, or around it, that were caught.
    pub panics: u64,
}

impl WorkerStats {
    /// Mean rows a batched model call; 0 before the first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean for display")]
    pub fn mean_batch_size(&self) -> f64 {
        if self.batches == 0 {
            0.0
        } else {
            self.rows as f64 / self.batches as f64
        }
    }
}

/// The counters behind an [`WorkerStats`]; relaxed, since nothing is decided by them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) poisoned: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) prefix_tokens: AtomicU64,
    pub(crate) completion_tokens: AtomicU64,
    pub(crate) panics: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn observe(&self, model: &str, waiting: usize, state: WorkerState) -> WorkerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            model: model.to_owned(),
            state,
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            requests: get(&self.requests),
            answered: get(&self.answered),
            refused: get(&self.refused),
            late: get(&self.late),
            cancelled: get(&self.cancelled),
            failed: get(&self.failed),
            poisoned: get(&self.poisoned),
            batches: get(&self.batches),
            rows: get(&self.rows),
            prompt_tokens: get(&self.prompt_tokens),
            prefix_tokens: get(&self.prefix_tokens),
            completion_tokens: get(&self.completion_tokens),
            panics: get(&self.panics),
        }
    }
}
