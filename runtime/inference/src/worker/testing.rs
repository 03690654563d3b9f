//! What the tests of both workers share.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use colony_core::{port::Clock, unit::Timestamp};

use crate::ride::{BatchObserver, BatchReport};

/// Advances by a millisecond whenever it is read.
#[derive(Debug, Default)]
pub(super) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1 + self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

/// Keeps every report.
#[derive(Debug, Default)]
pub(super) struct Reports(pub(super) Mutex<Vec<BatchReport>>);

impl BatchObserver for Reports {
    fn batch_ran(&self, report: &BatchReport) {
        self.0
            .lock()
            .expect("no panic while it is held")
            .push(report.clone());
    }
}
