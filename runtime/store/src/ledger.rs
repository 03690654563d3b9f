//! What a book must do, whatever engine keeps it.
//!
//! ```text
//!   submit ─► claim ─► commit(entries, Continue)* ─► commit(entries, End | Park | Retry | HandBack)
//!                                                        Park ─► decide ─► (ready) claim ─► …
//! ```
//! Every method that returns `Ok` has made its effect durable first: a power cut after the return loses
//! nothing. Callers may issue any number of calls at once; engines commit in groups, without a timer.
//! All methods are cancel-safe in this sense: a call dropped before it returned was either done whole or
//! not at all, and repeating it with the same ids does no harm.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::{
    cycle::{Decision, Doubt},
    id::{AgentId, ApprovalId, Fence, Incarnation, NodeId, TaskId, Tenant, TypeName},
    journal::{EffectKey, Entry},
    task::{Answer, Ending, Record, Spec, State, TraceContext},
    unit::Timestamp,
};
use tokio::sync::watch;

/// The rules an engine applies to every task.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Abnormal ends after which a task is dead. Default 5: enough for two node crashes and a bad deploy.
    pub deliveries_max: u32,
    /// Wait before the first redelivery; doubles each time.
    pub backoff_base: Duration,
    /// Longest wait before a redelivery.
    pub backoff_max: Duration,
    /// How much earlier one step of priority sorts: a critical task overtakes normal ones that were
    /// submitted up to 5 × this before it, and no task waits for ever.
    pub head_start: Duration,
    /// How long a deduplication key is remembered.
    pub dedupe_ttl: Duration,
    /// Most live tasks; beyond it submit answers [`LedgerError::Full`].
    pub live_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deliveries_max: 5,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(60),
            head_start: Duration::from_secs(60),
            dedupe_ttl: Duration::from_secs(30 * 24 * 3600),
            live_max: 1_000_000,
        }
    }
}

/// A task to be written down.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Drawn by the submitter; repeating a submit with the same id is answered with `Duplicate`.
    pub id: TaskId,
    /// What is asked.
    pub spec: Arc<Spec>,
    /// The present moment.
    pub now: Timestamp,
}

/// What became of a submitted task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is written down.
    Accepted(TaskId),
    /// The same request was written down before, as this task.
    Duplicate(TaskId),
    /// The deduplication key is taken by a task with another payload.
    Conflict(TaskId),
}

/// Asks for work.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who claims.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// Types it has agents for, with the most tasks wanted of each.
    pub wanted: BTreeMap<TypeName, u32>,
    /// The present moment.
    pub now: Timestamp,
}

/// Names a claim: writers show it, and are refused when the fence has moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimRef {
    /// The task.
    pub task: TaskId,
    /// The fence the claim raised it to.
    pub fence: Fence,
}

/// A task in a node's hands.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Its name.
    pub reference: ClaimRef,
    /// What is asked.
    pub spec: Arc<Spec>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// Abnormal ends so far.
    pub deliveries: u32,
    /// Whether there are journal entries: a fresh task needs no look at the journal.
    pub has_journal: bool,
}

/// A question to a human, written with the park.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its id.
    pub id: ApprovalId,
    /// Why a human is asked.
    pub doubt: Doubt,
    /// One line to read.
    pub question: String,
    /// What the agent would do.
    pub proposal: Answer,
}

/// A question as it stands in the book.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// What was asked.
    pub question: Question,
    /// The task that waits.
    pub task: TaskId,
    /// What the task asks.
    pub spec: Arc<Spec>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// What was decided, when it was. A question whose task ended otherwise is closed without one.
    pub decision: Option<Decision>,
    /// Whether nobody needs to decide any more.
    pub closed: bool,
}

/// What a tool wants delivered to the world outside. It becomes visible with the commit that carries it,
/// once per key: the transactional outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRecord {
    /// The effect that it is.
    pub key: EffectKey,
    /// The task that caused it.
    pub task: TaskId,
    /// A named queue, such as `tickets`.
    pub queue: String,
    /// What is delivered.
    pub payload: serde_json::Value,
}

/// What becomes of the claim with a commit.
#[derive(Debug, Clone)]
pub enum Then {
    /// The holder goes on.
    Continue,
    /// Wait for a human; claim and agent are released.
    Park(Box<Question>),
    /// The task has ended.
    End(Ending),
    /// Give it back untouched; not a delivery.
    HandBack,
    /// The holder failed: counts as a delivery, and the task is ready again after a backoff, or dead.
    Retry {
        /// One line on what failed.
        reason: String,
    },
}

/// Everything one claim holder wants durable at once.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Shown against the book; the whole commit is refused with [`LedgerError::Lost`] if it is old.
    pub claim: ClaimRef,
    /// The agent at work, recorded with the task.
    pub agent: Option<AgentId>,
    /// Journal entries, in sequence. An entry already there with the same sequence number is refused.
    pub entries: Vec<Entry>,
    /// Deliveries to the world outside.
    pub outbox: Vec<OutboxRecord>,
    /// What becomes of the claim.
    pub then: Then,
    /// The present moment.
    pub now: Timestamp,
}

/// An agent's track record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Track {
    /// Tasks it ended.
    pub tasks: u64,
    /// Of these, ended with an answer that stood.
    pub successes: u64,
    /// Questions it put to humans.
    pub escalations: u64,
    /// Times it crashed or hung.
    pub crashes: u64,
}

/// An agent as data: what wakes it up again as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Who.
    pub id: AgentId,
    /// The version of its type's declaration.
    pub version: u32,
    /// What it has done.
    pub track: Track,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Something learned: a percept and its right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Counts up within the book; 0 in a new one, the engine numbers it.
    pub number: u64,
    /// Whose.
    pub tenant: Tenant,
    /// Which agent type shares it.
    pub agent_type: TypeName,
    /// The task it came from; at most one episode a task, the last one counts.
    pub task: TaskId,
    /// The normalised text.
    pub text: String,
    /// The right answer.
    pub label: String,
    /// The embedding.
    pub vector: Arc<[f32]>,
    /// When it was learned.
    pub at: Timestamp,
}

/// Longest page of tasks or questions: what a reader takes in at once, and what a lock is held for.
pub const PAGE_MAX: u32 = 1_000;

/// Which tasks to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only these states; empty = all.
    pub states: Vec<State>,
    /// Only this type's.
    pub agent_type: Option<TypeName>,
    /// Only tasks with an id below this one: the last of the page before.
    pub before: Option<TaskId>,
    /// Longest page; 0 = [`PAGE_MAX`], and more is cut to it.
    pub limit: u32,
}

/// Which questions to list. Oldest first.
#[derive(Debug, Clone, Default)]
pub struct ApprovalFilter {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Closed ones too.
    pub closed_too: bool,
    /// Only questions with an id above this one: the last of the page before.
    pub after: Option<ApprovalId>,
    /// Longest page; 0 = [`PAGE_MAX`], and more is cut to it.
    pub limit: u32,
}

/// How many changes an engine keeps at least: minutes of full load for a watcher that was away.
pub const CHANGES_KEPT: u64 = 100_000;

/// A place in the stream of changes. Later changes have higher cursors, also those committed late.
pub type Cursor = u64;

/// A task changed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the stream.
    pub cursor: Cursor,
    /// Which task.
    pub task: TaskId,
    /// The state it is in now.
    pub state: State,
    /// When.
    pub at: Timestamp,
}

/// How many tasks are in each state; their sum is the number accepted since the book began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted since the book began.
    pub accepted: u64,
    /// By state; every state has an entry.
    pub by_state: BTreeMap<State, u64>,
    /// Group commits made durable since this process opened the book.
    pub syncs: u64,
}

/// Why the book refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The claim is no longer the caller's: somebody else has it or the task has ended. Discard the work.
    #[error("claim on task {task} with fence {fence} is lost; the task is {state}", fence = fence.0)]
    Lost {
        /// The task.
        task: TaskId,
        /// The fence that was shown.
        fence: Fence,
        /// Where the task stands.
        state: State,
    },
    /// A journal entry does not follow the last one: another writer was there first, or an entry is
    /// missing. Nothing of the commit was done.
    #[error("journal entry {sequence} of task {task} is out of order; the next is {expected}")]
    Sequence {
        /// The task.
        task: TaskId,
        /// The sequence number that was shown.
        sequence: u32,
        /// The one that would have been right.
        expected: u32,
    },
    /// No such task.
    #[error("no task {0}")]
    NoTask(TaskId),
    /// No such question.
    #[error("no approval {0}")]
    NoApproval(ApprovalId),
    /// The question is closed.
    #[error("approval {id} is closed: task {task} is {state}")]
    Closed {
        /// The question.
        id: ApprovalId,
        /// Its task.
        task: TaskId,
        /// Where the task stands.
        state: State,
    },
    /// The task has ended.
    #[error("task {task} has ended: it is {state}")]
    Ended {
        /// The task.
        task: TaskId,
        /// How.
        state: State,
    },
    /// Too many live tasks.
    #[error("{live} live tasks reach the limit of {limit}")]
    Full {
        /// Live tasks now.
        live: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many requests wait for the disk.
    #[error("the ledger has {waiting} requests waiting, its limit")]
    Busy {
        /// Requests waiting.
        waiting: usize,
    },
    /// The book cannot be opened, or was written by a newer version, or is open elsewhere.
    #[error("{path}: {what}")]
    Open {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// The disk or the engine failed; nothing of the request was done.
    #[error("ledger storage failed: {what}")]
    Storage {
        /// The engine's words.
        what: String,
    },
    /// A record in the book is damaged or was written by a newer version; nothing of the request was done.
    #[error("the ledger holds a record that cannot be read: {what}")]
    Unreadable {
        /// Which record, and why.
        what: String,
    },
    /// The engine was shut down.
    #[error("the ledger is closed")]
    Shut,
}

impl LedgerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Busy { .. } | Self::Storage { .. } => true,
            Self::Lost { .. }
            | Self::Sequence { .. }
            | Self::NoTask(_)
            | Self::NoApproval(_)
            | Self::Closed { .. }
            | Self::Ended { .. }
            | Self::Open { .. }
            | Self::Unreadable { .. }
            | Self::Shut => false,
        }
    }
}

/// The book.
#[async_trait]
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Begins a new life of `node`: raises and returns its incarnation, and makes every claim of its
    /// earlier lives ready again (an abnormal end: counts as a delivery, with backoff, perhaps dead).
    ///
    /// # Errors
    /// Storage.
    async fn begin(&self, node: &NodeId, now: Timestamp) -> Result<Incarnation, LedgerError>;

    /// Writes tasks down, all or none; answers in the same order.
    ///
    /// # Errors
    /// `Full`, `Busy`, storage: then none was written.
    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError>;

    /// Takes ready tasks: of each type as many as wanted, lowest sort key (submission time − priority ×
    /// head start) first. Raises each fence. A task whose deadline has passed is left to `expire`; a
    /// former life of a node gets nothing.
    ///
    /// # Errors
    /// Storage.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, LedgerError>;

    /// Makes everything in `commit` durable, or nothing.
    ///
    /// # Errors
    /// `Lost` when the claim has moved on, `NoTask`, `Sequence` when the entries do not follow the journal,
    /// storage.
    async fn commit(&self, commit: Commit) -> Result<(), LedgerError>;

    /// Writes a human's decision, journals it, and makes the parked task ready.
    ///
    /// # Errors
    /// `NoApproval`, `Closed`, storage.
    async fn decide(
        &self,
        id: ApprovalId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<TaskId, LedgerError>;

    /// Ends a live task; returns the state it was in. A running agent finds its claim lost.
    ///
    /// # Errors
    /// `NoTask`, `Ended`, storage.
    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<State, LedgerError>;

    /// Ends every live task whose deadline is `now` or earlier; returns them.
    ///
    /// # Errors
    /// Storage.
    async fn expire(&self, now: Timestamp) -> Result<Vec<TaskId>, LedgerError>;

    /// One task, live or ended.
    ///
    /// # Errors
    /// `NoTask`, storage.
    async fn get(&self, task: TaskId) -> Result<Record, LedgerError>;

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// Storage.
    async fn list(&self, filter: TaskFilter) -> Result<Vec<Record>, LedgerError>;

    /// A task's journal, in order; empty for a task not begun.
    ///
    /// # Errors
    /// `NoTask`, storage.
    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError>;

    /// A page of questions, oldest first.
    ///
    /// # Errors
    /// Storage.
    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<Approval>, LedgerError>;

    /// How many tasks are in each state, as of one moment.
    ///
    /// # Errors
    /// Storage.
    async fn counts(&self) -> Result<Counts, LedgerError>;

    /// Changes after `after`, oldest first, at most `limit`. Engines keep the last [`CHANGES_KEPT`]:
    /// cursors have no gaps, so a reader whose first change is not `after + 1` was too late and reads
    /// the tasks anew.
    ///
    /// # Errors
    /// Storage.
    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError>;

    /// The highest cursor made durable; wakes watchers.
    fn latest(&self) -> watch::Receiver<Cursor>;

    /// The times at which waiting tasks become due and deadlines pass: the earliest after `now`, if any.
    ///
    /// # Errors
    /// Storage.
    async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError>;

    /// Outbox records of a queue after the given row, oldest first: (row, record).
    ///
    /// # Errors
    /// Storage.
    async fn outbox(
        &self,
        queue: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, OutboxRecord)>, LedgerError>;

    /// Keeps episodes; one a task, the last one counts. Returns their numbers.
    ///
    /// # Errors
    /// Storage.
    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError>;

    /// Episodes with a number above `after`, in order.
    ///
    /// # Errors
    /// Storage.
    async fn episodes(&self, after: u64, limit: u32) -> Result<Vec<Episode>, LedgerError>;

    /// Keeps agents as they are now.
    ///
    /// # Errors
    /// Storage.
    async fn save_agents(&self, agents: Vec<Agent>) -> Result<(), LedgerError>;

    /// Every agent kept, by id.
    ///
    /// # Errors
    /// Storage.
    async fn agents(&self) -> Result<Vec<Agent>, LedgerError>;

    /// Keeps a room's snapshot under a name.
    ///
    /// # Errors
    /// Storage.
    async fn save_snapshot(&self, name: &str, body: Vec<u8>) -> Result<(), LedgerError>;

    /// A room's snapshot, if there is one.
    ///
    /// # Errors
    /// Storage.
    async fn snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError>;

    /// Writes out what is queued and closes. Later calls answer `Shut`.
    async fn close(&self);
}

/// The trace a claim belongs to; a shorthand used by every room.
impl Claim {
    /// The task's trace context.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.spec.trace
    }
}
