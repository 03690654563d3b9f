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

mod run;

use std::{
    fmt,
    sync::Arc,
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use colony_core::port::Clock;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::run::Run;
use super::{
    intake::{Caller, Intake, Ticket},
    row::Row,
};
use crate::{
    engine::{DecoderEngine, Language, PromptTokens},
    error::InferenceError,
    generator::{GenerateRequest, Generated, Generator, GeneratorInfo},
    guide::Guides,
    limits::GenerateLimits,
    observe::{Counters, Observation},
    ride::BatchObserver,
};

/// Answers many callers with one decoder. Dropping it shuts it.
pub struct GenerateWorker {
    info: GeneratorInfo,
    /// Longest prompt and answer together that this worker takes.
    tokens_max: usize,
    language: Arc<dyn Language>,
    guides: Guides,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    intake: Intake<Entry>,
    counters: Counters,
}

struct Entry {
    ticket: Ticket,
    prompt: PromptTokens,
    tokens_max: usize,
    row: Row,
    reply: oneshot::Sender<Result<Generated, InferenceError>>,
}

impl GenerateWorker {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// [`InferenceError::Model`] when the limits are out of range, the model's words cannot be
    /// used for constrained answers, or the system gives no thread.
    pub fn start<E: DecoderEngine>(
        engine: E,
        limits: &GenerateLimits,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn BatchObserver>,
    ) -> Result<Arc<Self>, InferenceError> {
        let info = engine.info();
        let failed = |what: String| InferenceError::Model {
            model: info.model.clone(),
            what,
        };
        if let Some(problem) = limits.problems().into_iter().next() {
            return Err(failed(problem));
        }
        let language = engine.language();
        let guides = Guides::new(&info.model, &language, limits.schemas_max)?;
        let shared = Arc::new(Shared {
            intake: Intake::new(info.model.clone(), limits.waiting_max),
            counters: Counters::default(),
        });
        let run = Run::new(
            engine,
            limits,
            Arc::clone(&clock),
            observer,
            Arc::clone(&shared),
        );
        let thread = thread::Builder::new()
            .name(format!("generate-{}", info.model))
            .spawn(move || run.until_shut())
            .map_err(|error| failed(format!("no thread for the engine: {error}")))?;
        let tokens_max = info.context_tokens_max.min(limits.cache_tokens_max);
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self {
            info,
            tokens_max,
            language,
            guides,
            clock,
            shared,
            thread,
        }))
    }

    /// Refuses new requests, answers all others with [`InferenceError::Shut`], and returns when
    /// the model call that runs has ended and the thread is gone. Blocks: not for async code,
    /// unless nothing else is left to run.
    pub fn shut(&self) {
        self.shared.intake.close();
        if let Some(thread) = self.thread.lock().take() {
            // It catches panics, and an observer's panic would have been reported by its thread.
            let _ = thread.join();
        }
    }

    /// Everything that can be refused or computed before the engine is needed.
    fn prepare(&self, request: &GenerateRequest) -> Result<(PromptTokens, Row), InferenceError> {
        let prompt = self.language.prompt(&request.prompt)?;
        if prompt.tokens.is_empty() {
            return Err(InferenceError::Request {
                what: "a prompt without tokens".to_owned(),
            });
        }
        let answer_max = usize::try_from(request.tokens_max).unwrap_or(usize::MAX);
        let tokens = prompt.tokens.len().saturating_add(answer_max);
        if tokens > self.tokens_max {
            let (model, max) = (self.info.model.clone(), self.tokens_max);
            return Err(InferenceError::TooLong { model, tokens, max });
        }
        let matcher = request
            .schema
            .as_ref()
            .map(|it| self.guides.matcher(it))
            .transpose()?;
        let row = Row::new(
            Arc::clone(&self.language),
            matcher,
            request.sampling,
            request.stop.clone(),
            answer_max,
        )
        .map_err(|what| InferenceError::Schema { what })?;
        Ok((prompt, row))
    }
}

impl Drop for GenerateWorker {
    fn drop(&mut self) {
        self.shut();
    }
}

impl fmt::Debug for GenerateWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateWorker")
            .field("info", &self.info)
            .finish_non_exhaustive()
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
        let Shared { intake, counters } = &*self.shared;
        let ticket = intake.admit(caller, self.clock.now(), counters)?;
        let (prompt, row) = self.prepare(&request)?;
        let tokens_max = usize::try_from(request.tokens_max).unwrap_or(usize::MAX);
        let (reply, answer) = oneshot::channel();
        intake.push(Entry {
            ticket,
            prompt,
            tokens_max,
            row,
            reply,
        })?;
        // A dropped sender means that the thread is gone.
        answer.await.unwrap_or_else(|_| {
            Err(InferenceError::Shut {
                model: self.info.model.clone(),
            })
        })
    }

    fn observe(&self) -> Observation {
        self.shared
            .counters
            .observe(&self.info.model, self.shared.intake.waiting())
    }
}

#[cfg(test)]
mod tests;
