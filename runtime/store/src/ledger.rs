//! What a ledger does, whatever engine keeps it. What becomes of a task is decided by the rules of
//! [`colony_core::ledger`]; an engine selects, applies and counts.
//!
//! ```text
//!   submit ─► claim ─► commit(Continue)* ─► commit(Wait | End | Release)
//!                                             Wait ─► decide ─► (ready) claim ─► …
//! ```
//! Every method that returns `Ok` has made its effect durable first: a power cut after the return loses
//! nothing. Callers may issue any number of calls at once; engines commit in groups, without a timer.
//! Requests carry no time: the engine stamps each group with its own ([`Ledger::now`]).
//!
//! All methods are cancel-safe in this sense: a call dropped before it returned was either done whole or
//! not at all, and repeating it with the same ids does no harm. What must happen after a durable write is
//! triggered by the write ([`Ledger::ready_wakes`], [`Ledger::latest`]), never by the caller, who may
//! have left. Repeats are known by: the task's id (submit), batch (claim), fence and entries (commit),
//! request id (decide, cancel).

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::{
    cycle::{Decision, EscalationReason},
    id::{
        AgentId, ApprovalId, IdPrefix, Incarnation, NodeId, QueueName, RequestId, TaskId, Tenant,
        TypeName,
    },
    journal::Entry,
    task::{Spec, State, TraceContext},
    unit::Timestamp,
};
use tokio::sync::watch;
use uuid::Uuid;

pub use crate::error::LedgerError;

pub use colony_core::ledger::{
    AttemptCounts, ClaimRef, Commit, Episode, InboxItem, MessageId, OutboxMessage, Policy,
    Question, QuestionState, Record, Settlement, TaskHead,
    submit::{NewTask, Submitted},
};

/// Asks for work.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who claims.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// Counts up within this life, from 1; a repeat carries the number of the call it repeats. A node has
    /// one claim under way at a time.
    pub batch: u64,
    /// Queues it has agents for, with how many are free.
    pub free: BTreeMap<QueueName, u32>,
    /// Most tasks taken in all.
    pub total: u32,
}

/// The answer to a claim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    /// The tasks, the lowest sort keys first, whatever their queues.
    pub claims: Vec<Claim>,
    /// Time until the next task of the whole ledger becomes claimable by time alone, as of the same
    /// transaction; none: no task waits for time. Nobody calls when it has passed: whoever claims sets a
    /// timer.
    pub next_due: Option<Duration>,
}

/// A task in a node's hands.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Its head; while the claim stands nobody but its holder changes it (P8).
    pub head: TaskHead,
    /// What is asked.
    pub spec: Arc<Spec>,
    /// Whether there are journal entries: a fresh task needs no look at the journal.
    pub has_journal: bool,
    /// What others have written for its holder; taken with the holder's next commit.
    pub inbox: Vec<InboxItem>,
}

impl Claim {
    /// Its name.
    #[must_use]
    pub const fn reference(&self) -> ClaimRef {
        ClaimRef {
            task: self.head.id,
            fence: self.head.fence,
        }
    }

    /// The task's trace context.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.spec.trace
    }
}

/// Who else may hold claims in this ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nobody: the caller is the only node, so what any other name holds was its own under that name.
    /// The claims are lost to it like those of its former lives.
    Nobody,
    /// Other nodes, whose claims are left alone.
    Nodes,
}

/// What a node is told when it begins a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its life.
    pub incarnation: Incarnation,
    /// Tasks that former lives, or other names of it, held: ready again.
    pub lost: Vec<TaskId>,
    /// Names other than its own under which claims were found, with [`Others::Nobody`].
    pub adopted: Vec<NodeId>,
    /// Of the lost tasks, those whose last claims all ended so: they may be what kills nodes.
    pub suspects: Vec<TaskId>,
}

/// What a decision did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The task that had asked.
    pub task: TaskId,
    /// Where it stands now.
    pub state: State,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The numbers of its episodes, in order.
    pub episodes: Vec<u64>,
    /// Where the task stands now.
    pub state: Option<State>,
}

/// A question as it stands in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// What was asked.
    pub question: Question,
    /// The task that asked.
    pub task: TaskId,
    /// What the task asks.
    pub spec: Arc<Spec>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Where it stands.
    pub state: QuestionState,
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
    /// Raised by every save; a save shows the one it read (0: there was none) and is refused otherwise.
    pub revision: u64,
    /// The version of its type's declaration.
    pub version: u32,
    /// What it has done.
    pub track: Track,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Agent {
    /// The row after this save over the `known` one; none: somebody else has saved since it was read. A
    /// repeat of the save that made the row saves it again.
    #[must_use]
    pub fn saved_over(&self, known: Option<&Self>) -> Option<Self> {
        let saved = Self {
            revision: self.revision + 1,
            ..self.clone()
        };
        let revision = known.map_or(0, |known| known.revision);
        (revision == self.revision || known == Some(&saved)).then_some(saved)
    }
}

/// Names a component's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotKey {
    /// Whose: each node has its own.
    pub node: NodeId,
    /// Which component, such as `field`, and whatever it keeps apart.
    pub name: String,
}

/// A component's snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The layout of the body: a component that knows another one does without.
    pub version: u32,
    /// Whatever the component keeps.
    pub body: Vec<u8>,
}

/// Names a stream of episodes: what the agents of one type learn for one tenant, and forget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpisodeStream {
    /// Whose.
    pub tenant: Tenant,
    /// Which agent type shares it.
    pub agent_type: TypeName,
}

impl EpisodeStream {
    /// The stream that an episode is learned in.
    #[must_use]
    pub fn of(episode: &Episode) -> Self {
        Self {
            tenant: episode.tenant.clone(),
            agent_type: episode.agent_type.clone(),
        }
    }
}

/// One place in a stream of episodes.
#[derive(Debug, Clone, PartialEq)]
pub enum EpisodeChange {
    /// It was learned. One that was forgotten since has lost its text.
    Learned(Episode),
    /// An episode counts no more: its task taught another one since, here or in another stream.
    Forgotten {
        /// The number at which this was written; higher than the episode's own.
        number: u64,
        /// The episode's number.
        episode: u64,
    },
}

impl EpisodeChange {
    /// Its place in the stream.
    #[must_use]
    pub const fn number(&self) -> u64 {
        match self {
            Self::Learned(episode) => episode.number,
            Self::Forgotten { number, .. } => *number,
        }
    }
}

/// Longest page of tasks or questions: what a reader takes in at once, and what a lock is held for.
pub const PAGE_MAX: u32 = 1_000;

/// Bytes of payload after which a page ends, whatever its length: it fits a message of 4 MiB with room
/// for everything around it. A page holds one item at least.
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A page, and whether there is more after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether another page follows.
    pub more: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            more: false,
        }
    }
}

/// Which tasks to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only these states; empty = all.
    pub states: Vec<State>,
    /// Only this type's.
    pub agent_type: Option<TypeName>,
    /// Only ids that begin so.
    pub id_prefix: Option<IdPrefix>,
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
    /// Not only open ones.
    pub closed_too: bool,
    /// Only this type's.
    pub agent_type: Option<TypeName>,
    /// Only those asked for one of these reasons; empty = all.
    pub escalation_reasons: Vec<EscalationReason>,
    /// Only those asked at this moment or before.
    pub asked_until: Option<Timestamp>,
    /// Only those that hold this text, in any case: in the task, the question or the proposal.
    pub search: Option<String>,
    /// Only this task's.
    pub task: Option<TaskId>,
    /// Only ids that begin so.
    pub id_prefix: Option<IdPrefix>,
    /// Only questions with an id above this one: the last of the page before.
    pub after: Option<ApprovalId>,
    /// Longest page; 0 = [`PAGE_MAX`], and more is cut to it.
    pub limit: u32,
}

impl ApprovalFilter {
    /// Whether a question is of those to list, wherever the page begins.
    #[must_use]
    pub fn matches(&self, approval: &Approval) -> bool {
        let Approval { question, spec, .. } = approval;
        let holds = |text: &String| {
            let holds = |part: &str| part.to_lowercase().contains(text);
            holds(&spec.input) || holds(&question.question) || holds(&question.proposal.text)
        };
        (self.closed_too || approval.state == QuestionState::Open)
            && self.tenant.as_ref().is_none_or(|t| spec.tenant == *t)
            && self
                .agent_type
                .as_ref()
                .is_none_or(|t| spec.agent_type == *t)
            && (self.escalation_reasons.is_empty()
                || self
                    .escalation_reasons
                    .contains(&question.escalation_reason))
            && self
                .asked_until
                .is_none_or(|until| approval.asked_at <= until)
            && self.task.is_none_or(|task| approval.task == task)
            && self
                .id_prefix
                .is_none_or(|prefix| prefix.begins(question.id.0))
            && self
                .search
                .as_ref()
                .map(|text| text.to_lowercase())
                .as_ref()
                .is_none_or(holds)
    }
}

/// A message of the outbox as it stands in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Posted {
    /// Counts up within the ledger, over all destinations: later ones have higher numbers, also those committed
    /// late. No number is given twice.
    pub number: u64,
    /// When it was posted.
    pub posted_at: Timestamp,
    /// When it was acknowledged.
    pub acknowledged_at: Option<Timestamp>,
    /// What is delivered.
    pub message: OutboxMessage,
}

impl Posted {
    /// Tells this message from another one with the same number, as a ledger has that went on from an older copy.
    /// A checksum, like [`Change::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.number.to_le_bytes());
        hasher.update(self.message.key.as_str().as_bytes());
        hasher.update(&self.message.index.to_le_bytes());
        hasher.update(&self.posted_at.as_micros().to_le_bytes());
        hasher.finalize()
    }
}

/// Which messages of the outbox to list. Oldest first.
#[derive(Debug, Clone, Default)]
pub struct OutboxFilter {
    /// Only those to this destination.
    pub destination: Option<String>,
    /// Not only those that nobody has acknowledged.
    pub acknowledged_too: bool,
    /// Only messages with a number above this one: the last of the page before.
    pub after: u64,
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

impl Change {
    /// Tells this change from another one with the same cursor, as a ledger has that went on from an older copy.
    /// A checksum, no proof: one in four billion is mistaken.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.cursor.to_le_bytes());
        hasher.update(self.task.0.as_bytes());
        hasher.update(self.state.to_string().as_bytes());
        hasher.update(&self.at.as_micros().to_le_bytes());
        hasher.finalize()
    }
}

/// How many tasks are in each state; their sum is the number accepted since the ledger began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted since the ledger began.
    pub accepted: u64,
    /// By state; every state has an entry.
    pub by_state: BTreeMap<State, u64>,
    /// Group commits made durable since this process opened the ledger.
    pub syncs: u64,
    /// Rows that could not be read and were set aside.
    pub quarantined: u64,
}

/// A row that could not be read: set aside with the reason, the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The table.
    pub table: String,
    /// The key, as hexadecimal or text.
    pub key: String,
    /// Why it cannot be read.
    pub reason: String,
    /// When it was found.
    pub at: Timestamp,
}

/// What [`Ledger::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Rows read, by table.
    pub rows: BTreeMap<String, u64>,
    /// Rows that cannot be read, found now or set aside before.
    pub quarantined: Vec<Quarantined>,
    /// What else is wrong: the file's structure, counters that do not add up. Empty: the ledger is whole.
    pub problems: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.quarantined.is_empty() && self.problems.is_empty()
    }
}

/// Whether a ledger still works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It does.
    #[default]
    Working,
    /// It has stopped for good, and why: the node must stop too.
    Failed(String),
}

/// The ledger.
#[async_trait]
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Names this ledger among all others, for ever: cursors are good for one ledger only.
    fn id(&self) -> Uuid;

    /// The ledger's time: what a request executed now would be stamped with, or a little earlier.
    fn now(&self) -> Timestamp;

    /// Rises with every durable group after which a task is claimable, now or at a known time, that was
    /// not before.
    fn ready_wakes(&self) -> watch::Receiver<u64>;

    /// The highest cursor made durable; wakes watchers.
    fn latest(&self) -> watch::Receiver<Cursor>;

    /// The highest number of a message of the outbox made durable; wakes who delivers them.
    fn posted(&self) -> watch::Receiver<u64>;

    /// Whether it works.
    fn health(&self) -> watch::Receiver<Health>;

    /// Begins a new life of `node`, and makes every claim of its earlier lives ready again, in the same
    /// transaction. No task dies of it.
    ///
    /// # Errors
    /// Storage.
    async fn register(&self, node: &NodeId, others: Others) -> Result<Registered, LedgerError>;

    /// Writes tasks down, all or none; answers in the same order. What is known already is answered before
    /// anything else is judged.
    ///
    /// # Errors
    /// `Refused`, `Full`, `Busy`, storage: then none was written.
    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError>;

    /// Takes ready tasks as [`colony_core::ledger::plan_claim`] says, and raises each fence. A repeat gets
    /// what its batch holds still; a copy that comes late and a former life of a node get nothing.
    ///
    /// # Errors
    /// Storage.
    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, LedgerError>;

    /// Makes everything in `commit` durable, or nothing.
    ///
    /// # Errors
    /// `Lost` when the claim has moved on, `NoTask`, `Sequence` and `Conflict` when the entries do not fit
    /// the journal, storage.
    async fn commit(&self, commit: Commit) -> Result<Committed, LedgerError>;

    /// Writes a human's decision to the inbox of the task that asked, and makes it ready if it waits.
    ///
    /// # Errors
    /// `NoApproval`, `Decided`, `Closed`, `RequestConflict`, storage.
    async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError>;

    /// Ends a live task; returns the state it was in, `Cancelled` for a repeat. A running agent finds its
    /// claim lost.
    ///
    /// # Errors
    /// `NoTask`, `Ended`, `RequestConflict`, storage.
    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError>;

    /// Ends live tasks whose deadline has passed, the earliest first, at most `limit`; returns them. As
    /// many as `limit`: there may be more.
    ///
    /// # Errors
    /// Storage.
    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError>;

    /// Makes a dead, cancelled or expired task ready again; returns the state it was in, `Ready` for a
    /// repeat.
    ///
    /// # Errors
    /// `NoTask`, `NotRevivable`, `Full`, `RequestConflict`, storage.
    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError>;

    /// One task, live or ended.
    ///
    /// # Errors
    /// `NoTask`, storage.
    async fn get(&self, task: TaskId) -> Result<Record, LedgerError>;

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// Storage.
    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError>;

    /// A task's journal, in order; empty for a task not begun.
    ///
    /// # Errors
    /// `NoTask`, storage.
    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError>;

    /// One question.
    ///
    /// # Errors
    /// `NoApproval`, storage.
    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError>;

    /// A page of questions, oldest first.
    ///
    /// # Errors
    /// Storage.
    async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, LedgerError>;

    /// How many tasks are in each state, as of one moment.
    ///
    /// # Errors
    /// Storage.
    async fn counts(&self) -> Result<Counts, LedgerError>;

    /// Changes after `after`, oldest first, at most `limit`. Engines keep the last [`CHANGES_KEPT`], and
    /// cursors have no gaps: the first change is `after + 1`.
    ///
    /// # Errors
    /// `OutOfRange` when that change is not kept any more, or when `after` lies in the future; storage.
    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError>;

    /// A page of the outbox, oldest first.
    ///
    /// # Errors
    /// Storage.
    async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, LedgerError>;

    /// Notes that messages were delivered; a repeat does nothing. Returns those that are not there: never posted,
    /// or forgotten after they were acknowledged. Also forgets what was acknowledged long enough ago
    /// ([`Policy::outbox_horizon`]).
    ///
    /// # Errors
    /// Storage.
    async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, LedgerError>;

    /// Keeps episodes that no claim carries, such as feedback after the end; the last one of a task
    /// counts, and forgets the one before. What a task teaches already is not learned again. Returns their
    /// numbers.
    ///
    /// # Errors
    /// Storage.
    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError>;

    /// Every stream in which something was learned, in order.
    ///
    /// # Errors
    /// Storage.
    async fn episode_streams(&self) -> Result<Vec<EpisodeStream>, LedgerError>;

    /// What was learned and forgotten in a stream after the number `after`, all of it, in the order in
    /// which it was written: nothing appears later at or below a number that was told of. An episode that
    /// cannot be read is left out. A page with more after it holds something.
    ///
    /// # Errors
    /// Storage.
    async fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Result<Page<EpisodeChange>, LedgerError>;

    /// The number after which the newest `live` episodes of a stream lie that count still; 0 when there
    /// are no more than that. Where a reader begins that wants no others.
    ///
    /// # Errors
    /// Storage.
    async fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> Result<u64, LedgerError>;

    /// Keeps agents as they are now. Returns those whose row has another revision than they show: they
    /// were not saved.
    ///
    /// # Errors
    /// Storage.
    async fn save_agents(&self, agents: Vec<Agent>) -> Result<Vec<AgentId>, LedgerError>;

    /// Every agent kept, by id.
    ///
    /// # Errors
    /// Storage.
    async fn agents(&self) -> Result<Vec<Agent>, LedgerError>;

    /// Keeps a component's snapshot; replaces the one of the same key.
    ///
    /// # Errors
    /// Storage.
    async fn save_snapshot(&self, key: SnapshotKey, snapshot: Snapshot) -> Result<(), LedgerError>;

    /// A component's snapshot, if there is one.
    ///
    /// # Errors
    /// Storage.
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>, LedgerError>;

    /// Reads everything and compares it with its checksums and counters; sets aside what cannot be read.
    ///
    /// # Errors
    /// Storage.
    async fn verify(&self) -> Result<Verification, LedgerError>;

    /// Writes out what is queued and closes. Later calls answer `Shut`.
    async fn close(&self);
}
