//! The engine in a file: SQLite for a node's own data directory.
//!
//! ```text
//!   writes ─► queue ─► writer thread ─► one transaction for all that queued ─► sync ─► answers
//!   reads  ─► queue ─► reader threads, a connection each, one transaction a read
//! ```
//! Write-ahead log, `synchronous = FULL`: what was answered survives power loss. Commits are grouped
//! without a timer. A lock file keeps a second process out.
//!
//! | table | holds |
//! | --- | --- |
//! | `specs` | what was asked, written once |
//! | `live` | where a task stands while it lives; the queue is a partial index on (type, sort key) |
//! | `finished` | how it ended; moved here once, so that `live` stays as small as the queue |
//! | `journal` | what was done, by (task, sequence) |
//! | `approvals` | questions to humans and their decisions |
//! | `dedupe` | deduplication keys, outliving their tasks |
//! | `outbox` | deliveries to the world outside, once a key |
//! | `episodes`, `agents`, `snapshots`, `nodes` | what was learned, who learned it, rooms, lives |
//! | `changes` | the stream of state changes, the last 100,000 at least |
//! | `tally` | one row with the counts and the cursor, written in the transaction that changes them |
//!
//! Bodies are `colony.store.v1` messages. `user_version` counts migrations (`schema/*.sql`); a book of a
//! newer version is refused. Deliberately absent: foreign keys (ids are checked where they enter) and
//! vacuuming while running.

mod keep;
mod pen;
mod read;
mod readers;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use colony_core::{
    cycle::Decision,
    id::{ApprovalId, Incarnation, NodeId, TaskId},
    journal::Entry,
    task::{Record, State},
    unit::Timestamp,
};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    pen::{Pen, Tally},
    readers::Readers,
    row::Stop,
    schema::Lock,
    writer::{Request, Writer},
};
use crate::{
    blob,
    ledger::{
        Agent, Approval, ApprovalFilter, Change, Claim, ClaimRequest, Commit, Counts, Cursor,
        Episode, Ledger, LedgerError, NewTask, OutboxRecord, Policy, Submitted, TaskFilter,
    },
    rules,
};

/// A book in a file. Dropping it writes out what is queued and waits for that; [`Ledger::close`] does the
/// same without blocking.
pub struct SqliteLedger {
    path: PathBuf,
    /// None after it was closed.
    open: Mutex<Option<Open>>,
    latest: watch::Receiver<Cursor>,
    syncs: Arc<AtomicU64>,
}

struct Open {
    writes: mpsc::Sender<Box<dyn Request>>,
    writer: JoinHandle<()>,
    readers: Readers,
}

impl fmt::Debug for SqliteLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLedger")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SqliteLedger {
    /// Opens the book in the file at `path`, creating it and its folder where they are missing. Beside it
    /// lie `-wal` and `-shm` (SQLite's) and `.lock`. Blocks for as long as the disk takes: tens of
    /// milliseconds, more after a crash.
    ///
    /// # Errors
    /// `Open`: another process has it, it was written by a newer version, it is damaged or another
    /// program's, or the folder cannot be written. The text says what to do.
    pub fn open(path: &Path, policy: Policy) -> Result<Self, LedgerError> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|e| schema::open_error(folder, format!("cannot be created: {e}")))?;
        }
        let lock = Lock::take(path)?;
        let db = schema::open_writer(path)?;
        let tally = Tally::read(&db).map_err(|e| schema::open_error(path, schema::explain(&e)))?;
        let readers = Readers::spawn(path)?;
        let (writes, queue) = mpsc::channel(rules::QUEUE_MAX);
        let (latest_in, latest) = watch::channel(tally.cursor);
        let syncs = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            db,
            path: path.to_owned(),
            policy,
            tally,
            latest: latest_in,
            syncs: Arc::clone(&syncs),
            lock,
        };
        let writer = writer
            .spawn(queue)
            .map_err(|e| schema::open_error(path, format!("has no writer thread: {e}")))?;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(Some(Open {
                writes,
                writer,
                readers,
            })),
            latest,
            syncs,
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnMut(&mut Pen<'_>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (request, answer) = writer::call(write);
        let sent = match &*self.open.lock() {
            Some(open) => open.writes.try_send(request),
            None => return Err(LedgerError::Shut),
        };
        sent.map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy {
                waiting: rules::QUEUE_MAX,
            },
            mpsc::error::TrySendError::Closed(_) => LedgerError::Shut,
        })?;
        answer.await.unwrap_or(Err(LedgerError::Shut))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job: readers::Read = Box::new(move |db| {
            // A caller who has gone needs no answer.
            let _ = reply.send(in_one_moment(db, read));
        });
        match &*self.open.lock() {
            Some(open) => open.readers.send(job)?,
            None => return Err(LedgerError::Shut),
        }
        answer.await.unwrap_or(Err(LedgerError::Shut))
    }

    /// Lets the threads end; returns them.
    fn shut(&self) -> Vec<JoinHandle<()>> {
        let Some(open) = self.open.lock().take() else {
            return Vec::new();
        };
        // Readers first: the last connection to go clears the log away, and that must be the writer's.
        let mut threads = open.readers.close();
        drop(open.writes);
        threads.push(open.writer);
        threads
    }
}

fn in_one_moment<T>(
    db: &mut Connection,
    read: impl FnOnce(&Connection) -> Result<T, Stop>,
) -> Result<T, LedgerError> {
    let outcome = db
        .transaction()
        .map_err(Stop::from)
        .and_then(|moment| read(&moment));
    outcome.map_err(|stop| match stop {
        Stop::Refused(refusal) => refusal,
        Stop::Failed(error) => writer::failure(&error),
    })
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a ledger thread had panicked");
        }
    }
}

impl Drop for SqliteLedger {
    fn drop(&mut self) {
        join(self.shut());
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn begin(&self, node: &NodeId, now: Timestamp) -> Result<Incarnation, LedgerError> {
        let node = node.clone();
        self.write(move |pen| pen.begin(&node, now)).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.write(move |pen| pen.submit(&tasks)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, LedgerError> {
        self.write(move |pen| pen.claim(&request)).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.write(move |pen| pen.commit(&commit)).await
    }

    async fn decide(
        &self,
        id: ApprovalId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<TaskId, LedgerError> {
        self.write(move |pen| pen.decide(id, &decision, now)).await
    }

    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<State, LedgerError> {
        self.write(move |pen| pen.cancel(task, now)).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<TaskId>, LedgerError> {
        self.write(move |pen| pen.expire(now)).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        self.read(move |db| read::get(db, task)).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Record>, LedgerError> {
        self.read(move |db| read::list(db, &filter)).await
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        self.read(move |db| read::journal(db, task)).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<Approval>, LedgerError> {
        self.read(move |db| read::approvals(db, &filter)).await
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        let tally = self.read(read::tally).await?;
        Ok(Counts {
            accepted: tally.accepted,
            by_state: tally.by_state(),
            syncs: self.syncs.load(Ordering::Relaxed),
        })
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.read(move |db| read::changes(db, after, limit)).await
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.latest.clone()
    }

    async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.read(move |db| read::next_due(db, now)).await
    }

    async fn outbox(
        &self,
        queue: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, OutboxRecord)>, LedgerError> {
        let queue = queue.to_owned();
        self.read(move |db| read::outbox(db, &queue, after, limit))
            .await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.write(move |pen| pen.learn(&episodes)).await
    }

    async fn episodes(&self, after: u64, limit: u32) -> Result<Vec<Episode>, LedgerError> {
        self.read(move |db| read::episodes(db, after, limit)).await
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<(), LedgerError> {
        self.write(move |pen| pen.save_agents(&agents)).await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.read(read::agents).await
    }

    async fn save_snapshot(&self, name: &str, body: Vec<u8>) -> Result<(), LedgerError> {
        let name = name.to_owned();
        let body = blob::snapshot(body);
        self.write(move |pen| pen.save_snapshot(&name, &body)).await
    }

    async fn snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let name = name.to_owned();
        self.read(move |db| read::snapshot(db, &name)).await
    }

    async fn close(&self) {
        let threads = self.shut();
        // Joining blocks; a pool thread waits in the caller's place.
        let joined = tokio::task::spawn_blocking(move || join(threads)).await;
        if let Err(error) = joined {
            tracing::error!(%error, "closing the ledger failed");
        }
    }
}
