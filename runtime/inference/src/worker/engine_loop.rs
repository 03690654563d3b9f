//! What an engine thread does: serve, and recover from whatever an engine does instead of answering.
//!
//! ```text
//!            ┌────────── opened, and a probe answered ───────────┐
//!            ▼                                                   │
//!   Open: collect ─► serve ── call panicked ──► Away: wait ─► open again
//!            │                  in flight: who     │             │ failed: wait twice as long,
//!          closed               to blame?          │             ▼ answer all Unavailable meanwhile
//!            ▼                  (core::batch)      └──────◄──────┘
//!   everybody is answered Closed
//! ```
//! A panic elsewhere on this thread is nobody's fault: everybody in flight and waiting is answered
//! `Unavailable`, and the engine is opened again too. Should even that panic, the thread ends:
//! the queue is closed, and requests that are dropped tell their callers.

use std::{
    any::Any,
    mem,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use colony_core::{
    batch::{Blame, CallFailure, blame, reopen_delay},
    unit::Timestamp,
};

use super::{
    admission_queue::Wait,
    engine_thread::{Batcher, CallFailed, Shared},
    pending::Pending,
};
use crate::{
    engine::EngineError,
    error::InferenceError,
    stats::{Counters, WorkerState},
};

/// Opens an engine, blocking while files are read.
pub(super) type Open<E> = Box<dyn FnMut() -> Result<E, InferenceError> + Send>;

/// Opens an engine and has it answer a probe.
pub(super) fn open_engine<B: Batcher>(
    open: &mut Open<B::Engine>,
) -> Result<B::Engine, InferenceError> {
    let mut engine = open()?;
    B::warm_up(&mut engine)?;
    Ok(engine)
}

/// Makes a model call that may panic.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, CallFailed> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| CallFailed::error(error.to_string())),
        Err(panic) => Err(CallFailed {
            failure: CallFailure::Panic,
            what: panic_text(&*panic).to_owned(),
        }),
    }
}

pub(super) struct EngineLoop<B: Batcher> {
    shared: Arc<Shared<B::Work, B::Answer>>,
    batcher: B,
    engine: Engine<B::Engine>,
    open: Open<B::Engine>,
    /// Those of a failed call first, then in order of arrival.
    waiting: Vec<Pending<B::Work, B::Answer>>,
}

enum Engine<E> {
    Open(E),
    Away(Away),
}

/// The engine is gone since a panic.
#[derive(Clone)]
struct Away {
    since: Timestamp,
    /// Openings that failed since then.
    failures: u32,
    retry_at: Timestamp,
    /// What went wrong last.
    reason: String,
}

impl<B: Batcher> EngineLoop<B> {
    pub(super) fn new(
        shared: Arc<Shared<B::Work, B::Answer>>,
        batcher: B,
        engine: B::Engine,
        open: Open<B::Engine>,
    ) -> Self {
        Self {
            shared,
            batcher,
            engine: Engine::Open(engine),
            open,
            waiting: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        let _guard = CloseOnExit(Arc::clone(&self.shared));
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(panic) => self.abandon(panic_text(&*panic)),
            }
        }
        let model = &self.shared.model;
        let closed = InferenceError::Closed {
            model: model.clone(),
        };
        self.dismiss_all(&closed);
    }

    /// Serves once, or tries once to have an engine again.
    fn turn(&mut self) -> ControlFlow<()> {
        let wait = match &self.engine {
            Engine::Open(_) if self.waiting.is_empty() && self.batcher.is_idle() => {
                Wait::UntilArrival
            }
            Engine::Open(_) => Wait::Not,
            Engine::Away(away) => Wait::AtMost(away.retry_at.since(self.shared.clock.now())),
        };
        if !self.shared.queue.collect(&mut self.waiting, wait) {
            return ControlFlow::Break(());
        }
        match &mut self.engine {
            Engine::Open(engine) => {
                if let Err(failed) = self.batcher.serve(engine, &mut self.waiting) {
                    self.recover(failed);
                }
            }
            Engine::Away(away) => {
                let away = away.clone();
                self.reopen(away);
            }
        }
        ControlFlow::Continue(())
    }

    /// Decides what becomes of those in flight, and lets go of an engine that panicked.
    fn recover(&mut self, failed: CallFailed) {
        let CallFailed { failure, what } = failed;
        let in_flight = self.batcher.take_in_flight();
        let rows = in_flight.len();
        let model = self.shared.model.clone();
        tracing::error!(%model, rows, ?failure, %what, "a model call failed");
        if failure == CallFailure::Panic {
            Counters::add(&self.shared.counters.panics, 1);
            self.lose_engine(format!("it panicked: {what}"));
        }
        let mut retried = Vec::with_capacity(rows);
        for pending in in_flight {
            let (model, what) = (model.clone(), what.clone());
            match blame(rows, pending.panics_alone(), failure) {
                Blame::RetryAlone { panics_alone } => {
                    retried.push(pending.retried_alone(panics_alone));
                }
                Blame::Failed => {
                    let error = InferenceError::Engine { model, what };
                    self.shared.answer(pending, Err(error));
                }
                Blame::Poisoned => {
                    let error = InferenceError::Poisoned { model, what };
                    self.shared.answer(pending, Err(error));
                }
            }
        }
        self.waiting.splice(0..0, retried);
    }

    /// After a panic that no request is to blame for.
    fn abandon(&mut self, what: &str) {
        tracing::error!(model = %self.shared.model, %what, "a worker panicked outside a model call");
        Counters::add(&self.shared.counters.panics, 1);
        let what = format!("its worker panicked: {what}");
        self.dismiss_all(&InferenceError::Unavailable {
            model: self.shared.model.clone(),
            what: what.clone(),
            retry_after: reopen_delay(1),
        });
        self.lose_engine(what);
    }

    /// Lets go of the engine; it is opened again at once.
    fn lose_engine(&mut self, reason: String) {
        let now = self.shared.clock.now();
        let lost = self.stay_away(Away {
            since: now,
            failures: 0,
            retry_at: now,
            reason,
        });
        // Whatever state it is in: a panic of its destructor says nothing new.
        let _ = guarded(|| {
            drop(lost);
            Ok(())
        });
    }

    fn stay_away(&mut self, away: Away) -> Engine<B::Engine> {
        self.shared.state.send_replace(WorkerState::Reopening {
            since: away.since,
            failures: away.failures,
            reason: away.reason.clone(),
        });
        mem::replace(&mut self.engine, Engine::Away(away))
    }

    /// Opens the engine if it is time to. Until it has failed once, those who wait go on waiting.
    fn reopen(&mut self, away: Away) {
        let model = self.shared.model.clone();
        let now = self.shared.clock.now();
        let away = if now < away.retry_at {
            away
        } else {
            let open = &mut self.open;
            let opened =
                guarded(|| open_engine::<B>(open).map_err(|error| EngineError(error.to_string())));
            let what = match opened {
                Ok(engine) => {
                    tracing::info!(%model, failures = away.failures, "the engine is open again");
                    self.engine = Engine::Open(engine);
                    self.shared.state.send_replace(WorkerState::Ready);
                    return;
                }
                Err(CallFailed { what, .. }) => what,
            };
            let failures = away.failures.saturating_add(1);
            let delay = reopen_delay(failures);
            tracing::error!(%model, failures, ?delay, %what, "the engine cannot be opened");
            let away = Away {
                since: away.since,
                failures,
                retry_at: self.shared.clock.now().after(delay),
                reason: what,
            };
            self.stay_away(away.clone());
            away
        };
        self.dismiss_all(&InferenceError::Unavailable {
            model,
            what: away.reason,
            retry_after: away.retry_at.since(now),
        });
    }

    /// Answers everybody in flight and waiting.
    fn dismiss_all(&mut self, error: &InferenceError) {
        for pending in self
            .batcher
            .take_in_flight()
            .into_iter()
            .chain(self.waiting.drain(..))
        {
            self.shared.answer(pending, Err(error.clone()));
        }
    }
}

/// Closes the queue when the thread ends, whatever ended it.
struct CloseOnExit<W, A>(Arc<Shared<W, A>>);

impl<W, A> Drop for CloseOnExit<W, A> {
    fn drop(&mut self) {
        self.0.state.send_replace(WorkerState::Closed);
        // Dropped without an answer, which tells their callers; nobody is left after an orderly end.
        drop(self.0.queue.close());
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
