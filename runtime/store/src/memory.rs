//! The engine in memory: for the simulator and the market bench.
//!
//! ```text
//!   call ─► queued ─► syncing ──(the driver, `sync_delay` later)──► applied to the tables ─► answered
//!                     ▲ │
//!                     └─┘ what came during a sync shares the next      crash(): what is not applied is
//!                                                                      gone, its callers get `Shut`
//! ```
//! With a sync delay a write is answered when a simulated sync has passed; nothing is seen by readers
//! before. A task of its own, the driver, ends each sync in time and is there only while there is
//! something to sync: nothing depends on the caller, who may have left. It sleeps on tokio's clock, which is
//! virtual where the caller's is; under one thread the same calls have the same history. Without a delay
//! a write is applied in the call, and no task is spawned.

mod read;
mod tables;
mod tasks;
mod write;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::{
    cycle::Decision,
    id::{AgentId, ApprovalId, NodeId, RequestId, TaskId},
    journal::Entry,
    ledger::StampClock,
    port::Clock,
    task::State,
    unit::Timestamp,
};
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::Instant,
};
use uuid::Uuid;

use self::tables::Tables;
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, Change, ClaimRequest, Claimed, Commit, Committed, Counts,
        Cursor, Decided, Episode, EpisodeChange, EpisodeStream, Health, Ledger, LedgerError,
        MessageId, NewTask, Others, OutboxFilter, Page, Policy, Posted, Record, Registered,
        Snapshot, SnapshotKey, Submitted, TaskFilter, Verification,
    },
    limits::QUEUE_MAX,
};

/// A ledger in memory. Clones are handles on the same ledger.
#[derive(Clone)]
pub struct MemoryLedger {
    shared: Arc<Shared>,
}

struct Shared {
    id: Uuid,
    /// Zero: every write is durable at once.
    sync_delay: Duration,
    inner: Mutex<Inner>,
    latest: watch::Sender<Cursor>,
    posted: watch::Sender<u64>,
    ready_wakes: watch::Sender<u64>,
    health: watch::Sender<Health>,
}

struct Inner {
    /// None after a crash took them out.
    tables: Option<Tables>,
    open: bool,
    clock: Arc<dyn Clock>,
    stamps: StampClock,
    /// The sync under way.
    syncing: Option<Group>,
    /// What the next one makes durable.
    queued: Vec<Write>,
    /// Ends the syncs.
    driver: Option<AbortHandle>,
    syncs: u64,
}

/// Writes that are executed together, under one stamp.
struct Group {
    stamp: Timestamp,
    ends: Instant,
    writes: Vec<Write>,
}

type Write = Box<dyn FnOnce(&mut Tables, Timestamp) -> Answer + Send>;

/// Tells the caller what came of its write, once everybody who watches has been told.
type Answer = Box<dyn FnOnce() + Send>;

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger")
            .field("id", &self.shared.id)
            .field("sync_delay", &self.shared.sync_delay)
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
    /// An empty ledger in which every write is durable at once. Its name is the moment of its making.
    #[must_use]
    pub fn new(policy: Policy, clock: Arc<dyn Clock>) -> Self {
        Self::with_sync_delay(policy, clock, Duration::ZERO)
    }

    /// An empty ledger whose writes are answered after a simulated sync of this length.
    #[must_use]
    pub fn with_sync_delay(policy: Policy, clock: Arc<dyn Clock>, sync_delay: Duration) -> Self {
        let id = TaskId::new(clock.now(), [0; 10]).0;
        Self::around(Tables::new(policy), id, clock, sync_delay)
    }

    /// Keeps at most this many ended tasks in detail: the oldest are forgotten with their journal and
    /// their questions, but stay counted; a repeated submit of one is a new task. Without it all are
    /// kept. A bench that ends millions needs it.
    #[must_use]
    pub fn finished_max(self, tasks: usize) -> Self {
        if let Some(tables) = &mut self.shared.inner.lock().tables {
            tables.tasks.ended_max(tasks);
        }
        self
    }

    /// Goes on with another clock, as a ledger does that is opened by another process: after a
    /// [`crash`](Self::crash), say. Stamps go on from the highest time written, whatever it says.
    #[must_use]
    pub fn on_clock(self, clock: Arc<dyn Clock>) -> Self {
        {
            let mut inner = self.shared.inner.lock();
            let highest = inner
                .tables
                .as_ref()
                .map_or_else(Timestamp::default, Tables::highest);
            inner.stamps = StampClock::new(clock.now(), highest);
            inner.clock = clock;
        }
        self
    }

    fn around(tables: Tables, id: Uuid, clock: Arc<dyn Clock>, sync_delay: Duration) -> Self {
        let (latest, _) = watch::channel(tables.cursor());
        let (posted, _) = watch::channel(tables.outbox_last);
        let (ready_wakes, _) = watch::channel(0);
        let (health, _) = watch::channel(Health::Working);
        let inner = Inner {
            stamps: StampClock::new(clock.now(), tables.highest()),
            tables: Some(tables),
            open: true,
            clock,
            syncing: None,
            queued: Vec::new(),
            driver: None,
            syncs: 0,
        };
        let shared = Shared {
            id,
            sync_delay,
            inner: Mutex::new(inner),
            latest,
            posted,
            ready_wakes,
            health,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Cuts the power: what was not synced is gone, its callers and all later ones get `Shut`. Returns
    /// the ledger as it is found after the power is back, on the same clock
    /// ([`on_clock`](Self::on_clock) gives it another). Also opens a closed ledger again.
    ///
    /// # Panics
    /// When this ledger was taken before.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_with(InFlight::Dropped)
    }

    /// As [`crash`](Self::crash), with a say in what became of the sync that was under way.
    ///
    /// # Panics
    /// When this ledger was taken before.
    #[must_use]
    pub fn crash_with(&self, in_flight: InFlight) -> Self {
        let mut inner = self.shared.inner.lock();
        inner.open = false;
        inner.stop_driver();
        inner.queued.clear();
        let group = inner.syncing.take();
        let mut tables = inner
            .tables
            .take()
            .expect("a ledger is taken out by one crash only");
        if in_flight == InFlight::Written
            && let Some(group) = group
        {
            drop(group.execute(&mut tables));
        }
        tables.forget_volatile();
        let clock = Arc::clone(&inner.clock);
        drop(inner);
        Self::around(tables, self.shared.id, clock, self.shared.sync_delay)
    }

    fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> Result<T, LedgerError> {
        match &*self.shared.inner.lock() {
            Inner {
                tables: Some(tables),
                open: true,
                ..
            } => Ok(read(tables)),
            _ => Err(LedgerError::Shut),
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Tables, Timestamp) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        if self.shared.sync_delay.is_zero() {
            return self.shared.write_now(write);
        }
        let (reply, answer) = oneshot::channel();
        self.enqueue(Box::new(move |tables, stamp| {
            let answer = write(tables, stamp);
            // A caller who has gone does not undo the write.
            Box::new(move || drop(reply.send(answer)))
        }))?;
        answer.await.map_err(|_| LedgerError::Shut)
    }

    /// Lets a write join the next sync, and begins that when none is under way.
    fn enqueue(&self, write: Write) -> Result<(), LedgerError> {
        let mut inner = self.shared.inner.lock();
        if !inner.open {
            return Err(LedgerError::Shut);
        }
        let waiting = inner.queued.len() + inner.syncing.as_ref().map_or(0, |g| g.writes.len());
        if waiting >= QUEUE_MAX {
            return Err(LedgerError::Busy { waiting });
        }
        inner.queued.push(write);
        if inner.syncing.is_none() {
            inner.begin_sync(self.shared.sync_delay);
        }
        // A driver whose runtime has gone has ended, with or without its syncs.
        if inner.driver.as_ref().is_none_or(AbortHandle::is_finished) {
            let shared = Arc::clone(&self.shared);
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends by itself when nothing is queued, and `Inner::driver` ends it before"
            )]
            let driver = tokio::spawn(shared.drive());
            inner.driver = Some(driver.abort_handle());
        }
        Ok(())
    }
}

impl Shared {
    /// Ends one sync after the other, each in its time, until nothing is queued.
    async fn drive(self: Arc<Self>) {
        while let Some(ends) = self.next_end() {
            tokio::time::sleep_until(ends).await;
            self.end_sync();
        }
    }

    /// When the sync under way ends; without one the driver is done.
    fn next_end(&self) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let ends = inner.syncing.as_ref().map(|group| group.ends);
        if ends.is_none() {
            inner.driver = None;
        }
        ends
    }

    fn end_sync(&self) {
        let mut inner = self.inner.lock();
        let Some(group) = inner.syncing.take() else {
            return;
        };
        if let Some(tables) = &mut inner.tables {
            let answers = group.execute(tables);
            self.announce(tables);
            answers.into_iter().for_each(|answer| answer());
            inner.syncs += 1;
        }
        inner.begin_sync(self.sync_delay);
    }

    fn write_now<T>(
        &self,
        write: impl FnOnce(&mut Tables, Timestamp) -> T,
    ) -> Result<T, LedgerError> {
        let mut inner = self.inner.lock();
        let stamp = inner.now();
        let Inner {
            tables: Some(tables),
            open: true,
            syncs,
            ..
        } = &mut *inner
        else {
            return Err(LedgerError::Shut);
        };
        *syncs += 1;
        tables.stamped(stamp);
        let answer = write(tables, stamp);
        self.announce(tables);
        Ok(answer)
    }

    /// Tells who watches what a group has changed.
    fn announce(&self, tables: &mut Tables) {
        let cursor = tables.cursor();
        self.latest
            .send_if_modified(|seen| std::mem::replace(seen, cursor) != cursor);
        let posted = tables.outbox_last;
        self.posted
            .send_if_modified(|seen| std::mem::replace(seen, posted) != posted);
        if tables.take_woken() {
            self.ready_wakes.send_modify(|wakes| *wakes += 1);
        }
    }
}

impl Group {
    fn execute(self, tables: &mut Tables) -> Vec<Answer> {
        tables.stamped(self.stamp);
        let writes = self.writes.into_iter();
        writes.map(|write| write(tables, self.stamp)).collect()
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        self.stamps.at(self.clock.now())
    }

    /// Begins to sync what is queued, if anything is.
    fn begin_sync(&mut self, delay: Duration) {
        let writes = std::mem::take(&mut self.queued);
        if writes.is_empty() {
            return;
        }
        self.syncing = Some(Group {
            stamp: self.now(),
            ends: Instant::now() + delay,
            writes,
        });
    }

    fn stop_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.abort();
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    fn id(&self) -> Uuid {
        self.shared.id
    }

    fn now(&self) -> Timestamp {
        self.shared.inner.lock().now()
    }

    fn ready_wakes(&self) -> watch::Receiver<u64> {
        self.shared.ready_wakes.subscribe()
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.shared.latest.subscribe()
    }

    fn posted(&self) -> watch::Receiver<u64> {
        self.shared.posted.subscribe()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    async fn register(&self, node: &NodeId, others: Others) -> Result<Registered, LedgerError> {
        let node = node.clone();
        self.write(move |tables, now| tables.register(&node, others, now))
            .await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.write(|tables, now| tables.submit(tasks, now)).await?
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, LedgerError> {
        self.write(move |tables, now| tables.claim(&request, now))
            .await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, LedgerError> {
        self.write(|tables, now| tables.commit(commit, now)).await?
    }

    async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError> {
        self.write(move |tables, now| tables.decide(id, request, &decision, now))
            .await?
    }

    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.write(move |tables, now| tables.cancel(task, request, now))
            .await?
    }

    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError> {
        self.write(move |tables, now| tables.expire(limit, now))
            .await
    }

    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.write(move |tables, now| tables.revive(task, request, now))
            .await?
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        self.read(|tables| tables.get(task))?
    }

    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError> {
        self.read(|tables| tables.list(&filter))
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        self.read(|tables| tables.journal(task))?
    }

    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        self.read(|tables| tables.approval(id))?
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, LedgerError> {
        self.read(|tables| tables.approvals(&filter))
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        let syncs = self.shared.inner.lock().syncs;
        self.read(|tables| tables.counts(syncs))
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.read(|tables| tables.changes(after, limit))?
    }

    async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, LedgerError> {
        self.read(|tables| tables.outbox(&filter))
    }

    async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, LedgerError> {
        self.write(|tables, now| tables.acknowledge(messages, now))
            .await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.write(|tables, now| tables.learn(episodes, now)).await
    }

    async fn episode_streams(&self) -> Result<Vec<EpisodeStream>, LedgerError> {
        self.read(Tables::episode_streams)
    }

    async fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Result<Page<EpisodeChange>, LedgerError> {
        self.read(|tables| tables.episodes(stream, after, limit))
    }

    async fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> Result<u64, LedgerError> {
        self.read(|tables| tables.episodes_floor(stream, live))
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<Vec<AgentId>, LedgerError> {
        self.write(|tables, _| tables.save_agents(agents)).await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.read(Tables::agents)
    }

    async fn save_snapshot(&self, key: SnapshotKey, snapshot: Snapshot) -> Result<(), LedgerError> {
        self.write(|tables, _| tables.save_snapshot(key, snapshot))
            .await
    }

    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>, LedgerError> {
        self.read(|tables| tables.snapshot(key))
    }

    async fn verify(&self) -> Result<Verification, LedgerError> {
        self.read(Tables::verify)
    }

    async fn close(&self) {
        let mut inner = self.shared.inner.lock();
        inner.open = false;
        inner.stop_driver();
        drop(inner);
        while self.shared.inner.lock().syncing.is_some() {
            self.shared.end_sync();
        }
    }
}
