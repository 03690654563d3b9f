//! The decoder's side of an engine thread.

use std::{mem, sync::Arc};

use colony_core::{
    batch::{CallFailure, DecoderLimits, FairQueue, Running, decode_next},
    task::TraceContext,
    unit::Timestamp,
};

use super::Generation;
use crate::{
    batch_stats::{BatchKind, BatchReport, BatchStats},
    engine::{DecoderEngine, EngineError},
    error::InferenceError,
    generator::Generated,
    limits::GenerateLimits,
    stats::Counters,
    worker::{
        WARM_UP_TEXT,
        engine_loop::guarded,
        engine_thread::{Batcher, CallFailed, Shared},
        pending::Pending,
        prefix_cache::PrefixCache,
        row::Row,
    },
};

type Request = Pending<Generation, Generated>;

pub(super) struct GenerateBatcher<E: DecoderEngine> {
    shared: Arc<Shared<Generation, Generated>>,
    limits: DecoderLimits,
    prefix_tokens_min: usize,
    fair_queue: FairQueue,
    prefix_cache: PrefixCache<E::Cache>,
    /// In the engine's order; those with a cache of their own are still to join it.
    rows: Vec<RunningRow<E::Cache>>,
    /// The running rows since the last change among them.
    segment: Option<DecodeSegment>,
    /// Number of the last batch.
    batch: u64,
    logits: Vec<f32>,
}

struct RunningRow<C> {
    request: Request,
    row: Row,
    /// Its prompt as read, until it joins the others in the engine.
    cache: Option<C>,
    began_at: Timestamp,
    /// The last batch it was in.
    batch: u64,
    /// Decode steps so far, and the rows in all of them, for the mean.
    steps: usize,
    batch_size_sum: usize,
    /// Why it cannot go on, if so.
    failure: Option<String>,
}

/// A [`BatchKind::Decode`] batch on its way.
struct DecodeSegment {
    id: u64,
    started_at: Timestamp,
    tokens: usize,
}

impl<E: DecoderEngine> Batcher for GenerateBatcher<E> {
    type Engine = E;
    type Work = Generation;
    type Answer = Generated;

    fn warm_up(engine: &mut E) -> Result<(), InferenceError> {
        let tokens = engine.codec().text_tokens(WARM_UP_TEXT);
        engine
            .prefill(None, &tokens, &mut Vec::new())
            .map(drop)
            .map_err(|error| InferenceError::Model {
                model: engine.info().model,
                what: format!("it answers no probe: {error}"),
            })
    }

    fn is_idle(&self) -> bool {
        self.rows.is_empty()
    }

    fn serve(&mut self, engine: &mut E, waiting: &mut Vec<Request>) -> Result<(), CallFailed> {
        let before = self.rows.len();
        let keep = self.sweep();
        self.join(engine, waiting)?;
        if keep.len() < before || self.rows.len() > keep.len() {
            self.regroup(engine, &keep)?;
        }
        if !self.rows.is_empty() {
            self.step(engine)?;
        }
        Ok(())
    }

    fn take_in_flight(&mut self) -> Vec<Request> {
        self.segment = None;
        self.prefix_cache.clear();
        self.rows.drain(..).map(|row| row.request).collect()
    }
}

impl<E: DecoderEngine> GenerateBatcher<E> {
    pub(super) fn new(shared: Arc<Shared<Generation, Generated>>, limits: &GenerateLimits) -> Self {
        Self {
            shared,
            limits: DecoderLimits {
                rows_max: limits.rows_max,
                cache_tokens_max: limits.cache_tokens_max,
                prefill_tokens_max: limits.prefill_tokens_max,
            },
            prefix_tokens_min: limits.prefix_tokens_min,
            fair_queue: FairQueue::default(),
            prefix_cache: PrefixCache::new(limits.prefixes_max, limits.prefix_cache_tokens_max),
            rows: Vec::new(),
            segment: None,
            batch: 0,
            logits: Vec::new(),
        }
    }

    /// Lets the rows go that have ended, whose callers went away or whose deadline has passed.
    /// Returns the former numbers of those that stay.
    fn sweep(&mut self) -> Vec<usize> {
        let now = self.shared.clock.now();
        let stays = |row: &RunningRow<E::Cache>| {
            !row.is_done() && !row.request.is_cancelled() && row.request.caller.late(now).is_none()
        };
        let rows = &self.rows;
        let keep: Vec<usize> = (0..rows.len())
            .filter(|number| stays(&rows[*number]))
            .collect();
        if keep.len() < rows.len() {
            self.end_segment();
            let (stay, leave): (Vec<_>, Vec<_>) =
                mem::take(&mut self.rows).into_iter().partition(stays);
            self.rows = stay;
            leave.into_iter().for_each(|row| self.settle(row, now));
        }
        keep
    }

    /// Chooses who joins now and reads their prompts.
    fn join(&mut self, engine: &mut E, waiting: &mut Vec<Request>) -> Result<(), CallFailed> {
        let size = |it: &Request| (it.work.prompt.tokens.len(), it.work.tokens_max);
        let running = Running {
            rows: self.rows.len(),
            cache_tokens: self
                .rows
                .iter()
                .map(|row| size(&row.request))
                .map(|(prompt, answer)| prompt + answer)
                .sum(),
            alone: self.rows.iter().any(|row| row.request.is_alone()),
        };
        let (limits, fair_queue) = (&self.limits, &mut self.fair_queue);
        let mut chosen = self
            .shared
            .choose(
                waiting,
                |it| {
                    let (prompt, answer) = size(it);
                    it.waiting(prompt, answer)
                },
                |waiting, now| decode_next(waiting, running, fair_queue, limits, now),
            )
            .into_iter();
        while let Some(request) = chosen.next() {
            if let Err(failed) = self.begin(engine, request) {
                // They were not in the call.
                waiting.splice(0..0, chosen);
                return Err(failed);
            }
        }
        Ok(())
    }

    /// Reads one prompt; its row joins the others unless its answer is complete with that.
    fn begin(&mut self, engine: &mut E, request: Request) -> Result<(), CallFailed> {
        self.rows
            .push(RunningRow::new(request, self.shared.clock.now()));
        let read = self.read_prompt(engine);
        let Some(row) = self.rows.last_mut() else {
            return read;
        };
        match read {
            Ok(()) => {}
            // The others are not touched by it.
            Err(CallFailed {
                failure: CallFailure::Error,
                what,
            }) => row.failure = Some(what),
            Err(failed) => return Err(failed),
        }
        if row.is_done()
            && let Some(row) = self.rows.pop()
        {
            self.settle(row, self.shared.clock.now());
        }
        Ok(())
    }

    /// Reads the last row's prompt, its shared beginning apart, and what the schema forces after
    /// it, and writes the token after that.
    fn read_prompt(&mut self, engine: &mut E) -> Result<(), CallFailed> {
        let Self {
            rows,
            prefix_cache,
            logits,
            ..
        } = self;
        // A schema may allow one answer only: then the model is not asked.
        let Some(row) = rows.last_mut().filter(|row| !row.is_done()) else {
            return Ok(());
        };
        let started_at = self.shared.clock.now();
        let forced = row.row.take_unread();
        let prompt = &row.request.work.prompt;
        let is_shared = prompt.shared >= self.prefix_tokens_min
            && prompt.shared < prompt.tokens.len()
            && prefix_cache.keeps(prompt.shared);
        let (shared, own) = prompt
            .tokens
            .split_at(if is_shared { prompt.shared } else { 0 });
        let own = [own, &forced].concat();
        let known = if !shared.is_empty() && prefix_cache.find(shared).is_some() {
            shared.len()
        } else {
            0
        };
        let result = guarded(|| {
            if known < shared.len() {
                let cache = engine.prefill(None, shared, logits)?;
                prefix_cache.keep(shared, cache);
            }
            let before = if shared.is_empty() {
                None
            } else {
                prefix_cache.find(shared)
            };
            let cache = engine.prefill(before, &own, logits)?;
            Ok((cache, row.row.advance(logits)))
        });
        let tokens = shared.len() - known + own.len();
        Counters::add(&self.shared.counters.prompt_tokens, tokens - forced.len());
        Counters::add(&self.shared.counters.prefix_tokens, known);
        self.batch += 1;
        row.batch = self.batch;
        let result = result.map(|(cache, advanced)| {
            row.cache = Some(cache);
            row.failure = advanced.err();
        });
        let trace = row.request.caller.trace;
        let links = Some(trace).filter(|it| it.sampled).into_iter().collect();
        self.report(self.batch, BatchKind::Prefill, 1, tokens, started_at, links);
        result
    }

    /// Tells the engine who runs from now on.
    fn regroup(&mut self, engine: &mut E, keep: &[usize]) -> Result<(), CallFailed> {
        self.end_segment();
        let caches = self.rows.iter_mut().filter_map(|row| row.cache.take());
        let caches = caches.collect();
        let result = guarded(|| engine.regroup(keep, caches));
        result.map_err(|failed| self.fail(engine, failed))
    }

    /// A token for every row.
    fn step(&mut self, engine: &mut E) -> Result<(), CallFailed> {
        let count = self.rows.len();
        if self.segment.is_none() {
            self.batch += 1;
            self.segment = Some(DecodeSegment {
                id: self.batch,
                started_at: self.shared.clock.now(),
                tokens: 0,
            });
        }
        Counters::add(&self.shared.counters.batches, 1);
        Counters::add(&self.shared.counters.rows, count);
        if let Some(segment) = &mut self.segment {
            segment.tokens += count;
        }
        let result = self.step_rows(engine);
        result.map_err(|failed| self.fail(engine, failed))
    }

    fn step_rows(&mut self, engine: &mut E) -> Result<(), CallFailed> {
        let count = self.rows.len();
        let (rows, logits) = (&mut self.rows, &mut self.logits);
        let next: Option<Vec<u32>> = rows.iter_mut().map(|row| row.row.next_unread()).collect();
        let tokens =
            next.ok_or_else(|| CallFailed::error("a row has no token to read".to_owned()))?;
        let batch = self.batch;
        guarded(|| {
            engine.step(&tokens, logits)?;
            let width = logits.len() / count;
            if width == 0 || width * count != logits.len() {
                let what = format!("{} scores for {count} rows", logits.len());
                return Err(EngineError(what));
            }
            for (row, logits) in rows.iter_mut().zip(logits.chunks_exact(width)) {
                row.batch = batch;
                (row.steps, row.batch_size_sum) = (row.steps + 1, row.batch_size_sum + count);
                row.failure = row.row.advance(logits).err();
            }
            Ok(())
        })
    }

    /// The rows are lost in the engine: clears it, if it can still be used.
    fn fail(&mut self, engine: &mut E, failed: CallFailed) -> CallFailed {
        self.end_segment();
        if failed.failure == CallFailure::Panic {
            return failed;
        }
        let cleared = guarded(|| {
            engine.clear();
            Ok(())
        });
        cleared.err().unwrap_or(failed)
    }

    /// Answers a request that leaves, whatever the reason.
    fn settle(&self, row: RunningRow<E::Cache>, now: Timestamp) {
        let model = self.shared.model.clone();
        let request = &row.request;
        let answer = if let Some(what) = row.failure {
            tracing::error!(%model, %what, "generation failed");
            Err(InferenceError::Engine { model, what })
        } else if let Some(answer) = row.row.answer() {
            Counters::add(&self.shared.counters.completion_tokens, answer.tokens);
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let stats = BatchStats {
                batch: row.batch,
                batch_size: count(
                    (row.batch_size_sum + row.steps / 2)
                        .checked_div(row.steps)
                        .unwrap_or(1),
                ),
                queued: row.began_at.since(request.admitted_at),
                computed: now.since(row.began_at),
            };
            self.shared
                .queue
                .note_latency(stats.queued + stats.computed);
            Ok(Generated {
                text: answer.text,
                prompt_tokens: count(request.work.prompt.tokens.len()),
                completion_tokens: count(answer.tokens),
                finish: answer.finish,
                logprob_sum: answer.logprob_sum,
                logprob_mean: answer.logprob_mean,
                stats,
            })
        } else {
            let late = request.caller.late(now).unwrap_or_default();
            Err(InferenceError::DeadlinePassed { model, late })
        };
        self.shared.answer(row.request, answer);
    }

    fn end_segment(&mut self) {
        let Some(DecodeSegment {
            id,
            started_at,
            tokens,
        }) = self.segment.take()
        else {
            return;
        };
        let rows = self.rows.len();
        let links = self.rows.iter().map(|it| it.request.caller.trace);
        let links = links.filter(|it| it.sampled).collect();
        self.report(id, BatchKind::Decode, rows, tokens, started_at, links);
    }

    fn report(
        &self,
        id: u64,
        kind: BatchKind,
        rows: usize,
        tokens: usize,
        started_at: Timestamp,
        links: Vec<TraceContext>,
    ) {
        self.shared.observer.batch_ran(&BatchReport {
            id,
            model: self.shared.model.clone(),
            kind,
            rows,
            tokens,
            started_at,
            computed: self.shared.clock.now().since(started_at),
            links,
        });
    }
}

impl<C> RunningRow<C> {
    fn new(request: Request, began_at: Timestamp) -> Self {
        Self {
            row: request.work.row.fork(),
            request,
            cache: None,
            began_at,
            batch: 0,
            steps: 0,
            batch_size_sum: 0,
            failure: None,
        }
    }

    /// Whether there is nothing more to compute.
    fn is_done(&self) -> bool {
        self.failure.is_some() || self.row.answer().is_some()
    }
}
