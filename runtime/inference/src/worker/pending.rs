//! A request on the engine's side of the queue.

use std::time::Duration;

use colony_core::{
    batch::Waiting,
    id::Tenant,
    task::{Priority, TraceContext},
    unit::Timestamp,
};
use tokio::sync::oneshot;

use super::admission_queue::Permit;
use crate::error::InferenceError;

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

/// An admitted request: what is asked, by whom, and the way back.
///
/// Wherever it is dropped without an answer, its permit is free again and its caller is told that
/// the engine is away.
#[derive(Debug)]
pub(super) struct Pending<W, A> {
    pub(super) work: W,
    pub(super) caller: Caller,
    pub(super) admitted_at: Timestamp,
    /// After a call that failed: the panics over this request alone.
    retry: Option<u32>,
    // Declared, and so dropped, before `reply`: a caller that wakes up finds its place free.
    permit: Permit,
    reply: oneshot::Sender<Result<A, InferenceError>>,
}

impl<W, A> Pending<W, A> {
    pub(super) fn new(
        work: W,
        caller: Caller,
        admitted_at: Timestamp,
        permit: Permit,
    ) -> (Self, oneshot::Receiver<Result<A, InferenceError>>) {
        let (reply, answer) = oneshot::channel();
        let pending = Self {
            work,
            caller,
            admitted_at,
            retry: None,
            permit,
            reply,
        };
        (pending, answer)
    }

    /// The request as `core::batch` sees it.
    pub(super) fn waiting(&self, tokens: usize, answer_tokens: usize) -> Waiting {
        Waiting {
            tokens,
            answer_tokens,
            enqueued_at: self.admitted_at,
            deadline: self.caller.deadline,
            priority: self.caller.priority,
            tenant: self.caller.tenant.clone(),
            alone: self.is_alone(),
        }
    }

    /// Whether it is computed by itself, since a call that it was in has failed.
    pub(super) fn is_alone(&self) -> bool {
        self.retry.is_some()
    }

    pub(super) fn panics_alone(&self) -> u32 {
        self.retry.unwrap_or(0)
    }

    pub(super) fn retried_alone(self, panics_alone: u32) -> Self {
        Self {
            retry: Some(panics_alone),
            ..self
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn answer(self, answer: Result<A, InferenceError>) {
        drop(self.permit);
        // Who left needs no answer.
        let _ = self.reply.send(answer);
    }
}
