//! Dynamic batches for an encoder: whatever waits when the engine is free rides together.
//!
//! Nobody waits for a batch to fill: while one batch is computed the next one gathers by itself.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use colony_core::{
    batch::{EncoderLimits, Turns, encode_next},
    port::Clock,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    answer_shut,
    intake::{Caller, Intake, Ticket},
    panic_text,
};
use crate::{
    embedder::{EmbedRequest, Embedded, Embedder, EmbedderInfo},
    engine::{EncoderEngine, TextTokenizer},
    error::InferenceError,
    limits::EmbedLimits,
    observe::{Counters, Observation},
    ride::{BatchKind, BatchObserver, BatchReport, Ride},
};

/// Answers many callers with one encoder. Dropping it shuts it.
pub struct EmbedWorker {
    info: EmbedderInfo,
    tokenizer: Arc<dyn TextTokenizer>,
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
    tokens: Vec<u32>,
    reply: oneshot::Sender<Result<Embedded, InferenceError>>,
}

impl EmbedWorker {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// [`InferenceError::Model`] when the limits are out of range or the system gives no thread.
    pub fn start<E: EncoderEngine>(
        engine: E,
        limits: &EmbedLimits,
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
        let shared = Arc::new(Shared {
            intake: Intake::new(info.model.clone(), limits.waiting_max),
            counters: Counters::default(),
        });
        let tokenizer = engine.tokenizer();
        let run = Run {
            engine,
            model: info.model.clone(),
            limits: limits.clone(),
            clock: Arc::clone(&clock),
            observer,
            shared: Arc::clone(&shared),
            turns: Turns::default(),
            batch: 0,
            panics: 0,
        };
        let thread = thread::Builder::new()
            .name(format!("embed-{}", info.model))
            .spawn(move || run.until_shut())
            .map_err(|error| failed(format!("no thread for the engine: {error}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self {
            info,
            tokenizer,
            clock,
            shared,
            thread,
        }))
    }

    /// Refuses new requests, answers those that wait with [`InferenceError::Shut`], and returns
    /// when the batch that runs has ended and the thread is gone. Blocks: not for async code,
    /// unless nothing else is left to run.
    pub fn shut(&self) {
        self.shared.intake.close();
        if let Some(thread) = self.thread.lock().take() {
            // It catches panics, and an observer's panic would have been reported by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for EmbedWorker {
    fn drop(&mut self) {
        self.shut();
    }
}

impl fmt::Debug for EmbedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedWorker")
            .field("info", &self.info)
            .finish_non_exhaustive()
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
        let Shared { intake, counters } = &*self.shared;
        let ticket = intake.admit(caller, self.clock.now(), counters)?;
        let tokens = self
            .tokenizer
            .tokens(&text)
            .map_err(|error| InferenceError::Request {
                what: error.to_string(),
            })?;
        let (reply, answer) = oneshot::channel();
        intake.push(Entry {
            ticket,
            tokens,
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

/// The engine thread's own state.
struct Run<E> {
    engine: E,
    model: String,
    limits: EmbedLimits,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn BatchObserver>,
    shared: Arc<Shared>,
    turns: Turns,
    /// Number of the last batch.
    batch: u64,
    /// Panics since the last batch that went well.
    panics: u32,
}

impl<E: EncoderEngine> Run<E> {
    fn until_shut(mut self) {
        let mut waiting: Vec<Entry> = Vec::new();
        loop {
            let idle = waiting.is_empty();
            let open = self.shared.intake.collect(&mut waiting, idle);
            if !open || self.panics >= self.limits.panics_max {
                break;
            }
            let batch = self.choose(&mut waiting);
            if !batch.is_empty() {
                self.compute(batch);
            }
        }
        self.shared.intake.close();
        self.shared.intake.collect(&mut waiting, false);
        for entry in waiting {
            answer_shut(&self.model, &self.shared.counters, entry.reply);
        }
    }

    /// Takes the next batch out of `waiting`, sorted by length, and answers those that are late.
    fn choose(&mut self, waiting: &mut Vec<Entry>) -> Vec<Entry> {
        let before = waiting.len();
        waiting.retain(|entry| !entry.reply.is_closed());
        let Shared { counters, .. } = &*self.shared;
        Counters::add(&counters.withdrawn, before - waiting.len());
        let now = self.clock.now();
        let law: Vec<_> = waiting
            .iter()
            .map(|it| it.ticket.waiting(it.tokens.len(), 0))
            .collect();
        let limits = EncoderLimits {
            rows_max: self.limits.batch_rows_max,
            tokens_max: self.limits.batch_tokens_max,
            ..EncoderLimits::default()
        };
        let plan = encode_next(&law, &mut self.turns, &limits, now);
        let mut entries: Vec<Option<Entry>> = mem::take(waiting).into_iter().map(Some).collect();
        for entry in plan
            .late
            .iter()
            .filter_map(|number| entries[*number].take())
        {
            Counters::add(&counters.late, 1);
            let late = entry.ticket.caller.late(now).unwrap_or_default();
            let model = self.model.clone();
            let _ = entry
                .reply
                .send(Err(InferenceError::DeadlinePassed { model, late }));
        }
        let batch = plan
            .run
            .iter()
            .filter_map(|number| entries[*number].take())
            .collect();
        waiting.extend(entries.into_iter().flatten());
        batch
    }

    fn compute(&mut self, batch: Vec<Entry>) {
        let rows: Vec<&[u32]> = batch.iter().map(|entry| entry.tokens.as_slice()).collect();
        let tokens = rows.iter().map(|row| row.len()).sum();
        let started_at = self.clock.now();
        // The engine is not used after a panic unless its next call goes well.
        let result = catch_unwind(AssertUnwindSafe(|| self.engine.encode(&rows)));
        let ended_at = self.clock.now();
        self.batch += 1;
        self.panics = if result.is_ok() { 0 } else { self.panics + 1 };
        let result = match result {
            Ok(Ok(vectors)) if vectors.len() == batch.len() => Ok(vectors),
            Ok(Ok(vectors)) => Err(format!(
                "{} vectors for {} texts",
                vectors.len(),
                batch.len()
            )),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => {
                Counters::add(&self.shared.counters.panics, 1);
                Err(format!("the engine panicked: {}", panic_text(&*panic)))
            }
        };
        let report = BatchReport {
            id: self.batch,
            model: self.model.clone(),
            kind: BatchKind::Embed,
            rows: batch.len(),
            tokens,
            started_at,
            computed: ended_at.since(started_at),
            links: batch
                .iter()
                .map(|it| it.ticket.caller.trace)
                .filter(|it| it.sampled)
                .collect(),
        };
        self.observer.batch_ran(&report);
        let Shared { intake, counters } = &*self.shared;
        Counters::add(&counters.batches, 1);
        Counters::add(&counters.rows, report.rows);
        Counters::add(&counters.prompt_tokens, tokens);
        let batch_size = u32::try_from(report.rows).unwrap_or(u32::MAX);
        let mut vectors = match result {
            Ok(vectors) => {
                Counters::add(&counters.answered, batch.len());
                vectors.into_iter().map(Ok).collect::<Vec<_>>()
            }
            Err(what) => {
                Counters::add(&counters.failed, batch.len());
                tracing::error!(model = %self.model, rows = report.rows, %what, "embedding failed");
                let model = self.model.clone();
                vec![Err(InferenceError::Engine { model, what }); batch.len()]
            }
        }
        .into_iter();
        for entry in batch {
            let ride = Ride {
                batch: self.batch,
                batch_size,
                queued: started_at.since(entry.ticket.admitted_at),
                computed: report.computed,
            };
            intake.note_pace(ride.queued + ride.computed);
            let tokens = u32::try_from(entry.tokens.len()).unwrap_or(u32::MAX);
            let answer = vectors.next().map(|it| {
                it.map(|vector| Embedded {
                    vector,
                    tokens,
                    ride,
                })
            });
            // The permit is given back before the caller wakes, so that it may ask again at once.
            drop(entry.ticket);
            let _ = entry.reply.send(answer.unwrap_or_else(|| {
                Err(InferenceError::Engine {
                    model: self.model.clone(),
                    what: "no row".into(),
                })
            }));
        }
    }
}

#[cfg(test)]
mod tests;
