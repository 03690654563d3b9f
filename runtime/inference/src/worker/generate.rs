//! Continuous batches for a decoder: rows join and leave between two tokens.
//!
//! ```text
//! loop: collect arrivals ─► free the rows whose callers left or are late
//!       ─► who joins (core::batch) ─► read their prompts, one by one
//!       ─► lay rows out anew, if somebody left or joined
//!       ─► one step: a token for every row ─► answer those that ended
//! ```
//!
//! Prompts are read one at a time on purpose: on a processor, reading does not get cheaper in a
//! batch, and a prompt read alone may begin with a cached prefix.

mod batcher;

use std::sync::Arc;

use async_trait::async_trait;
use colony_core::port::Clock;
use tokio::sync::watch;

use self::batcher::GenerateBatcher;
use super::{
    engine_loop::open_engine,
    engine_thread::{EngineThread, Start},
    pending::Caller,
    row::Row,
};
use crate::{
    batch_stats::BatchObserver,
    engine::{DecoderEngine, PromptTokens, TextCodec},
    error::InferenceError,
    generator::{GenerateRequest, Generated, Generator, GeneratorInfo},
    grammar::Grammars,
    limits::GenerateLimits,
    stats::{WorkerState, WorkerStats},
};

/// Answers many callers with one decoder. Dropping it closes it.
#[derive(Debug)]
pub struct GenerateWorker {
    info: GeneratorInfo,
    /// Longest prompt and answer together that this worker takes.
    tokens_max: usize,
    codec: Arc<dyn TextCodec>,
    grammars: Grammars,
    thread: EngineThread<Generation, Generated>,
}

/// What is to be generated.
struct Generation {
    prompt: PromptTokens,
    /// Longest answer, in tokens.
    tokens_max: usize,
    /// The answer before its first token; each try continues a copy.
    row: Row,
}

impl GenerateWorker {
    /// Opens an engine with `open`, and starts the thread that owns it and opens it again after a
    /// panic. Blocks while the model's files are read.
    ///
    /// # Errors
    /// That of `open`; [`InferenceError::Model`] when the limits are out of range, the engine
    /// cannot answer a probe, the model's vocabulary cannot be used for constrained answers, or the
    /// system gives no thread.
    pub fn start<E: DecoderEngine>(
        open: impl FnMut() -> Result<E, InferenceError> + Send + 'static,
        limits: &GenerateLimits,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn BatchObserver>,
    ) -> Result<Arc<Self>, InferenceError> {
        let mut open: Box<dyn FnMut() -> _ + Send> = Box::new(open);
        let engine: E = open_engine::<GenerateBatcher<E>>(&mut open)?;
        let info = engine.info();
        if let Some(what) = limits.problems().into_iter().next() {
            let model = info.model;
            return Err(InferenceError::Model { model, what });
        }
        let codec = engine.codec();
        let grammars = Grammars::new(&info.model, &codec, limits.schemas_max)?;
        let start = Start {
            model: info.model.clone(),
            engine,
            open,
            waiting_max: limits.waiting_max,
            clock,
            observer,
        };
        let thread = EngineThread::start(start, |shared| GenerateBatcher::new(shared, limits))?;
        Ok(Arc::new(Self {
            tokens_max: info.context_tokens_max.min(limits.cache_tokens_max),
            info,
            codec,
            grammars,
            thread,
        }))
    }

    /// Refuses new requests, answers all others with [`InferenceError::Closed`], and returns when
    /// the model call that runs has ended and the thread is gone. Blocks: not for async code,
    /// unless nothing else is left to run.
    pub fn close(&self) {
        self.thread.close();
    }

    /// Everything that can be refused or computed before the engine is needed.
    fn prepare(&self, request: GenerateRequest) -> Result<Generation, InferenceError> {
        let prompt = self.codec.prompt(&request.prompt)?;
        if prompt.tokens.is_empty() {
            return Err(InferenceError::Request {
                what: "a prompt without tokens".to_owned(),
            });
        }
        let tokens_max = usize::try_from(request.tokens_max).unwrap_or(usize::MAX);
        let tokens = prompt.tokens.len().saturating_add(tokens_max);
        if tokens > self.tokens_max {
            let (model, max) = (self.info.model.clone(), self.tokens_max);
            return Err(InferenceError::TooLong { model, tokens, max });
        }
        let matcher = request
            .schema
            .as_ref()
            .map(|it| self.grammars.matcher(it))
            .transpose()?;
        let row = Row::new(
            Arc::clone(&self.codec),
            matcher,
            request.sampling,
            request.stop,
            tokens_max,
        )
        .map_err(|what| InferenceError::Schema { what })?;
        Ok(Generation {
            prompt,
            tokens_max,
            row,
        })
    }
}

#[async_trait]
impl Generator for GenerateWorker {
    fn info(&self) -> GeneratorInfo {
        self.info.clone()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generated, InferenceError> {
        request.check()?;
        let caller = Caller {
            tenant: request.tenant.clone(),
            priority: request.priority,
            deadline: request.deadline,
            trace: request.trace,
        };
        self.thread.ask(caller, || self.prepare(request)).await
    }

    fn observe(&self) -> WorkerStats {
        self.thread.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.thread.shared.state.subscribe()
    }
}

#[cfg(test)]
mod tests;
