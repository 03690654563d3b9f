//! How tasks end, as spans: one `task` span for each end, whoever brought it about.
//!
//! ```text
//!   agents, the sweep, clients, the ledger itself ─► ledger ─► changes ─► final? ─► record, journal ─► span `task`
//! ```
//! Read from the change stream rather than told by those who end tasks: there are four of them, the caller may have
//! left, and what must happen after a durable write is triggered by the write. It runs only where spans go somewhere.
//! What ends in the moment of a crash is in the ledger and not in the trace, like every span that was not exported yet.

use std::{sync::Arc, time::Duration};

use colony_core::{
    cycle::{Decision, DecisionKind},
    journal,
    task::{Answer, Ending, Source, State},
};
use colony_store::{Change, Cursor, Ledger, LedgerError, Record};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Past, Span, Telemetry, names};
use crate::root;

/// Changes read at once.
const PAGE: u32 = 256;
/// Wait before the ledger is read again when that has failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Longest label, in bytes: what is longer is a text, and texts of tasks are not sent with traces.
const LABEL_BYTES_MAX: usize = 64;

/// Follows the ledger from where it stood when this was made.
#[derive(Debug)]
pub(crate) struct Endings {
    ledger: Arc<dyn Ledger>,
    telemetry: Telemetry,
    latest: watch::Receiver<Cursor>,
    after: Cursor,
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Handle {
    closing: CancellationToken,
    done: JoinHandle<()>,
}

impl Handle {
    /// Tells what has ended so far, and ends. What takes longer than `limit` is not told.
    pub(crate) async fn finish(self, limit: Duration) {
        self.closing.cancel();
        if tokio::time::timeout(limit, self.done).await.is_err() {
            tracing::warn!("some tasks have ended without a span of it");
        }
    }
}

impl Endings {
    /// None where spans go nowhere.
    pub(crate) fn of(ledger: &Arc<dyn Ledger>, telemetry: &Telemetry) -> Option<Self> {
        telemetry.is_on().then(|| {
            let mut latest = ledger.latest();
            let after = *latest.borrow_and_update();
            Self {
                ledger: Arc::clone(ledger),
                telemetry: telemetry.clone(),
                latest,
                after,
            }
        })
    }

    /// Runs until it is told to finish.
    pub(crate) fn start(self, root: &root::Handle) -> Handle {
        let closing = CancellationToken::new();
        let follow = self.follow(closing.clone());
        let done = root.supervise("the tracer of endings", async move {
            follow.await;
            Ok(())
        });
        Handle { closing, done }
    }

    async fn follow(mut self, closing: CancellationToken) {
        loop {
            // Both seen before the page is read, so that a change in between wakes it again, and is told at the end.
            let last = closing.is_cancelled();
            self.latest.mark_unchanged();
            match self.ledger.changes(self.after, PAGE).await {
                Ok(page) if page.is_empty() => {
                    if last {
                        return;
                    }
                    tokio::select! {
                        biased;
                        () = closing.cancelled() => {}
                        changed = self.latest.changed() => {
                            if changed.is_err() {
                                return closing.cancelled().await;
                            }
                        }
                    }
                }
                Ok(page) => {
                    for change in page {
                        self.after = change.cursor;
                        if change.state.is_final() {
                            self.tell(&change).await;
                        }
                    }
                }
                // The root hears of a ledger that has stopped, and why: an end of ours would be a second reason.
                Err(LedgerError::Shut) => return closing.cancelled().await,
                Err(error @ LedgerError::OutOfRange { .. }) => {
                    tracing::warn!(%error, "tasks have ended without a span of it");
                    self.after = *self.latest.borrow();
                }
                Err(error) => {
                    tracing::warn!(%error, "the ends of tasks are not read, trying again");
                    if last {
                        return;
                    }
                    tokio::select! {
                        biased;
                        () = closing.cancelled() => {}
                        () = tokio::time::sleep(RETRY_WAIT) => {}
                    }
                }
            }
        }
    }

    async fn tell(&self, change: &Change) {
        // What cannot be read cannot be told; the ledger has said so.
        let Ok(record) = self.ledger.get(change.task).await else {
            return;
        };
        if !record.spec.trace.sampled {
            return;
        }
        let journal = self.ledger.journal(change.task).await.unwrap_or_default();
        let decision = journal::Past::from_entries(journal).work.decision;
        let now = self.ledger.now();
        let past = Past {
            began: now.since(record.head.submitted_at),
            ended: now.since(change.at),
        };
        let mut span = self.telemetry.past(record.spec.trace, "task", past);
        describe(&mut span, change.state, &record, decision.as_ref());
    }
}

/// Notes how the task ended. `state` is the end that is told of: the task may have been revived since.
fn describe(span: &mut Span, state: State, record: &Record, decision: Option<&Decision>) {
    let Record { head, spec } = record;
    let outcome = outcome(state, decision);
    span.set(names::TASK_ID, head.id.to_string());
    span.set(names::TENANT, spec.tenant.to_string());
    span.set(names::GEN_AI_AGENT_NAME, spec.agent_type.to_string());
    if let Some(agent) = &head.agent {
        span.set(names::GEN_AI_AGENT_ID, agent.to_string());
    }
    span.set(names::OUTCOME, outcome);
    span.set(names::FAILED_ATTEMPTS, i64::from(head.failed_attempts));
    if let Some(decision) = decision {
        span.set(names::DECISION, decision.kind.as_str());
        span.set(names::DECIDED_BY, decision.by.clone());
    }
    match &head.ending {
        Some(Ending::Done(answer)) => {
            span.set(names::ANSWER_CONFIDENCE, answer.confidence.get());
            span.set(names::ANSWER_SOURCE, answer.source.as_str());
            if let Some(label) = label(answer) {
                span.set(names::ANSWER_LABEL, label.to_owned());
            }
        }
        Some(Ending::Failed { reason }) if state != State::Cancelled => span.fail(outcome, reason),
        Some(Ending::Failed { .. }) => {}
        // Revived since: why it ended is written down no more.
        None if state == State::Cancelled => {}
        None => span.fail(outcome, "revived since"),
    }
}

/// How the task ended, in one word: its state, or that a human would not have it done.
fn outcome(state: State, decision: Option<&Decision>) -> &'static str {
    match (state, decision.map(|decision| &decision.kind)) {
        (State::Failed, Some(DecisionKind::Reject { .. })) => "rejected",
        (state, _) => state.as_str(),
    }
}

/// The answer, where it is a label: one that a rule gave may repeat the task's text.
fn label(answer: &Answer) -> Option<&str> {
    let is_label = answer.source != Source::Rule && answer.text.len() <= LABEL_BYTES_MAX;
    is_label.then_some(answer.text.as_str())
}
