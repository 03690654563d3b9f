//! The thread that owns an engine, as its worker sees it: requests in, answers out.

use std::{
    fmt,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use colony_core::{
    batch::{CallFailure, Plan, Waiting},
    port::Clock,
    unit::Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    admission_queue::{AdmissionQueue, Full},
    engine_loop::{EngineLoop, Open},
    pending::{Caller, Pending},
};
use crate::{
    batch_stats::BatchObserver,
    error::InferenceError,
    stats::{Counters, WorkerState, WorkerStats},
};

/// When a caller may come back whose request was lost with the thread: by then a router or a
/// supervisor has seen [`WorkerState::Closed`].
const UNPLANNED_RETRY: Duration = Duration::from_secs(1);

/// What differs between kinds of models: which requests go into the next call, and the call.
///
/// It owns the requests in flight, so that whatever happens in a call, [`Batcher::take_in_flight`]
/// has them.
pub(super) trait Batcher: Send + 'static {
    type Engine: Send + 'static;
    /// What is asked.
    type Work: Send + 'static;
    /// What is answered.
    type Answer: Send + 'static;

    /// A harmless call: an engine that cannot answer it is not open.
    fn warm_up(engine: &mut Self::Engine) -> Result<(), InferenceError>;

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool;

    /// Takes from `waiting` who goes into the engine, makes the next model call, and answers who is done.
    ///
    /// # Errors
    /// [`CallFailed`] when the call failed for everybody in flight.
    fn serve(
        &mut self,
        engine: &mut Self::Engine,
        waiting: &mut Vec<Pending<Self::Work, Self::Answer>>,
    ) -> Result<(), CallFailed>;

    /// Gives back everybody in flight, in their order and as they came, and forgets what it knows of
    /// the engine.
    fn take_in_flight(&mut self) -> Vec<Pending<Self::Work, Self::Answer>>;
}

/// A model call gave nothing.
#[derive(Debug)]
pub(super) struct CallFailed {
    pub(super) failure: CallFailure,
    pub(super) what: String,
}

impl CallFailed {
    pub(super) fn error(what: String) -> Self {
        Self {
            failure: CallFailure::Error,
            what,
        }
    }
}

/// What both sides of the queue share.
pub(super) struct Shared<W, A> {
    pub(super) model: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn BatchObserver>,
    pub(super) queue: AdmissionQueue<Pending<W, A>>,
    pub(super) counters: Counters,
    pub(super) state: watch::Sender<WorkerState>,
}

impl<W, A> Shared<W, A> {
    /// Takes out of `waiting` whom `rule` chooses, in its order, and answers the late.
    pub(super) fn choose(
        &self,
        waiting: &mut Vec<Pending<W, A>>,
        view: impl Fn(&Pending<W, A>) -> Waiting,
        rule: impl FnOnce(&[Waiting], Timestamp) -> Plan,
    ) -> Vec<Pending<W, A>> {
        let before = waiting.len();
        waiting.retain(|it| !it.is_cancelled());
        Counters::add(&self.counters.cancelled, before - waiting.len());
        if waiting.is_empty() {
            return Vec::new();
        }
        let now = self.clock.now();
        let plan = rule(&waiting.iter().map(view).collect::<Vec<_>>(), now);
        let mut all: Vec<Option<_>> = waiting.drain(..).map(Some).collect();
        let late: Vec<_> = plan.late.iter().filter_map(|it| all[*it].take()).collect();
        let chosen = plan.run.iter().filter_map(|it| all[*it].take()).collect();
        waiting.extend(all.into_iter().flatten());
        for pending in late {
            let late = pending.caller.late(now).unwrap_or_default();
            let model = self.model.clone();
            self.answer(pending, Err(InferenceError::DeadlinePassed { model, late }));
        }
        chosen
    }

    /// Answers a request and counts how it ended.
    pub(super) fn answer(&self, pending: Pending<W, A>, answer: Result<A, InferenceError>) {
        let counters = &self.counters;
        let cancelled = pending.is_cancelled();
        let outcome = match &answer {
            _ if cancelled => &counters.cancelled,
            Ok(_) => &counters.answered,
            Err(InferenceError::DeadlinePassed { .. }) => &counters.late,
            Err(_) => &counters.failed,
        };
        if matches!(answer, Err(InferenceError::Poisoned { .. })) && !cancelled {
            Counters::add(&counters.poisoned, 1);
        }
        Counters::add(outcome, 1);
        pending.answer(answer);
    }
}

/// A running engine thread. Dropping it closes it.
pub(super) struct EngineThread<W, A> {
    pub(super) shared: Arc<Shared<W, A>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What an [`EngineThread`] is started with.
pub(super) struct Start<E> {
    pub(super) model: String,
    /// The engine that `open` has given first.
    pub(super) engine: E,
    pub(super) open: Open<E>,
    pub(super) waiting_max: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn BatchObserver>,
}

impl<W: Send + 'static, A: Send + 'static> EngineThread<W, A> {
    /// Starts the thread with the batcher that `batcher` makes.
    pub(super) fn start<B: Batcher<Work = W, Answer = A>>(
        start: Start<B::Engine>,
        batcher: impl FnOnce(Arc<Shared<W, A>>) -> B,
    ) -> Result<Self, InferenceError> {
        let Start {
            model,
            engine,
            open,
            waiting_max,
            clock,
            observer,
        } = start;
        let shared = Arc::new(Shared {
            model: model.clone(),
            clock,
            observer,
            queue: AdmissionQueue::new(waiting_max),
            counters: Counters::default(),
            state: watch::Sender::new(WorkerState::Ready),
        });
        let batcher = batcher(Arc::clone(&shared));
        let engine_loop = EngineLoop::new(Arc::clone(&shared), batcher, engine, open);
        let thread = thread::Builder::new()
            .name(format!("engine-{model}"))
            .spawn(move || engine_loop.run())
            .map_err(|error| InferenceError::Model {
                model,
                what: format!("no thread for the engine: {error}"),
            })?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shared, thread })
    }

    /// Admits a request, prepares it on the caller's thread, and waits for its answer.
    ///
    /// Cancel-safe: a request whose future is dropped is cancelled.
    pub(super) async fn ask(
        &self,
        caller: Caller,
        prepare: impl FnOnce() -> Result<W, InferenceError>,
    ) -> Result<A, InferenceError> {
        let Shared {
            queue, counters, ..
        } = &*self.shared;
        let model = || self.shared.model.clone();
        let admitted_at = self.shared.clock.now();
        if let Some(late) = caller.late(admitted_at) {
            Counters::add(&counters.late, 1);
            return Err(InferenceError::DeadlinePassed {
                model: model(),
                late,
            });
        }
        let permit = queue.admit().map_err(|full| {
            let Full {
                waiting,
                limit,
                retry_after,
            } = full;
            Counters::add(&counters.refused, 1);
            InferenceError::Full {
                model: model(),
                waiting,
                limit,
                retry_after,
            }
        })?;
        let (pending, answer) = Pending::new(prepare()?, caller, admitted_at, permit);
        Counters::add(&counters.requests, 1);
        if let Err(pending) = queue.push(pending) {
            let closed = InferenceError::Closed { model: model() };
            self.shared.answer(pending, Err(closed));
        }
        // Dropped without an answer: the thread has come to an end that nobody planned.
        answer.await.unwrap_or_else(|_| {
            Err(InferenceError::Unavailable {
                model: model(),
                what: "its thread panicked".to_owned(),
                retry_after: UNPLANNED_RETRY,
            })
        })
    }

    pub(super) fn observe(&self) -> WorkerStats {
        let shared = &*self.shared;
        let state = shared.state.borrow().clone();
        shared
            .counters
            .observe(&shared.model, shared.queue.waiting(), state)
    }
}

impl<W, A> EngineThread<W, A> {
    /// Refuses new requests, answers all others with [`InferenceError::Closed`], and returns when
    /// the model call that runs has ended and the thread is gone. Blocks.
    pub(super) fn close(&self) {
        for pending in self.shared.queue.close() {
            let model = self.shared.model.clone();
            self.shared
                .answer(pending, Err(InferenceError::Closed { model }));
        }
        if let Some(thread) = self.thread.lock().take() {
            // Its panic, if any, was reported by the thread, and its callers have their answers.
            let _ = thread.join();
        }
    }
}

impl<W, A> Drop for EngineThread<W, A> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<W, A> fmt::Debug for EngineThread<W, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineThread")
            .field("model", &self.shared.model)
            .finish_non_exhaustive()
    }
}
