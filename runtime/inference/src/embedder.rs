//! The API of embedding models: a text in, a vector out, many callers in one batch.
//!
//! Callers hold an `Arc<dyn Embedder>` and do not know which engine answers.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use colony_core::{
    id::Tenant,
    task::{Priority, TraceContext},
    unit::Timestamp,
};
use tokio::sync::watch;

use crate::{
    batch_stats::BatchStats,
    error::InferenceError,
    stats::{WorkerState, WorkerStats},
};

/// FairQueue texts into vectors.
#[async_trait]
pub trait Embedder: Send + Sync + fmt::Debug {
    /// What the model is.
    fn info(&self) -> EmbedderInfo;

    /// The vector of one text. Texts beyond [`EmbedderInfo::tokens_max`] are cut there.
    ///
    /// Cancel-safe: dropping the future cancels the request if its batch has not begun, and
    /// otherwise only loses the answer.
    ///
    /// # Errors
    /// [`InferenceError`]; `Full` at once when the queue has no place.
    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError>;

    /// Counters since the start, what waits now, and the state.
    fn observe(&self) -> WorkerStats;

    /// The state, and a wake-up when it changes.
    fn watch_state(&self) -> watch::Receiver<WorkerState>;

    /// The state at this moment; cheap.
    fn state(&self) -> WorkerState {
        self.watch_state().borrow().clone()
    }
}

/// What an embedding model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// Its name in colony.toml.
    pub model: String,
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Longest text that is read to its end, in tokens.
    pub tokens_max: usize,
}

/// One text to embed.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    /// The text.
    pub text: Arc<str>,
    /// On whose behalf; tenants share a full worker evenly.
    pub tenant: Tenant,
    /// How urgent.
    pub priority: Priority,
    /// After this moment nobody wants the answer.
    pub deadline: Option<Timestamp>,
    /// The span of the caller that the batch is linked to.
    pub trace: TraceContext,
}

impl EmbedRequest {
    /// A request of the default tenant at normal priority, without deadline or trace.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self {
            text: text.into(),
            tenant: Tenant::default(),
            priority: Priority::default(),
            deadline: None,
            trace: TraceContext::default(),
        }
    }
}

/// A text's vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// [`EmbedderInfo::dimensions`] numbers, of length one.
    pub vector: Arc<[f32]>,
    /// Tokens that were read.
    pub tokens: u32,
    /// How it was batched.
    pub stats: BatchStats,
}
