//! The one writer: takes what queued while the last commit was synced, and makes it durable together.
//!
//! ```text
//!   requests ─► queue (bounded) ─► one transaction: request, request, … ─► commit + sync ─► mark ─► all answers
//!                                        │                                       └─ fails ─► outcome unknown,
//!                                        └─ fails ─► taken back, each request alone          the ledger stops
//! ```
//! No timer: under no load a request is alone in its transaction, under load the sync before it decides
//! how many share the next. A transaction that fails before its commit is taken back, and each of its
//! requests is tried in one of its own, so that a full disk or one bad request is answered to whom it
//! concerns. A sync that failed is never tried again: the system may have dropped what it could not
//! write, and would say that all is well. What became of that group is known when the file is read anew.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use colony_core::{
    ledger::{Policy, StampClock},
    port::Clock,
};
use rusqlite::{Connection, ErrorCode, TransactionBehavior, config::DbConfig, ffi};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    counters::Counters,
    lock::Lock,
    mark::Mark,
    ready::{ReadyGroups, WriterCache},
    schema::{checkpoint, explain, mend_indexes},
    txn::{Effects, TxnError, WriteTxn},
};
use crate::ledger::{Cursor, Health, LedgerError};

/// Most requests in one transaction: bounds the wait of the first of them to some tens of milliseconds.
const GROUP_MAX: usize = 1_024;

/// A request on its way.
pub(super) trait Request: Send {
    /// Does it within a transaction. May be called again after the transaction was taken back.
    fn run(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), rusqlite::Error>;
    /// Answers what the last run said; the transaction is durable, or has failed with `failure`.
    fn answer(self: Box<Self>, failure: Option<&LedgerError>);
}

/// A closure with a way back to its caller.
struct Call<T, F> {
    run: F,
    outcome: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<T: Send, F: FnMut(&mut WriteTxn<'_>) -> Result<T, TxnError> + Send> Request for Call<T, F> {
    fn run(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), rusqlite::Error> {
        match (self.run)(txn) {
            Ok(value) => self.outcome = Some(Ok(value)),
            Err(TxnError::Refused(refusal)) => self.outcome = Some(Err(refusal)),
            Err(TxnError::Failed(error)) => return Err(error),
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
    run: impl FnMut(&mut WriteTxn<'_>) -> Result<T, TxnError> + Send + 'static,
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

/// What the writer tells everybody.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) latest: watch::Sender<Cursor>,
    pub(super) posted: watch::Sender<u64>,
    pub(super) wakes: watch::Sender<u64>,
    pub(super) health: watch::Sender<Health>,
    pub(super) syncs: Arc<AtomicU64>,
    pub(super) quarantined: Arc<AtomicU64>,
}

/// The writer's end of the engine.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    pub(super) policy: Policy,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stamps: StampClock,
    pub(super) counters: Counters,
    pub(super) mark: Mark,
    pub(super) cache: WriterCache,
    pub(super) signals: Signals,
    pub(super) lock: Lock,
    /// Whether damage was met by a write and the indexes were looked at for it: once in a life, for it takes long.
    pub(super) mended: bool,
    /// Whether live tasks are to be read for damage, since indexes of theirs were damaged.
    pub(super) look: bool,
}

/// Why a group is not durable.
enum Broken {
    /// It was taken back: nothing of it was done.
    TakenBack(rusqlite::Error),
    /// It may be durable, or not.
    Unknown(rusqlite::Error),
}

impl Writer {
    /// Works until every sender is gone or the ledger has failed, on a thread of its own.
    pub(super) fn spawn(
        self,
        queue: mpsc::Receiver<Box<dyn Request>>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new()
            .name("colony-ledger".into())
            .spawn(move || self.run(queue))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Request>>) {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(&mut queue)));
        let failed = match worked {
            Ok(failed) => failed,
            // Of the group under way nothing is durable, but its callers cannot know.
            Err(panic) => Some(format!("the writer panicked: {}", reason(&*panic))),
        };
        match failed {
            None => {
                // Everything into the file, so that it can be copied; the log is only needed after a crash.
                if let Err(error) = checkpoint(&self.db, "TRUNCATE") {
                    tracing::warn!(path = %self.path.display(), %error, "the log stays beside the ledger");
                }
            }
            Some(what) => {
                tracing::error!(path = %self.path.display(), what, "the ledger has stopped");
                self.signals.health.send_replace(Health::Failed(what));
                // Closing would sync once more.
                let stay = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                if let Err(error) = self.db.set_db_config(stay, true) {
                    tracing::error!(%error, "the log cannot be left alone");
                }
                queue.close();
                while let Ok(request) = queue.try_recv() {
                    request.answer(Some(&LedgerError::Shut));
                }
            }
        }
        drop(self.db);
        drop(self.lock);
    }

    /// Some: why it cannot go on.
    fn work(&mut self, queue: &mut mpsc::Receiver<Box<dyn Request>>) -> Option<String> {
        if let Err(what) = self.look() {
            return Some(what);
        }
        let mut group = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            group.push(first);
            while group.len() < GROUP_MAX
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            if let Err(what) = self.write(std::mem::take(&mut group)) {
                return Some(what);
            }
            if let Err(what) = self.look() {
                return Some(what);
            }
        }
        None
    }

    /// Err: why the ledger cannot go on. Everybody in the group is answered.
    fn write(&mut self, mut group: Vec<Box<dyn Request>>) -> Result<(), String> {
        let outcome = loop {
            let known = self.cache.unreadable.len();
            let outcome = self.together(&mut group);
            let found = self.cache.unreadable.len() > known;
            // Once more, without what cannot be read.
            if !(found && matches!(outcome, Err(Broken::TakenBack(_)))) {
                break outcome;
            }
        };
        let failure = match outcome {
            Ok(()) => None,
            Err(Broken::TakenBack(error))
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
                    && !self.mended =>
            {
                self.mend_indexes();
                return self.write(group);
            }
            Err(Broken::TakenBack(error)) if group.len() == 1 => Some(failure(&error)),
            Err(Broken::TakenBack(error)) => {
                let path = self.path.display();
                tracing::warn!(%path, requests = group.len(), %error, "taken back, one by one");
                let mut alone = group.into_iter();
                while let Some(request) = alone.next() {
                    if let Err(what) = self.write(vec![request]) {
                        alone.for_each(|request| request.answer(Some(&LedgerError::Shut)));
                        return Err(what);
                    }
                }
                return Ok(());
            }
            Err(Broken::Unknown(error)) => {
                let what = explain(&error);
                // First, so that whoever is answered finds it.
                self.signals
                    .health
                    .send_replace(Health::Failed(what.clone()));
                let unknown = LedgerError::Unknown { what: what.clone() };
                for request in group {
                    request.answer(Some(&unknown));
                }
                return Err(what);
            }
        };
        for request in group {
            request.answer(failure.as_ref());
        }
        Ok(())
    }

    /// All of them in one transaction, or none.
    fn together(&mut self, group: &mut [Box<dyn Request>]) -> Result<(), Broken> {
        let outcome = self.transact(group);
        match &outcome {
            Ok(effects) => {
                self.cache.keep();
                self.mark.raise(self.counters.writes);
                self.tell(effects);
                if effects.recount {
                    self.recount();
                }
                if effects.short && !self.mended {
                    self.mend_indexes();
                    self.signals.wakes.send_modify(|wakes| *wakes += 1);
                }
            }
            Err(_) => self.cache.take_back(),
        }
        outcome.map(drop)
    }

    fn transact(&mut self, group: &mut [Box<dyn Request>]) -> Result<Effects, Broken> {
        let before_commit = |error: rusqlite::Error| match extended_code(&error) {
            // Also in the middle of a transaction: what the system has dropped may be older.
            Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => Broken::Unknown(error),
            Some(_) | None => Broken::TakenBack(error),
        };
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(before_commit)?;
        let mut txn = WriteTxn {
            db: &transaction,
            policy: &self.policy,
            now: self.stamps.at(self.clock.now()),
            counters: self.counters,
            cache: &mut self.cache,
            effects: Effects::default(),
        };
        for request in group {
            request.run(&mut txn).map_err(before_commit)?;
        }
        txn.finish().map_err(before_commit)?;
        let (counters, effects) = (txn.counters, txn.effects);
        transaction
            .commit()
            .map_err(|error| match extended_code(&error) {
                // No room for the log: the commit's mark, the last thing in it, was not written.
                Some(ffi::SQLITE_FULL) => Broken::TakenBack(error),
                Some(_) | None => Broken::Unknown(error),
            })?;
        self.counters = counters;
        Ok(effects)
    }

    /// What was written is durable.
    fn tell(&self, effects: &Effects) {
        let signals = &self.signals;
        if effects.wrote {
            signals.syncs.fetch_add(1, Ordering::Relaxed);
        }
        let new = effects.quarantined;
        signals.quarantined.fetch_add(new, Ordering::Relaxed);
        let mended = effects.mended;
        signals.quarantined.fetch_sub(mended, Ordering::Relaxed);
        let cursor = self.counters.cursor;
        signals
            .latest
            .send_if_modified(|seen| std::mem::replace(seen, cursor) != cursor);
        let posted = self.counters.outbox;
        signals
            .posted
            .send_if_modified(|seen| std::mem::replace(seen, posted) != posted);
        if effects.wakes {
            signals.wakes.send_modify(|wakes| *wakes += 1);
        }
    }

    /// Reads every live task, if indexes were damaged since the last look: one that cannot be read is set aside here, or it would
    /// be ready for ever under a name that nobody claims.
    fn look(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.look) {
            return Ok(());
        }
        // Nobody waits for the answer.
        let (request, _) = call(|txn| txn.look_at_live());
        self.write(vec![request])
    }

    fn mend_indexes(&mut self) {
        self.mended = true;
        self.look |= mend_indexes(&self.db, &self.path);
        self.recount();
    }

    /// A head was written off that the counts of ready tasks had in them, or not.
    fn recount(&mut self) {
        match ReadyGroups::read(&self.db) {
            Ok(ready) => self.cache.ready = ready,
            Err(error) => tracing::warn!(%error, "ready tasks cannot be counted"),
        }
    }
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// An error after which nothing was done.
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

/// What a panic said.
pub(super) fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}
