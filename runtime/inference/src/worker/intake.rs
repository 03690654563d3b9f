//! The bounded door between callers and an engine thread.
//!
//! Full? Refused at once, with the bound. The permit lives from admission to the reply, so the
//! bound covers what waits and what is being computed.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use colony_core::{
    batch::Waiting,
    id::Tenant,
    task::{Priority, TraceContext},
    unit::Timestamp,
};
use parking_lot::{Condvar, Mutex};

use crate::{error::InferenceError, observe::Counters};

/// What every entry has, whatever it asks for.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) caller: Caller,
    pub(super) admitted_at: Timestamp,
    _permit: Permit,
}

impl Ticket {
    /// The entry as `core::batch` sees it.
    pub(super) fn waiting(&self, tokens: usize, answer_tokens: usize) -> Waiting {
        Waiting {
            tokens,
            answer_tokens,
            enqueued_at: self.admitted_at,
            deadline: self.caller.deadline,
            priority: self.caller.priority,
            tenant: self.caller.tenant.clone(),
        }
    }
}

/// Who asks, as it stands in a request.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) tenant: Tenant,
    pub(super) priority: Priority,
    pub(super) deadline: Option<Timestamp>,
    pub(super) trace: TraceContext,
}

impl Caller {
    /// How long ago its deadline passed, if it has.
    pub(super) fn late(&self, now: Timestamp) -> Option<Duration> {
        self.deadline
            .filter(|deadline| *deadline <= now)
            .map(|deadline| now.since(deadline))
    }
}

/// A place among those admitted; given back when dropped.
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The queue itself.
#[derive(Debug)]
pub(super) struct Intake<T> {
    model: String,
    limit: usize,
    admitted: Arc<AtomicUsize>,
    state: Mutex<State<T>>,
    arrived: Condvar,
    /// Smoothed microseconds from admission to answer, for `retry_after`.
    pace: AtomicUsize,
}

#[derive(Debug)]
struct State<T> {
    arrivals: Vec<T>,
    open: bool,
}

impl<T> Intake<T> {
    pub(super) fn new(model: String, limit: usize) -> Self {
        Self {
            model,
            limit,
            admitted: Arc::new(AtomicUsize::new(0)),
            state: Mutex::new(State {
                arrivals: Vec::new(),
                open: true,
            }),
            arrived: Condvar::new(),
            pace: AtomicUsize::new(0),
        }
    }

    /// Requests admitted and not answered.
    pub(super) fn waiting(&self) -> usize {
        self.admitted.load(Ordering::Acquire)
    }

    /// Takes a place.
    pub(super) fn admit(
        &self,
        caller: Caller,
        now: Timestamp,
        counters: &Counters,
    ) -> Result<Ticket, InferenceError> {
        if let Some(late) = caller.late(now) {
            Counters::add(&counters.late, 1);
            return Err(InferenceError::DeadlinePassed {
                model: self.model.clone(),
                late,
            });
        }
        let taken = self
            .admitted
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |admitted| {
                (admitted < self.limit).then_some(admitted + 1)
            });
        if let Err(waiting) = taken {
            Counters::add(&counters.refused, 1);
            return Err(InferenceError::Full {
                model: self.model.clone(),
                waiting,
                limit: self.limit,
                retry_after: self.pace(),
            });
        }
        let permit = Permit(Arc::clone(&self.admitted));
        Counters::add(&counters.requests, 1);
        Ok(Ticket {
            caller,
            admitted_at: now,
            _permit: permit,
        })
    }

    /// Hands an admitted entry to the engine thread.
    pub(super) fn push(&self, entry: T) -> Result<(), InferenceError> {
        let mut state = self.state.lock();
        if !state.open {
            return Err(InferenceError::Shut {
                model: self.model.clone(),
            });
        }
        state.arrivals.push(entry);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Moves what has arrived behind `waiting`, first sleeping until there is something if
    /// `sleep` is set. `false` once the door is closed.
    ///
    /// Arrivals of one collection are in order of arrival, and so are collections.
    pub(super) fn collect(&self, waiting: &mut Vec<T>, sleep: bool) -> bool {
        let mut state = self.state.lock();
        while sleep && state.open && state.arrivals.is_empty() {
            self.arrived.wait(&mut state);
        }
        let arrivals = mem::take(&mut state.arrivals);
        let open = state.open;
        drop(state);
        waiting.extend(arrivals);
        open
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.state.lock().open = false;
        self.arrived.notify_all();
    }

    /// Notes how long an answered request was here.
    pub(super) fn note_pace(&self, stay: Duration) {
        let stay = usize::try_from(stay.as_micros()).unwrap_or(usize::MAX / 8);
        let old = self.pace.load(Ordering::Relaxed);
        self.pace.store(old - old / 8 + stay / 8, Ordering::Relaxed);
    }

    /// After one usual stay about everybody who waits now is gone; half of it frees a place for
    /// sure without inviting everyone back at once.
    fn pace(&self) -> Duration {
        let micros = u64::try_from(self.pace.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        Duration::from_micros(micros / 2).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller {
            tenant: Tenant::default(),
            priority: Priority::default(),
            deadline: None,
            trace: TraceContext::default(),
        }
    }

    #[test]
    fn a_place_is_free_again_when_the_ticket_is_dropped() {
        let (intake, counters) = (Intake::<()>::new("m".into(), 1), Counters::default());
        let now = Timestamp::default();
        let ticket = intake.admit(caller(), now, &counters).expect("a place");
        let refused = intake.admit(caller(), now, &counters).expect_err("full");
        assert!(matches!(
            refused,
            InferenceError::Full {
                waiting: 1,
                limit: 1,
                ..
            }
        ));
        drop(ticket);
        assert!(intake.admit(caller(), now, &counters).is_ok());
    }

    #[test]
    fn a_closed_door_takes_nothing_and_wakes_the_thread() {
        let intake = Intake::new("m".into(), 1);
        intake.push(1).expect("open");
        intake.close();
        assert!(matches!(intake.push(2), Err(InferenceError::Shut { .. })));
        let mut waiting = Vec::new();
        assert!(!intake.collect(&mut waiting, true));
        assert_eq!(waiting, [1]);
    }
}
