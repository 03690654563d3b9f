//! What is told about a batch: to each request in it, and once to an observer.

use std::{fmt, time::Duration};

use colony_core::{task::TraceContext, unit::Timestamp};

/// How one request was batched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// The batch, as in [`BatchReport::id`]: for a generation the last one it was in.
    pub batch: u64,
    /// Rows in that batch; for a generation the mean over its tokens, rounded.
    pub batch_size: u32,
    /// From admission to the beginning of its first batch.
    pub queued: Duration,
    /// From there to the answer.
    pub computed: Duration,
}

/// What a batch was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchKind {
    /// Texts to vectors, one model call.
    Embed,
    /// A prompt (or a prompt's shared beginning) read into the cache, one model call.
    Prefill,
    /// Decoding with the same rows: one model call a token.
    Decode,
}

impl BatchKind {
    /// The name in traces and figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for BatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One batch that ran, for a span with links to the spans of its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchReport {
    /// Counted from 1 in each worker.
    pub id: u64,
    /// The model.
    pub model: String,
    /// What it was for.
    pub kind: BatchKind,
    /// Requests in it.
    pub rows: usize,
    /// Tokens read (embed, prefill) or written (decode).
    pub tokens: usize,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub computed: Duration,
    /// The requests' spans, as they were handed in; those without a sampled trace are left out.
    pub links: Vec<TraceContext>,
}

/// Is told of every batch, on the engine's thread: it must be quick and must not block.
pub trait BatchObserver: Send + Sync + fmt::Debug {
    /// A batch ended, well or badly.
    fn batch_ran(&self, report: &BatchReport);
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl BatchObserver for NoObserver {
    fn batch_ran(&self, _report: &BatchReport) {}
}
