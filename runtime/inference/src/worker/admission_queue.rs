//! The bounded queue between callers and an engine thread.
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

use parking_lot::{Condvar, Mutex};

/// A place among those admitted; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why there is no permit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Requests admitted and not answered.
    pub(super) waiting: usize,
    pub(super) limit: usize,
    pub(super) retry_after: Duration,
}

/// How long [`AdmissionQueue::collect`] waits for an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Not,
    AtMost(Duration),
    UntilArrival,
}

/// The queue itself.
#[derive(Debug)]
pub(super) struct AdmissionQueue<T> {
    limit: usize,
    admitted: Arc<AtomicUsize>,
    state: Mutex<State<T>>,
    arrived: Condvar,
    /// Smoothed microseconds from admission to answer, for `retry_after`.
    latency_ewma: AtomicUsize,
}

#[derive(Debug)]
struct State<T> {
    arrivals: Vec<T>,
    open: bool,
}

impl<T> AdmissionQueue<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            admitted: Arc::new(AtomicUsize::new(0)),
            state: Mutex::new(State {
                arrivals: Vec::new(),
                open: true,
            }),
            arrived: Condvar::new(),
            latency_ewma: AtomicUsize::new(0),
        }
    }

    /// Requests admitted and not answered.
    pub(super) fn waiting(&self) -> usize {
        self.admitted.load(Ordering::Acquire)
    }

    /// Takes a place.
    pub(super) fn admit(&self) -> Result<Permit, Full> {
        self.admitted
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |admitted| {
                (admitted < self.limit).then_some(admitted + 1)
            })
            .map(|_| Permit(Arc::clone(&self.admitted)))
            .map_err(|waiting| Full {
                waiting,
                limit: self.limit,
                retry_after: self.retry_after(),
            })
    }

    /// Hands an admitted entry to the engine thread; gives it back once the queue is closed.
    pub(super) fn push(&self, entry: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if !state.open {
            return Err(entry);
        }
        state.arrivals.push(entry);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Moves what has arrived behind `waiting`, in order of arrival, after waiting as `wait` says
    /// if there is nothing. May return early with nothing. `false` once the queue is closed.
    pub(super) fn collect(&self, waiting: &mut Vec<T>, wait: Wait) -> bool {
        let mut state = self.state.lock();
        if state.open && state.arrivals.is_empty() {
            match wait {
                Wait::Not => {}
                Wait::AtMost(time) => {
                    // An early or a late return is the same to the caller: its clock decides.
                    let _ = self.arrived.wait_for(&mut state, time);
                }
                Wait::UntilArrival => self.arrived.wait(&mut state),
            }
        }
        waiting.append(&mut state.arrivals);
        state.open
    }

    /// Lets nobody in any more, and returns who was not collected.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.state.lock();
        state.open = false;
        let left = mem::take(&mut state.arrivals);
        drop(state);
        self.arrived.notify_all();
        left
    }

    /// Notes how long an answered request was here.
    pub(super) fn note_latency(&self, latency: Duration) {
        let latency = usize::try_from(latency.as_micros()).unwrap_or(usize::MAX / 8);
        let old = self.latency_ewma.load(Ordering::Relaxed);
        self.latency_ewma
            .store(old - old / 8 + latency / 8, Ordering::Relaxed);
    }

    /// After one usual stay about everybody who waits now is gone; half of it frees a place for
    /// sure without inviting everyone back at once.
    fn retry_after(&self) -> Duration {
        let micros = u64::try_from(self.latency_ewma.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        Duration::from_micros(micros / 2).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let queue = AdmissionQueue::<()>::new(1);
        let permit = queue.admit().expect("a place");
        let full = queue.admit().expect_err("full");
        assert_eq!((full.waiting, full.limit), (1, 1));
        drop(permit);
        assert!(queue.admit().is_ok());
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_wakes_the_thread() {
        let queue = AdmissionQueue::new(1);
        queue.push(1).expect("open");
        let mut waiting = Vec::new();
        assert!(queue.collect(&mut waiting, Wait::UntilArrival));
        queue.push(2).expect("open");
        assert_eq!(queue.close(), [2]);
        assert_eq!(queue.push(3), Err(3));
        assert!(!queue.collect(&mut waiting, Wait::UntilArrival));
        assert_eq!(waiting, [1]);
    }
}
