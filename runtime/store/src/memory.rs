//! The engine in memory: for the simulator and the market bench.
//!
//! ```text
//!   call ─► queue ──(a sync of `delay` begins when none runs)──► applied to the book, answered
//!                      crash(): what is still queued is gone, its callers get `Shut`
//! ```
//! With a sync delay a write is answered when a simulated sync has passed; writes that come during a
//! sync share the next one. Nothing is seen by readers before it is durable. Time is the caller's tokio
//! clock, so it is virtual where that is; no task and no thread is spawned: whoever calls next applies
//! the syncs that have ended. Without a delay a write is applied in the call.

mod book;
mod read;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
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
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use self::book::Book;
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, Change, Claim, ClaimRequest, Commit, Counts, Cursor,
        Episode, Ledger, LedgerError, NewTask, OutboxRecord, Policy, Submitted, TaskFilter,
    },
    rules,
};

/// A book in memory. Clones are handles on the same book.
#[derive(Clone)]
pub struct MemoryLedger {
    inner: Arc<Mutex<Inner>>,
    /// Zero: every write is durable at once.
    sync_delay: Duration,
    latest: watch::Sender<Cursor>,
}

struct Inner {
    /// None after a crash took it out.
    book: Option<Book>,
    open: bool,
    /// Syncs that have not ended, in order, with what each makes durable.
    syncs: VecDeque<Sync>,
    waiting: Arc<AtomicUsize>,
    syncs_done: u64,
}

struct Sync {
    begins: Instant,
    ends: Instant,
    writes: Vec<Write>,
}

type Write = Box<dyn FnOnce(&mut Book, Answers) + Send>;

/// Whether a caller hears of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Given,
    Lost,
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger")
            .field("sync_delay", &self.sync_delay)
            .finish_non_exhaustive()
    }
}

/// What a crash does to the sync that was under way: its callers have no answer in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// It had not reached the disk.
    Dropped,
    /// It had reached the disk, but the answers did not leave.
    Written,
}

impl MemoryLedger {
    /// An empty book in which every write is durable at once.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self::with_sync_delay(policy, Duration::ZERO)
    }

    /// An empty book whose writes are answered after a simulated sync of this length.
    #[must_use]
    pub fn with_sync_delay(policy: Policy, sync_delay: Duration) -> Self {
        Self::around(Book::new(policy, usize::MAX), sync_delay)
    }

    /// Keeps at most this many finished tasks in detail: the oldest are forgotten with their journal and
    /// their questions, but stay counted. Without it all are kept. A bench that ends millions needs it.
    #[must_use]
    pub fn finished_max(self, tasks: usize) -> Self {
        if let Some(book) = &mut self.inner.lock().book {
            book.finished_max(tasks);
        }
        self
    }

    fn around(book: Book, sync_delay: Duration) -> Self {
        let (latest, _) = watch::channel(book.log.cursor);
        let inner = Inner {
            book: Some(book),
            open: true,
            syncs: VecDeque::new(),
            waiting: Arc::default(),
            syncs_done: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            sync_delay,
            latest,
        }
    }

    /// Cuts the power: what was not synced is gone, its callers and all later ones get `Shut`. Returns
    /// the book as it is found after the power is back. Also opens a closed book again.
    ///
    /// # Panics
    /// When this book was taken before.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_with(InFlight::Dropped)
    }

    /// As [`crash`](Self::crash), with a say in what became of the sync that was under way.
    ///
    /// # Panics
    /// When this book was taken before.
    #[must_use]
    pub fn crash_with(&self, in_flight: InFlight) -> Self {
        let mut inner = self.inner.lock();
        inner.settle(self.sync_delay, &self.latest);
        inner.open = false;
        let syncs = std::mem::take(&mut inner.syncs);
        let mut book = inner
            .book
            .take()
            .expect("a book is taken out by one crash only");
        if in_flight == InFlight::Written
            && let Some(sync) = syncs.into_iter().next()
        {
            for write in sync.writes {
                write(&mut book, Answers::Lost);
            }
        }
        Self::around(book, self.sync_delay)
    }

    /// Reads, after syncs that have ended were applied.
    fn read<T>(&self, read: impl FnOnce(&Book, u64) -> T) -> Result<T, LedgerError> {
        let mut inner = self.inner.lock();
        inner.settle(self.sync_delay, &self.latest);
        let syncs = inner.syncs_done;
        match &inner.book {
            Some(book) if inner.open => Ok(read(book, syncs)),
            Some(_) | None => Err(LedgerError::Shut),
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Book) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        if self.sync_delay.is_zero() {
            return self.write_now(write);
        }
        let (reply, mut answer) = oneshot::channel();
        let ends = {
            let mut inner = self.inner.lock();
            inner.settle(self.sync_delay, &self.latest);
            if !inner.open {
                return Err(LedgerError::Shut);
            }
            let waiting = inner.waiting.fetch_add(1, Ordering::Relaxed);
            let slot = Slot(Arc::clone(&inner.waiting));
            if waiting >= rules::QUEUE_MAX {
                return Err(LedgerError::Busy { waiting });
            }
            inner.enqueue(
                self.sync_delay,
                Box::new(move |book, answers| {
                    let _slot = slot;
                    let answer = write(book);
                    if answers == Answers::Given {
                        // A caller who has gone does not undo the write.
                        let _ = reply.send(answer);
                    }
                }),
            )
        };
        tokio::select! {
            biased;
            answered = &mut answer => return answered.map_err(|_| LedgerError::Shut),
            () = tokio::time::sleep_until(ends) => {}
        }
        self.inner.lock().settle(self.sync_delay, &self.latest);
        answer.await.map_err(|_| LedgerError::Shut)
    }

    fn write_now<T>(&self, write: impl FnOnce(&mut Book) -> T) -> Result<T, LedgerError> {
        let mut inner = self.inner.lock();
        if !inner.open {
            return Err(LedgerError::Shut);
        }
        inner.syncs_done += 1;
        let Some(book) = &mut inner.book else {
            return Err(LedgerError::Shut);
        };
        let before = book.log.cursor;
        let answer = write(book);
        let cursor = book.log.cursor;
        if cursor != before {
            self.latest.send_replace(cursor);
        }
        Ok(answer)
    }
}

/// One place in the queue.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Joins the next sync; returns when it ends.
    fn enqueue(&mut self, delay: Duration, write: Write) -> Instant {
        let now = Instant::now();
        if let Some(next) = self.syncs.back_mut()
            && next.begins > now
        {
            next.writes.push(write);
            return next.ends;
        }
        let begins = self.syncs.back().map_or(now, |running| running.ends);
        let ends = begins + delay;
        self.syncs.push_back(Sync {
            begins,
            ends,
            writes: vec![write],
        });
        ends
    }

    /// Applies the syncs that have ended.
    fn settle(&mut self, delay: Duration, latest: &watch::Sender<Cursor>) {
        if delay.is_zero() || self.syncs.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.syncs.front().is_some_and(|sync| sync.ends <= now) {
            self.apply_first(latest);
        }
    }

    fn apply_first(&mut self, latest: &watch::Sender<Cursor>) {
        if let Some(sync) = self.syncs.pop_front()
            && let Some(book) = &mut self.book
        {
            for write in sync.writes {
                write(book, Answers::Given);
            }
            self.syncs_done += 1;
            let cursor = book.log.cursor;
            latest.send_if_modified(|seen| std::mem::replace(seen, cursor) != cursor);
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn begin(&self, node: &NodeId, now: Timestamp) -> Result<Incarnation, LedgerError> {
        let node = node.clone();
        self.write(move |book| book.begin(&node, now)).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.write(|book| book.submit(tasks)).await?
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, LedgerError> {
        self.write(move |book| book.claim(&request)).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.write(|book| book.commit(commit)).await?
    }

    async fn decide(
        &self,
        id: ApprovalId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<TaskId, LedgerError> {
        self.write(move |book| book.decide(id, decision, now))
            .await?
    }

    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<State, LedgerError> {
        self.write(move |book| book.cancel(task, now)).await?
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<TaskId>, LedgerError> {
        self.write(move |book| book.expire(now)).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        self.read(|book, _| book.get(task))?
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Record>, LedgerError> {
        self.read(|book, _| book.list(&filter))
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        self.read(|book, _| book.journal(task))?
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<Approval>, LedgerError> {
        self.read(|book, _| book.approvals(&filter))
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        self.read(Book::counts)
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.read(|book, _| book.changes(after, limit))
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.latest.subscribe()
    }

    async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.read(|book, _| book.next_due(now))
    }

    async fn outbox(
        &self,
        queue: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, OutboxRecord)>, LedgerError> {
        self.read(|book, _| book.outbox(queue, after, limit))
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.write(|book| book.learn(episodes)).await
    }

    async fn episodes(&self, after: u64, limit: u32) -> Result<Vec<Episode>, LedgerError> {
        self.read(|book, _| book.episodes(after, limit))
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<(), LedgerError> {
        self.write(|book| {
            for agent in agents {
                book.agents.insert(agent.id.clone(), agent);
            }
        })
        .await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.read(|book, _| book.agents())
    }

    async fn save_snapshot(&self, name: &str, body: Vec<u8>) -> Result<(), LedgerError> {
        let name = name.to_owned();
        self.write(move |book| {
            book.snapshots.insert(name, body);
        })
        .await
    }

    async fn snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.read(|book, _| book.snapshots.get(name).cloned())
    }

    async fn close(&self) {
        let mut inner = self.inner.lock();
        while !inner.syncs.is_empty() {
            inner.apply_first(&self.latest);
        }
        inner.open = false;
    }
}
