//! The one writer: takes what queued while the last commit was synced, and makes it durable together.
//!
//! ```text
//!   requests ─► queue (bounded) ─► one transaction: request, request, … ─► commit + sync ─► all answers
//!                                        └─ fails ─► taken back, each request alone
//! ```
//! No timer: under no load a request is alone in its transaction, under load the sync before it decides
//! how many share the next. A transaction that fails is taken back, and each of its requests is tried
//! in one of its own, so that a full disk or one bad request is answered to whom it concerns.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    pen::{Pen, Tally},
    row::Stop,
    schema::{Lock, explain},
};
use crate::ledger::{Cursor, LedgerError, Policy};

/// Most requests in one transaction: bounds the wait of the first of them to some tens of milliseconds.
const GROUP_MAX: usize = 1_024;

/// A request on its way.
pub(super) trait Request: Send {
    /// Does it within a transaction. May be called again after the transaction was taken back.
    fn run(&mut self, pen: &mut Pen<'_>) -> Result<(), rusqlite::Error>;
    /// Answers what the last run said; the transaction is durable, or has failed with `failure`.
    fn answer(self: Box<Self>, failure: Option<&LedgerError>);
}

/// A closure with a way back to its caller.
struct Call<T, F> {
    run: F,
    outcome: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<T: Send, F: FnMut(&mut Pen<'_>) -> Result<T, Stop> + Send> Request for Call<T, F> {
    fn run(&mut self, pen: &mut Pen<'_>) -> Result<(), rusqlite::Error> {
        match (self.run)(pen) {
            Ok(value) => self.outcome = Some(Ok(value)),
            Err(Stop::Refused(refusal)) => self.outcome = Some(Err(refusal)),
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<&LedgerError>) {
        let answer = match (failure, self.outcome) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(LedgerError::Shut),
        };
        // A caller who has gone does not undo what is durable.
        let _ = self.reply.send(answer);
    }
}

/// A request from a closure, and where its answer comes.
pub(super) fn call<T: Send + 'static>(
    run: impl FnMut(&mut Pen<'_>) -> Result<T, Stop> + Send + 'static,
) -> (Box<dyn Request>, oneshot::Receiver<Result<T, LedgerError>>) {
    let (reply, answer) = oneshot::channel();
    let outcome = None;
    (
        Box::new(Call {
            run,
            outcome,
            reply,
        }),
        answer,
    )
}

/// The writer's end of the engine.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    pub(super) policy: Policy,
    pub(super) tally: Tally,
    pub(super) latest: watch::Sender<Cursor>,
    pub(super) syncs: Arc<AtomicU64>,
    pub(super) lock: Lock,
}

impl Writer {
    /// Works until every sender is gone, on a thread of its own.
    pub(super) fn spawn(
        self,
        queue: mpsc::Receiver<Box<dyn Request>>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new()
            .name("colony-ledger".into())
            .spawn(move || self.run(queue))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Request>>) {
        let mut group = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            group.push(first);
            while group.len() < GROUP_MAX
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.write(std::mem::take(&mut group));
        }
        // Everything into the file, so that it can be copied; the log is only needed after a crash.
        if let Err(error) = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::warn!(path = %self.path.display(), %error, "the log stays beside the ledger");
        }
        drop(self.db);
        drop(self.lock);
    }

    fn write(&mut self, mut group: Vec<Box<dyn Request>>) {
        let failure = match self.together(&mut group) {
            Ok(()) => None,
            Err(error) if group.len() == 1 => Some(failure(&error)),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, requests = group.len(), %error, "commit failed, one by one");
                for request in group {
                    self.write(vec![request]);
                }
                return;
            }
        };
        if failure.is_none() {
            let cursor = self.tally.cursor;
            self.latest
                .send_if_modified(|seen| std::mem::replace(seen, cursor) != cursor);
        }
        for request in group {
            request.answer(failure.as_ref());
        }
    }

    /// All of them in one transaction, or none.
    fn together(&mut self, group: &mut [Box<dyn Request>]) -> rusqlite::Result<()> {
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut pen = Pen {
            db: &transaction,
            policy: &self.policy,
            tally: self.tally,
            wrote: false,
        };
        for request in group {
            request.run(&mut pen)?;
        }
        pen.finish(&self.tally)?;
        let (tally, wrote) = (pen.tally, pen.wrote);
        transaction.commit()?;
        self.tally = tally;
        if wrote {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

pub(super) fn failure(error: &rusqlite::Error) -> LedgerError {
    let what = explain(error);
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            LedgerError::Unreadable { what }
        }
        Some(_) => LedgerError::Storage { what },
        // Not from SQLite: a column that does not hold what was written there.
        None => LedgerError::Unreadable { what },
    }
}
