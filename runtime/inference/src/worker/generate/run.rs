//! The engine thread's loop.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use colony_core::{
    batch::{DecoderLimits, Running, Turns, decode_next},
    port::Clock,
    task::TraceContext,
    unit::Timestamp,
};

use super::{Entry, Shared};
use crate::{
    engine::{DecoderEngine, EngineError},
    error::InferenceError,
    generator::Generated,
    limits::GenerateLimits,
    observe::Counters,
    ride::{BatchKind, BatchObserver, BatchReport, Ride},
    worker::{answer_shut, panic_text, prefixes::Prefixes},
};

pub(super) struct Run<E: DecoderEngine> {
    engine: E,
    model: String,
    limits: GenerateLimits,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn BatchObserver>,
    shared: Arc<Shared>,
    turns: Turns,
    prefixes: Prefixes<E::Cache>,
    /// In the engine's order.
    rows: Vec<RunningRow>,
    /// The running rows since the last change among them.
    stretch: Option<Stretch>,
    /// Number of the last batch.
    batch: u64,
    /// Panics since the last call that went well.
    panics: u32,
    /// Set by a panic: what the engine knows of the running rows is not to be trusted.
    doubtful: bool,
    logits: Vec<f32>,
}

struct RunningRow {
    entry: Entry,
    began_at: Timestamp,
    /// The last batch it rode in.
    batch: u64,
    /// Decode steps so far, and the rows in all of them, for the mean.
    steps: usize,
    company: usize,
    /// Why it cannot go on, if so.
    broken: Option<String>,
}

/// A [`BatchKind::Decode`] batch on its way.
struct Stretch {
    id: u64,
    started_at: Timestamp,
    tokens: usize,
}

impl<E: DecoderEngine> Run<E> {
    pub(super) fn new(
        engine: E,
        limits: &GenerateLimits,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn BatchObserver>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            model: engine.info().model,
            engine,
            limits: limits.clone(),
            clock,
            observer,
            shared,
            turns: Turns::default(),
            prefixes: Prefixes::new(limits.prefixes_max, limits.prefix_cache_tokens_max),
            rows: Vec::new(),
            stretch: None,
            batch: 0,
            panics: 0,
            doubtful: false,
            logits: Vec::new(),
        }
    }

    pub(super) fn until_shut(mut self) {
        let mut waiting: Vec<Entry> = Vec::new();
        loop {
            let idle = waiting.is_empty() && self.rows.is_empty();
            let open = self.shared.intake.collect(&mut waiting, idle);
            if !open || self.panics >= self.limits.panics_max {
                break;
            }
            let before = self.rows.len();
            let keep = self.sweep();
            let joiners = self.join(&mut waiting);
            if keep.len() < before || !joiners.is_empty() || self.doubtful {
                self.regroup(&keep, joiners);
            }
            if !self.rows.is_empty() {
                self.step();
            }
        }
        self.shared.intake.close();
        self.shared.intake.collect(&mut waiting, false);
        self.end_stretch();
        self.sweep();
        let running = self.rows.drain(..).map(|row| row.entry);
        for entry in running.chain(waiting) {
            answer_shut(&self.model, &self.shared.counters, entry.reply);
        }
    }

    /// Lets the rows go that have ended, whose callers went away or whose deadline has passed.
    /// Returns the former numbers of those that stay.
    fn sweep(&mut self) -> Vec<usize> {
        let now = self.clock.now();
        let stays = |row: &RunningRow| {
            row.broken.is_none()
                && row.entry.row.answer().is_none()
                && !row.entry.reply.is_closed()
                && row.entry.ticket.caller.late(now).is_none()
        };
        let rows = &self.rows;
        let keep: Vec<usize> = (0..rows.len())
            .filter(|number| stays(&rows[*number]))
            .collect();
        if keep.len() < rows.len() {
            self.end_stretch();
            let (stay, leave) = mem::take(&mut self.rows).into_iter().partition(stays);
            self.rows = stay;
            let leave: Vec<RunningRow> = leave;
            leave.into_iter().for_each(|row| self.settle(row, now));
        }
        keep
    }

    /// Chooses who joins now and reads their prompts.
    fn join(&mut self, waiting: &mut Vec<Entry>) -> Vec<(RunningRow, E::Cache)> {
        let before = waiting.len();
        waiting.retain(|entry| !entry.reply.is_closed());
        Counters::add(&self.shared.counters.withdrawn, before - waiting.len());
        if waiting.is_empty() {
            return Vec::new();
        }
        let now = self.clock.now();
        let law: Vec<_> = waiting
            .iter()
            .map(|it| it.ticket.waiting(it.prompt.tokens.len(), it.tokens_max))
            .collect();
        let limits = DecoderLimits {
            rows_max: self.limits.rows_max,
            cache_tokens_max: self.limits.cache_tokens_max,
            prefill_tokens_max: self.limits.prefill_tokens_max,
        };
        let cache_tokens = self
            .rows
            .iter()
            .map(|it| it.entry.prompt.tokens.len() + it.entry.tokens_max)
            .sum();
        let running = Running {
            rows: self.rows.len(),
            cache_tokens,
        };
        let plan = decode_next(&law, running, &mut self.turns, &limits, now);
        let mut entries: Vec<Option<Entry>> = mem::take(waiting).into_iter().map(Some).collect();
        for entry in plan
            .late
            .iter()
            .filter_map(|number| entries[*number].take())
        {
            self.settle(RunningRow::new(entry, now), now);
        }
        let run: Vec<Entry> = plan
            .run
            .iter()
            .filter_map(|number| entries[*number].take())
            .collect();
        waiting.extend(entries.into_iter().flatten());
        run.into_iter()
            .filter_map(|entry| self.begin(entry))
            .collect()
    }

    /// Reads one prompt. `None` if its answer is complete with that, or failed.
    fn begin(&mut self, entry: Entry) -> Option<(RunningRow, E::Cache)> {
        let mut row = RunningRow::new(entry, self.clock.now());
        let mut read = None;
        // A schema may allow one answer only: then the model is not asked.
        if row.entry.row.answer().is_none() {
            match self.read_prompt(&mut row) {
                Ok(cache) => {
                    row.broken = row.entry.row.advance(&self.logits).err();
                    read = Some(cache);
                }
                Err(what) => row.broken = Some(what),
            }
        }
        match read {
            Some(cache) if row.broken.is_none() && row.entry.row.answer().is_none() => {
                Some((row, cache))
            }
            _ => {
                self.settle(row, self.clock.now());
                None
            }
        }
    }

    /// Reads a prompt, its shared beginning apart, and what the schema forces after it.
    fn read_prompt(&mut self, row: &mut RunningRow) -> Result<E::Cache, String> {
        let started_at = self.clock.now();
        let forced = row.entry.row.take_unread();
        let prompt = &row.entry.prompt;
        let is_shared = prompt.shared >= self.limits.prefix_tokens_min
            && prompt.shared < prompt.tokens.len()
            && self.prefixes.keeps(prompt.shared);
        let (shared, own) = prompt
            .tokens
            .split_at(if is_shared { prompt.shared } else { 0 });
        let own = [own, &forced].concat();
        let mut known = 0;
        let result = if shared.is_empty() {
            self.call(|engine, _, logits| engine.prefill(None, &own, logits))
        } else {
            known = if self.prefixes.find(shared).is_some() {
                shared.len()
            } else {
                0
            };
            self.call(|engine, prefixes, logits| {
                if known == 0 {
                    let cache = engine.prefill(None, shared, logits)?;
                    prefixes.keep(shared, cache);
                }
                engine.prefill(prefixes.find(shared), &own, logits)
            })
        };
        let tokens = shared.len() - known + own.len();
        Counters::add(&self.shared.counters.prompt_tokens, tokens - forced.len());
        Counters::add(&self.shared.counters.prefix_tokens, known);
        self.batch += 1;
        row.batch = self.batch;
        let links = [row.entry.ticket.caller.trace]
            .into_iter()
            .filter(|it| it.sampled)
            .collect();
        self.report(self.batch, BatchKind::Prefill, 1, tokens, started_at, links);
        result
    }

    /// Tells the engine who runs from now on.
    fn regroup(&mut self, keep: &[usize], joiners: Vec<(RunningRow, E::Cache)>) {
        self.end_stretch();
        let (rows, caches): (Vec<RunningRow>, Vec<E::Cache>) = joiners.into_iter().unzip();
        self.rows.extend(rows);
        let result = if mem::take(&mut self.doubtful) {
            Err("the engine panicked over another request".to_owned())
        } else {
            self.call(|engine, _, _| engine.regroup(keep, caches))
        };
        if let Err(what) = result {
            self.fail_all(&what);
        }
    }

    /// A token for every row.
    fn step(&mut self) {
        let count = self.rows.len();
        let now = self.clock.now();
        if self.stretch.is_none() {
            self.batch += 1;
            self.stretch = Some(Stretch {
                id: self.batch,
                started_at: now,
                tokens: 0,
            });
        }
        let next: Option<Vec<u32>> = self
            .rows
            .iter_mut()
            .map(|row| row.entry.row.next_unread())
            .collect();
        let result = match next {
            Some(tokens) => self.call(|engine, _, logits| engine.step(&tokens, logits)),
            None => Err("a row has no token to read".to_owned()),
        };
        let counters = &self.shared.counters;
        Counters::add(&counters.batches, 1);
        Counters::add(&counters.rows, count);
        if let Some(stretch) = &mut self.stretch {
            stretch.tokens += count;
        }
        let width = self.logits.len() / count;
        match result {
            Ok(()) if width * count == self.logits.len() && width > 0 => {
                for (row, logits) in self.rows.iter_mut().zip(self.logits.chunks_exact(width)) {
                    row.batch = self.batch;
                    (row.steps, row.company) = (row.steps + 1, row.company + count);
                    row.broken = row.entry.row.advance(logits).err();
                }
            }
            Ok(()) => {
                self.fail_all(&format!("{} scores for {count} rows", self.logits.len()));
            }
            Err(what) => self.fail_all(&what),
        }
    }

    /// Calls the engine and survives what it does.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut E, &mut Prefixes<E::Cache>, &mut Vec<f32>) -> Result<T, EngineError>,
    ) -> Result<T, String> {
        let Self {
            engine,
            prefixes,
            logits,
            ..
        } = self;
        match catch_unwind(AssertUnwindSafe(|| call(engine, prefixes, logits))) {
            Ok(result) => {
                self.panics = 0;
                result.map_err(|error| error.to_string())
            }
            Err(panic) => {
                self.panics += 1;
                self.doubtful = true;
                Counters::add(&self.shared.counters.panics, 1);
                Err(format!("the engine panicked: {}", panic_text(&*panic)))
            }
        }
    }

    fn fail_all(&mut self, what: &str) {
        self.end_stretch();
        self.doubtful = false;
        if catch_unwind(AssertUnwindSafe(|| self.engine.clear())).is_err() {
            self.panics += 1;
        }
        let now = self.clock.now();
        for mut row in mem::take(&mut self.rows) {
            row.broken = Some(what.to_owned());
            self.settle(row, now);
        }
    }

    /// Answers a request that leaves, whatever the reason.
    fn settle(&self, row: RunningRow, now: Timestamp) {
        let Shared { intake, counters } = &*self.shared;
        let model = self.model.clone();
        let answer = if row.entry.reply.is_closed() {
            Counters::add(&counters.withdrawn, 1);
            return;
        } else if let Some(what) = &row.broken {
            Counters::add(&counters.failed, 1);
            tracing::error!(%model, %what, "generation failed");
            Err(InferenceError::Engine {
                model,
                what: what.clone(),
            })
        } else if let Some(answer) = row.entry.row.answer() {
            Counters::add(&counters.answered, 1);
            Counters::add(&counters.completion_tokens, answer.tokens);
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let ride = Ride {
                batch: row.batch,
                batch_size: count(
                    (row.company + row.steps / 2)
                        .checked_div(row.steps)
                        .unwrap_or(1),
                ),
                queued: row.began_at.since(row.entry.ticket.admitted_at),
                computed: now.since(row.began_at),
            };
            intake.note_pace(ride.queued + ride.computed);
            Ok(Generated {
                text: answer.text,
                prompt_tokens: count(row.entry.prompt.tokens.len()),
                completion_tokens: count(answer.tokens),
                finish: answer.finish,
                logprob_sum: answer.logprob_sum,
                logprob_mean: answer.logprob_mean,
                ride,
            })
        } else {
            Counters::add(&counters.late, 1);
            let late = row.entry.ticket.caller.late(now).unwrap_or_default();
            Err(InferenceError::DeadlinePassed { model, late })
        };
        let Entry { ticket, reply, .. } = row.entry;
        // The permit is given back before the caller wakes, so that it may ask again at once.
        drop(ticket);
        let _ = reply.send(answer);
    }

    fn end_stretch(&mut self) {
        let Some(Stretch {
            id,
            started_at,
            tokens,
        }) = self.stretch.take()
        else {
            return;
        };
        let rows = self.rows.len();
        let links = self.rows.iter().map(|it| it.entry.ticket.caller.trace);
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
        let computed = self.clock.now().since(started_at);
        let model = self.model.clone();
        let report = BatchReport {
            id,
            model,
            kind,
            rows,
            tokens,
            started_at,
            computed,
            links,
        };
        self.observer.batch_ran(&report);
    }
}

impl RunningRow {
    fn new(entry: Entry, began_at: Timestamp) -> Self {
        Self {
            entry,
            began_at,
            batch: 0,
            steps: 0,
            company: 0,
            broken: None,
        }
    }
}
