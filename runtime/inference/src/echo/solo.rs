//! What both echo engines share: every request is a batch of its own.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use colony_core::{port::Clock, task::TraceContext, unit::Timestamp};
use tokio::sync::watch;

use crate::{
    batch_stats::{BatchKind, BatchObserver, BatchReport, BatchStats, NoObserver},
    error::InferenceError,
    stats::{Counters, WorkerState, WorkerStats},
};

/// The name of both models.
pub(super) const MODEL: &str = "echo";

#[derive(Debug)]
pub(super) struct Solo {
    clock: Arc<dyn Clock>,
    latency: Option<Duration>,
    pub(super) counters: Counters,
    pub(super) observer: Arc<dyn BatchObserver>,
    /// There is no engine to lose: it stays as it is.
    pub(super) state: watch::Sender<WorkerState>,
}

impl Solo {
    pub(super) fn new(clock: Arc<dyn Clock>, latency: Option<Duration>) -> Self {
        Self {
            clock,
            latency,
            counters: Counters::default(),
            observer: Arc::new(NoObserver),
            state: watch::Sender::new(WorkerState::Ready),
        }
    }

    /// Takes a request and lets its latency pass. Returns when it began.
    pub(super) async fn begin(
        &self,
        deadline: Option<Timestamp>,
    ) -> Result<Timestamp, InferenceError> {
        let began = self.clock.now();
        Counters::add(&self.counters.requests, 1);
        if let Some(latency) = self.latency {
            tokio::time::sleep(latency).await;
        }
        let now = self.clock.now();
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= now) {
            Counters::add(&self.counters.late, 1);
            return Err(InferenceError::DeadlinePassed {
                model: MODEL.into(),
                late: now.since(deadline),
            });
        }
        Ok(began)
    }

    /// Counts and reports the batch of an answered request.
    pub(super) fn end(
        &self,
        kind: BatchKind,
        tokens: usize,
        began: Timestamp,
        trace: TraceContext,
    ) -> BatchStats {
        let Counters {
            batches,
            rows,
            answered,
            ..
        } = &self.counters;
        let id = batches.fetch_add(1, Ordering::Relaxed) + 1;
        Counters::add(rows, 1);
        Counters::add(answered, 1);
        let computed = self.clock.now().since(began);
        self.observer.batch_ran(&BatchReport {
            id,
            model: MODEL.into(),
            kind,
            rows: 1,
            tokens,
            started_at: began,
            computed,
            links: Some(trace).filter(|it| it.sampled).into_iter().collect(),
        });
        BatchStats {
            batch: id,
            batch_size: 1,
            queued: Duration::ZERO,
            computed,
        }
    }

    pub(super) fn observe(&self) -> WorkerStats {
        self.counters.observe(MODEL, 0, WorkerState::Ready)
    }
}
