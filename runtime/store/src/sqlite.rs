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
//! | `live` | the head of a task while it lives; the queue is a partial index on (queue, tenant, sort key) |
//! | `finished` | the head of one that has ended; moved here, so that `live` stays as small as the queue |
//! | `journal` | what was done, by (task, sequence) |
//! | `approvals` | questions to humans and their decisions; those answered and not taken are the inboxes |
//! | `requests` | what clients asked of a task under ids of their own, by (task, request) |
//! | `dedupe` | deduplication keys, for as long as they are asked about (`ledger.dedupe_ttl`) |
//! | `outbox` | messages to the world outside, once per (effect, place), and whether they were delivered |
//! | `episodes` | what was learned and forgotten, by number |
//! | `agents`, `snapshots` | who learned it, by revision; components' states, by (node, name) |
//! | `nodes` | lives, and the last claim that took something |
//! | `changes` | the stream of state changes, the last 100,000 at least |
//! | `counters` | one row with the counts and the last numbers given, written in each transaction |
//! | `meta` | one row: who the ledger is, which schema it has, the oldest that may write it |
//! | `quarantined` | rows that cannot be read: where, why, since when |
//!
//! | module | does |
//! | --- | --- |
//! | `schema`, `lock`, `files` | opens: one process, private files, pragmas asked back, migrations |
//! | `mark` | how much was acknowledged, in a second file: a log that lost some of it is noticed |
//! | `tables`, `row`, `value`, `load` | rows whole, with their checksum; as the core's types; by key |
//! | `select` | the selections of the rules, each as one statement |
//! | `writer` | groups requests, commits, syncs once, tells everybody; stops when a sync fails |
//! | `txn` and below | one group's transaction: load, ask the rule, apply, count; a file for each kind of verb |
//! | `counters`, `ready` | the numbers in the file; the hints and the claimants in the writer's memory |
//! | `readers`, `read` | two lanes of reads beside the writer |
//! | `verify` | reads everything |
//!
//! Bodies are `colony.store.v1` messages. `user_version` counts migrations (`schema/*.sql`); a ledger of a
//! newer version is opened where its `meta` row allows this one. A row that cannot be read is set aside and
//! stops nothing but the task it belongs to. Deliberately absent: foreign keys (ids are checked where they
//! enter) and vacuuming while running.

mod counters;
mod files;
mod load;
mod lock;
mod mark;
mod read;
mod readers;
mod ready;
mod row;
mod schema;
mod select;
mod tables;
#[cfg(test)]
mod tests;
mod txn;
mod value;
mod verify;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use colony_core::{
    cycle::Decision,
    id::{AgentId, ApprovalId, NodeId, RequestId, TaskId},
    journal::Entry,
    ledger::{Policy, Record, StampClock},
    port::Clock,
    task::State,
    unit::Timestamp,
};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use self::{
    counters::Counters,
    lock::Lock,
    mark::{Acknowledged, Mark},
    read::ReadTxn,
    readers::{Lane, Readers},
    ready::WriterCache,
    schema::Opened,
    tables::Damage,
    txn::{TxnError, WriteTxn},
    writer::{Request, Signals, Writer},
};
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, Change, ClaimRequest, Claimed, Commit, Committed, Counts,
        Cursor, Decided, Episode, EpisodeChange, EpisodeStream, Health, Ledger, LedgerError,
        MessageId, NewTask, Others, OutboxFilter, Page, Posted, Registered, Snapshot, SnapshotKey,
        Submitted, TaskFilter, Verification,
    },
    limits,
};

/// How far stamps may run ahead of the clock without a word.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// A ledger in a file. Dropping it writes out what is queued and waits for that; [`Ledger::close`] does the
/// same without blocking.
pub struct SqliteLedger {
    // What it is.
    path: PathBuf,
    id: Uuid,
    clock: Arc<dyn Clock>,
    stamps: StampClock,
    // Its threads; none after it was closed.
    open: Mutex<Option<Open>>,
    // What the writer says.
    latest: watch::Receiver<Cursor>,
    posted: watch::Receiver<u64>,
    wakes: watch::Receiver<u64>,
    health: watch::Receiver<Health>,
    syncs: Arc<AtomicU64>,
    quarantined: Arc<AtomicU64>,
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
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SqliteLedger {
    /// Opens the ledger in the file at `path`, creating it and its folder where they are missing, for their
    /// owner only. Beside it lie `-wal` and `-shm` (SQLite's), `.lock` and `.mark`. Blocks for as long as the disk
    /// takes: tens of milliseconds, more after a crash, and about a microsecond for each live task.
    ///
    /// `clock` is the clock port; the ledger's time never falls below what it has written
    /// ([`StampClock`]).
    ///
    /// # Errors
    /// `Open`: another process has it, it was written by a newer version that does not allow this one, it
    /// is damaged or another program's, or the folder cannot be written. The text says what to do.
    pub fn open(path: &Path, policy: Policy, clock: Arc<dyn Clock>) -> Result<Self, LedgerError> {
        let explain = |e: rusqlite::Error| schema::open_error(path, schema::explain(&e));
        files::create_folder(path).map_err(|e| {
            schema::open_error(path, format!("has no folder, and it cannot be made: {e}"))
        })?;
        let lock = Lock::take(path)?;
        let acknowledged = Acknowledged::read(path);
        let Opened { db, meta, mended } = schema::open_writer(path, acknowledged)?;
        let id = meta.id;
        let writes = acknowledged.map_or(0, |acknowledged| acknowledged.writes);
        let counters = open_counters(&db, writes).map_err(explain)?;
        let stands = Acknowledged {
            ledger: id,
            writes: counters.writes,
        };
        let mark = Mark::set(path, stands)
            .map_err(|e| schema::open_error(path, format!("has no mark beside it: {e}")))?;
        let cache = WriterCache::read(&db).map_err(explain)?;
        let stamps = StampClock::new(clock.now(), counters.highest);
        if stamps.ahead() > AHEAD_MAX {
            let ahead_s = stamps.ahead().as_secs();
            tracing::warn!(
                ahead_s,
                "the clock was set back: the ledger's time runs ahead of it"
            );
        }
        let quarantined = Arc::new(AtomicU64::new(
            read::count_quarantined(&db).map_err(explain)?,
        ));
        let readers = Readers::spawn(path)?;
        let (writes, queue) = mpsc::channel(limits::QUEUE_MAX);
        let (latest_in, latest) = watch::channel(counters.cursor);
        let (posted_in, posted) = watch::channel(counters.outbox);
        let (wakes_in, wakes) = watch::channel(0);
        let (health_in, health) = watch::channel(Health::Working);
        let syncs = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            db,
            path: path.to_owned(),
            policy,
            clock: Arc::clone(&clock),
            stamps,
            counters,
            mark,
            cache,
            signals: Signals {
                latest: latest_in,
                posted: posted_in,
                wakes: wakes_in,
                health: health_in,
                syncs: Arc::clone(&syncs),
                quarantined: Arc::clone(&quarantined),
            },
            lock,
            mended: false,
            look: mended,
        };
        let writer = writer
            .spawn(queue)
            .map_err(|e| schema::open_error(path, format!("has no writer thread: {e}")))?;
        Ok(Self {
            path: path.to_owned(),
            id,
            clock,
            stamps,
            open: Mutex::new(Some(Open {
                writes,
                writer,
                readers,
            })),
            latest,
            posted,
            wakes,
            health,
            syncs,
            quarantined,
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnMut(&mut WriteTxn<'_>) -> Result<T, TxnError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (request, answer) = writer::call(write);
        let sent = match &*self.open.lock() {
            Some(open) => open.writes.try_send(request),
            None => return Err(LedgerError::Shut),
        };
        sent.map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy {
                waiting: limits::QUEUE_MAX,
            },
            mpsc::error::TrySendError::Closed(_) => LedgerError::Shut,
        })?;
        // Every request is answered, but by a writer that panics.
        answer.await.unwrap_or_else(|_| {
            Err(LedgerError::Unknown {
                what: "the writer has stopped".to_owned(),
            })
        })
    }

    /// Reads, and has what cannot be read set aside before it answers.
    async fn read<T: Send + 'static>(
        &self,
        lane: Lane,
        read: impl FnOnce(&mut ReadTxn<'_>) -> Result<T, TxnError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let answer = match &*self.open.lock() {
            Some(open) if *self.health.borrow() == Health::Working => {
                open.readers.send(lane, read)?
            }
            Some(_) | None => return Err(LedgerError::Shut),
        };
        let (outcome, damages) = answer.await.map_err(|_| LedgerError::Shut)?;
        if !damages.is_empty() {
            self.set_aside(damages).await;
        }
        outcome
    }

    async fn set_aside(&self, damages: Vec<Damage>) {
        let set_aside = self
            .write(move |txn| damages.iter().try_for_each(|damage| txn.set_aside(damage)))
            .await;
        if let Err(error) = set_aside {
            // It is found again by whoever reads it next.
            tracing::warn!(%error, "rows that cannot be read are not set aside");
        }
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

/// The numbers, mended where they do not fit the tables; so many writes were acknowledged.
fn open_counters(db: &Connection, writes: u64) -> rusqlite::Result<Counters> {
    let (stored, why) = match Counters::read(db)? {
        Some(Ok(counters)) if counters.fit_live(db)? => return Ok(counters),
        Some(Ok(counters)) => (counters, "they do not fit the tasks".to_owned()),
        Some(Err(damage)) => (Counters::default(), damage.to_string()),
        None => (Counters::default(), "the row is missing".to_owned()),
    };
    let mut counters = stored.counted(db)?;
    counters.writes = counters.writes.max(writes);
    counters.write(db)?;
    tracing::warn!(
        why,
        "the ledger's counters were wrong, and are counted anew"
    );
    Ok(counters)
}

/// A receiver for which what is there now is no news.
fn seen<T>(signal: &watch::Receiver<T>) -> watch::Receiver<T> {
    let mut receiver = signal.clone();
    receiver.mark_unchanged();
    receiver
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
    fn id(&self) -> Uuid {
        self.id
    }

    fn now(&self) -> Timestamp {
        self.stamps.at(self.clock.now())
    }

    fn ready_wakes(&self) -> watch::Receiver<u64> {
        seen(&self.wakes)
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        seen(&self.latest)
    }

    fn posted(&self) -> watch::Receiver<u64> {
        seen(&self.posted)
    }

    fn health(&self) -> watch::Receiver<Health> {
        seen(&self.health)
    }

    async fn register(&self, node: &NodeId, others: Others) -> Result<Registered, LedgerError> {
        let node = node.clone();
        self.write(move |txn| txn.register(&node, others)).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.write(move |txn| txn.submit(&tasks)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, LedgerError> {
        self.write(move |txn| txn.claim(&request)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, LedgerError> {
        self.write(move |txn| txn.commit(&commit)).await
    }

    async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError> {
        self.write(move |txn| txn.decide(id, request, &decision))
            .await
    }

    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.write(move |txn| txn.cancel(task, request)).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError> {
        self.write(move |txn| txn.expire(limit)).await
    }

    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.write(move |txn| txn.revive(task, request)).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        match self.read(Lane::Point, move |txn| txn.get(task)).await {
            // It was set aside, and what is left of the task says so.
            Err(LedgerError::Unreadable { .. }) => {
                self.read(Lane::Point, move |txn| txn.get(task)).await
            }
            other => other,
        }
    }

    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError> {
        self.read(Lane::Scan, move |txn| txn.list(&filter)).await
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        self.read(Lane::Point, move |txn| txn.journal(task)).await
    }

    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        self.read(Lane::Point, move |txn| txn.approval(id)).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, LedgerError> {
        self.read(Lane::Scan, move |txn| txn.approvals(&filter))
            .await
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        let counters = self.read(Lane::Point, |txn| txn.counters()).await?;
        Ok(Counts {
            accepted: counters.accepted,
            by_state: counters.by_state(),
            syncs: self.syncs.load(Ordering::Relaxed),
            quarantined: self.quarantined.load(Ordering::Relaxed),
        })
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.read(Lane::Scan, move |txn| txn.changes(after, limit))
            .await
    }

    async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, LedgerError> {
        self.read(Lane::Scan, move |txn| txn.outbox(&filter)).await
    }

    async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, LedgerError> {
        self.write(move |txn| txn.acknowledge(&messages)).await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.write(move |txn| txn.learn(&episodes)).await
    }

    async fn episode_streams(&self) -> Result<Vec<EpisodeStream>, LedgerError> {
        self.read(Lane::Scan, |txn| txn.episode_streams()).await
    }

    async fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Result<Page<EpisodeChange>, LedgerError> {
        let stream = stream.clone();
        self.read(Lane::Scan, move |txn| txn.episodes(&stream, after, limit))
            .await
    }

    async fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> Result<u64, LedgerError> {
        let stream = stream.clone();
        self.read(Lane::Scan, move |txn| txn.episodes_floor(&stream, live))
            .await
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<Vec<AgentId>, LedgerError> {
        self.write(move |txn| txn.save_agents(&agents)).await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.read(Lane::Scan, |txn| txn.agents()).await
    }

    async fn save_snapshot(&self, key: SnapshotKey, snapshot: Snapshot) -> Result<(), LedgerError> {
        self.write(move |txn| txn.save_snapshot(&key, &snapshot))
            .await
    }

    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>, LedgerError> {
        let key = key.clone();
        self.read(Lane::Point, move |txn| txn.snapshot(&key)).await
    }

    async fn verify(&self) -> Result<Verification, LedgerError> {
        self.verify_all().await
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
