//! Dynamic batches for an encoder: whatever waits when the engine is free is one batch.
//!
//! Nobody waits for a batch to fill: while one batch is computed the next one gathers by itself.

use std::{marker::PhantomData, mem, sync::Arc};

use async_trait::async_trait;
use colony_core::{
    batch::{EncoderLimits, FairQueue, encode_next},
    port::Clock,
};
use tokio::sync::watch;

use super::{
    WARM_UP_TEXT,
    engine_loop::{guarded, open_engine},
    engine_thread::{Batcher, CallFailed, EngineThread, Shared, Start},
    pending::{Caller, Pending},
};
use crate::{
    batch_stats::{BatchKind, BatchObserver, BatchReport, BatchStats},
    embedder::{EmbedRequest, Embedded, Embedder, EmbedderInfo},
    engine::{EncoderEngine, EngineError, TextTokenizer},
    error::InferenceError,
    limits::EmbedLimits,
    stats::{Counters, WorkerState, WorkerStats},
};

/// Answers many callers with one encoder. Dropping it closes it.
#[derive(Debug)]
pub struct EmbedWorker {
    info: EmbedderInfo,
    tokenizer: Arc<dyn TextTokenizer>,
    thread: EngineThread<Vec<u32>, Embedded>,
}

impl EmbedWorker {
    /// Opens an engine with `open`, and starts the thread that owns it and opens it again after a
    /// panic. Blocks while the model's files are read.
    ///
    /// # Errors
    /// That of `open`; [`InferenceError::Model`] when the limits are out of range, the engine
    /// cannot answer a probe, or the system gives no thread.
    pub fn start<E: EncoderEngine>(
        open: impl FnMut() -> Result<E, InferenceError> + Send + 'static,
        limits: &EmbedLimits,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn BatchObserver>,
    ) -> Result<Arc<Self>, InferenceError> {
        let mut open: Box<dyn FnMut() -> _ + Send> = Box::new(open);
        let engine: E = open_engine::<EmbedBatcher<E>>(&mut open)?;
        let info = engine.info();
        if let Some(what) = limits.problems().into_iter().next() {
            let model = info.model;
            return Err(InferenceError::Model { model, what });
        }
        let tokenizer = engine.tokenizer();
        let start = Start {
            model: info.model.clone(),
            engine,
            open,
            waiting_max: limits.waiting_max,
            clock,
            observer,
        };
        let limits = EncoderLimits {
            rows_max: limits.batch_rows_max,
            tokens_max: limits.batch_tokens_max,
            ..EncoderLimits::default()
        };
        let thread = EngineThread::start(start, |shared| EmbedBatcher {
            shared,
            limits,
            fair_queue: FairQueue::default(),
            batch: 0,
            in_flight: Vec::new(),
            engine: PhantomData::<fn(E)>,
        })?;
        Ok(Arc::new(Self {
            info,
            tokenizer,
            thread,
        }))
    }

    /// Refuses new requests, answers those that wait with [`InferenceError::Closed`], and returns
    /// when the batch that runs has ended and the thread is gone. Blocks: not for async code,
    /// unless nothing else is left to run.
    pub fn close(&self) {
        self.thread.close();
    }
}

#[async_trait]
impl Embedder for EmbedWorker {
    fn info(&self) -> EmbedderInfo {
        self.info.clone()
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError> {
        let EmbedRequest {
            text,
            tenant,
            priority,
            deadline,
            trace,
        } = request;
        let caller = Caller {
            tenant,
            priority,
            deadline,
            trace,
        };
        let tokens = || {
            let refused = |error: EngineError| InferenceError::Request {
                what: error.to_string(),
            };
            self.tokenizer.tokens(&text).map_err(refused)
        };
        self.thread.ask(caller, tokens).await
    }

    fn observe(&self) -> WorkerStats {
        self.thread.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.thread.shared.state.subscribe()
    }
}

/// The engine thread's own state.
struct EmbedBatcher<E> {
    shared: Arc<Shared<Vec<u32>, Embedded>>,
    limits: EncoderLimits,
    fair_queue: FairQueue,
    /// Number of the last batch.
    batch: u64,
    /// The batch that is computed.
    in_flight: Vec<Pending<Vec<u32>, Embedded>>,
    engine: PhantomData<fn(E)>,
}

impl<E: EncoderEngine> Batcher for EmbedBatcher<E> {
    type Engine = E;
    type Work = Vec<u32>;
    type Answer = Embedded;

    fn warm_up(engine: &mut E) -> Result<(), InferenceError> {
        let tokens = engine.tokenizer().tokens(WARM_UP_TEXT);
        tokens
            .and_then(|tokens| engine.encode(&[&tokens]))
            .map(drop)
            .map_err(|error| InferenceError::Model {
                model: engine.info().model,
                what: format!("it answers no probe: {error}"),
            })
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn serve(
        &mut self,
        engine: &mut E,
        waiting: &mut Vec<Pending<Vec<u32>, Embedded>>,
    ) -> Result<(), CallFailed> {
        let (limits, fair_queue) = (&self.limits, &mut self.fair_queue);
        self.in_flight = self.shared.choose(
            waiting,
            |it| it.waiting(it.work.len(), 0),
            |waiting, now| encode_next(waiting, fair_queue, limits, now),
        );
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let Shared {
            counters, clock, ..
        } = &*self.shared;
        let rows: Vec<&[u32]> = self.in_flight.iter().map(|it| it.work.as_slice()).collect();
        let tokens = rows.iter().map(|row| row.len()).sum();
        let started_at = clock.now();
        let result = guarded(|| engine.encode(&rows));
        let computed = clock.now().since(started_at);
        self.batch += 1;
        Counters::add(&counters.batches, 1);
        Counters::add(&counters.rows, rows.len());
        Counters::add(&counters.prompt_tokens, tokens);
        self.shared.observer.batch_ran(&BatchReport {
            id: self.batch,
            model: self.shared.model.clone(),
            kind: BatchKind::Embed,
            rows: rows.len(),
            tokens,
            started_at,
            computed,
            links: self
                .in_flight
                .iter()
                .map(|it| it.caller.trace)
                .filter(|it| it.sampled)
                .collect(),
        });
        let vectors = result?;
        if vectors.len() != rows.len() {
            let what = format!("{} vectors for {} texts", vectors.len(), rows.len());
            return Err(CallFailed::error(what));
        }
        let batch_size = u32::try_from(vectors.len()).unwrap_or(u32::MAX);
        for (pending, vector) in mem::take(&mut self.in_flight).into_iter().zip(vectors) {
            let stats = BatchStats {
                batch: self.batch,
                batch_size,
                queued: started_at.since(pending.admitted_at),
                computed,
            };
            self.shared
                .queue
                .note_latency(stats.queued + stats.computed);
            let tokens = u32::try_from(pending.work.len()).unwrap_or(u32::MAX);
            let answer = Embedded {
                vector,
                tokens,
                stats,
            };
            self.shared.answer(pending, Ok(answer));
        }
        Ok(())
    }

    fn take_in_flight(&mut self) -> Vec<Pending<Vec<u32>, Embedded>> {
        mem::take(&mut self.in_flight)
    }
}

#[cfg(test)]
mod tests;
