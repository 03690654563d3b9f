//! What the tests of both workers share.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use colony_core::{port::Clock, unit::Timestamp};

use crate::batch_stats::{BatchObserver, BatchReport};

/// Advances by a millisecond whenever it is read.
#[derive(Debug, Default)]
pub(super) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1 + self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

/// Stands still but for what a test adds.
#[derive(Debug, Default)]
pub(super) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(super) fn advance(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).expect("a short time");
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Holds up an engine's calls while it is shut.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn shut(&self) {
        *self.0.0.lock().expect("no panic while it is held") = true;
    }

    pub(super) fn open(&self) {
        *self.0.0.lock().expect("no panic while it is held") = false;
        self.0.1.notify_all();
    }

    /// Returns once it is open.
    pub(super) fn pass(&self) {
        let shut = self.0.0.lock().expect("no panic while it is held");
        let open = self.0.1.wait_while(shut, |shut| *shut);
        drop(open.expect("no panic while it is held"));
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
