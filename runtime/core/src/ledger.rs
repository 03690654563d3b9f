//! The ledger's rules: what may become of a task, decided once for every engine.
//!
//! ```text
//!             submit                claim                    commit(End)
//!   (nothing) ──────► ready ──────────────────► claimed ─────────────────► done | failed
//!                     ▲ ▲ ▲   ◄─ release, lose ── │ │
//!                     │ │ └────── due             │ └─ commit(Release), attempts exhausted ─► dead
//!                     │ └─ decide ── waiting ◄────┘ commit(Wait)
//!                     └─── revive ── dead | cancelled | expired
//!   ready, claimed, waiting ── cancel ─► cancelled, ── expire ─► expired, ── quarantine ─► dead
//! ```
//! A *rule* is a pure function over a [`TaskHead`] that its caller holds; it gives a [`Transition`] or a
//! refusal. A *selection* ([`Select`]) is a predicate and an order. An engine selects, applies transitions
//! whose [`Stamp`] still matches, and counts; it decides nothing. `now` is the engine's stamp for the
//! group of requests it executes together ([`StampClock`]).
//!
//! P8, on which everything rests: while a task is claimed, others can only take the claim away (any end,
//! [`settle::lose`]); nobody but the holder changes a head that stays claimed. So what a commit makes of a head
//! needs nothing but the one that the claim's answer carried, and the engine compares *state = claimed
//! and fence*. Every write of a head raises its revision; a commit that only appends to the journal
//! writes no head. These sentences were model-checked: docs/adr/0008-the-ledgers-rules-stand-once.md.

pub mod claim;
pub mod commit;
pub mod retry;
pub mod select;
pub mod settle;
pub mod submit;

mod stamps;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub use self::{
    claim::{Pick, ReadyGroup, Shares, plan_claim},
    retry::{Disposition, Trouble},
    select::Select,
    stamps::StampClock,
};
use serde::{Deserialize, Serialize};

use crate::{
    cycle::{Decision, EscalationReason},
    escalation::Evidence,
    id::{
        AgentId, ApprovalId, Fence, Incarnation, NodeId, QueueName, RequestId, TaskId, Tenant,
        TypeName,
    },
    journal::{EffectKey, Entry},
    mutant, span,
    task::{Answer, Ending, Spec, State},
    unit::Timestamp,
};

/// What the rules are given beside heads: the settings of `[ledger]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Failed attempts after which a task is dead. Default 5. Only the task's own failures count: a
    /// node's death and a model that is away do not.
    pub attempts_max: u32,
    /// Wait after the first failed attempt; doubles with each.
    #[serde(with = "span")]
    pub backoff_base: Duration,
    /// Longest wait after a failed attempt.
    #[serde(with = "span")]
    pub backoff_max: Duration,
    /// Claims in a row that ended with the death of their node, after which the task is called a suspect.
    pub suspect_losses: u32,
    /// How much earlier one step of priority sorts: a critical task overtakes normal ones that were
    /// submitted up to 5 × this before it, and no task waits for ever.
    #[serde(with = "span")]
    pub head_start: Duration,
    /// How long a deduplication key is remembered.
    #[serde(with = "span")]
    pub dedupe_ttl: Duration,
    /// How long an acknowledged message of the outbox is kept, at least.
    #[serde(with = "span")]
    pub outbox_ttl: Duration,
    /// Most live tasks; beyond it a submit is refused.
    pub live_max: u64,
    /// What each tenant's claims weigh against the others'; 1 where it is not named.
    pub tenant_weights: BTreeMap<Tenant, u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(60),
            suspect_losses: 3,
            head_start: Duration::from_secs(60),
            dedupe_ttl: Duration::from_secs(30 * 24 * 3600),
            outbox_ttl: Duration::from_secs(7 * 24 * 3600),
            live_max: 1_000_000,
            tenant_weights: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// What was acknowledged up to this moment is forgotten at `now`, once its task has ended: while that lives,
    /// a commit that is repeated finds its messages by their keys.
    #[must_use]
    pub fn outbox_horizon(&self, now: Timestamp) -> Timestamp {
        let ttl = u64::try_from(self.outbox_ttl.as_micros()).unwrap_or(u64::MAX);
        Timestamp::from_micros(now.as_micros().saturating_sub(ttl))
    }
}

/// Who holds a claimed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The claim request that took the task.
    pub batch: u64,
}

/// What a waiting task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A human's answer to this question.
    Human(ApprovalId),
}

/// What a client asks of a task under an id of its own. It is kept with the task, so that its repeat does
/// nothing, whatever became of the task since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRequest {
    /// The client's id for it.
    pub id: RequestId,
    /// What is asked.
    pub verb: ClientVerb,
}

/// What a client can ask of a task more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientVerb {
    /// To end it.
    Cancel,
    /// To make it ready again.
    Revive,
}

/// The commit that last settled a task: what recognises its repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastRequest {
    /// The holder under this fence let the task wait.
    Waited(Fence),
    /// The holder under this fence ended the task.
    Ended(Fence),
    /// The holder under this fence released the task.
    Released(Fence),
}

/// A task as the rules see it: everything that can change, and nothing of what is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskHead {
    /// Which task.
    pub id: TaskId,
    /// Whose.
    pub tenant: Tenant,
    /// Where it waits for a claim.
    pub queue: QueueName,
    /// Where it stands.
    pub state: State,
    /// Raised by every write of this head.
    pub revision: u64,
    /// Raised by every claim, loss and revival. A writer that shows an older one is refused.
    pub fence: Fence,
    /// Who holds it; some exactly while it is claimed.
    pub holder: Option<Holder>,
    /// Attempts that ended by the task's own failure.
    pub failed_attempts: u32,
    /// Its last claims that ended because the node died: a claim that ends otherwise, without ending the task,
    /// begins the count anew.
    pub node_losses: u32,
    /// Only while ready: not claimable before this moment.
    pub not_before: Option<Timestamp>,
    /// After this moment it expires.
    pub deadline: Option<Timestamp>,
    /// Its place in the queue, the lowest first: [`submit::sort_key`].
    pub sort_key: i64,
    /// What it waits for; some exactly while it is waiting.
    pub wait: Option<Wait>,
    /// The agent that settled it last.
    pub agent: Option<AgentId>,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// What recognises the repeat of the commit that settled it last.
    pub last_request: Option<LastRequest>,
    /// How it ended; some exactly when it has.
    pub ending: Option<Ending>,
}

impl TaskHead {
    /// Whether so many of its last claims all ended with the death of their node that it may be what kills nodes.
    #[must_use]
    pub fn is_suspect(&self, policy: &Policy) -> bool {
        self.node_losses >= policy.suspect_losses
    }

    /// Whether it stands in its queue: ready, and waiting for no moment. One that is past its deadline stands there
    /// until it ends, and is claimed by nobody.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.state == State::Ready && self.not_before.is_none()
    }

    /// The moment that it waits for before it stands in its queue, while it is ready.
    #[must_use]
    pub fn due_at(&self) -> Option<Timestamp> {
        self.not_before.filter(|_| self.state == State::Ready)
    }

    /// The moment at which it expires, while it lives.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.deadline.filter(|_| !self.state.is_final())
    }
}

/// A task as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub head: TaskHead,
    /// What was asked; never changes.
    pub spec: Arc<Spec>,
}

/// What a head must still be for a transition to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Claimed under this fence: the holder's own writes.
    Held(Fence),
    /// Exactly the head that the rule saw: everybody else's.
    Unchanged {
        /// Its state.
        state: State,
        /// Its revision.
        revision: u64,
    },
}

impl Stamp {
    /// The stamp of a rule that saw `head` and does not hold it.
    #[must_use]
    pub const fn of(head: &TaskHead) -> Self {
        Self::Unchanged {
            state: head.state,
            revision: head.revision,
        }
    }

    /// Whether `head` is still what the transition expects.
    #[must_use]
    pub fn matches(&self, head: &TaskHead) -> bool {
        match self {
            Self::Held(fence) => {
                head.state == State::Claimed && (head.fence == *fence || mutant!(NoFence))
            }
            Self::Unchanged { state, revision } => {
                head.state == *state && head.revision == *revision
            }
        }
    }
}

/// What an engine applies: the head as it is afterwards, or none where only the journal grows. Everything
/// else that travels with a commit ([`Commit`]) is written beside it in the same transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Which task.
    pub id: TaskId,
    /// What the stored head must still be.
    pub expect: Stamp,
    /// The state before.
    pub from: State,
    /// The head afterwards; none: it stays as it is.
    pub head: Option<TaskHead>,
    /// The client's request that is done with it, to be kept with the task.
    pub request: Option<ClientRequest>,
}

impl Transition {
    pub(crate) fn of(before: &TaskHead, expect: Stamp, after: TaskHead) -> Self {
        Self {
            id: before.id,
            expect,
            from: before.state,
            head: Some(after),
            request: None,
        }
    }

    /// The state afterwards.
    #[must_use]
    pub fn to(&self) -> State {
        self.head.as_ref().map_or(self.from, |head| head.state)
    }

    /// Whether a task is claimable, now or at a known time, that was not before: raises
    /// `Ledger::ready_wakes`.
    #[must_use]
    pub fn wakes(&self) -> bool {
        let decided = self.from == State::Waiting;
        if decided && mutant!(LostWakeUp) {
            return false;
        }
        self.head.as_ref().is_some_and(|h| h.state == State::Ready)
    }

    /// Whether the task has ended with it: its open question closes.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.to().is_final() && !self.from.is_final()
    }
}

/// Names a claim: writers show it, and are refused when the fence has moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimRef {
    /// The task.
    pub task: TaskId,
    /// The fence the claim raised it to.
    pub fence: Fence,
}

/// A question to a human, written with the commit that lets the task wait for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its id.
    pub id: ApprovalId,
    /// Why a human is asked.
    pub escalation_reason: EscalationReason,
    /// One line to read.
    pub question: String,
    /// What the agent would do.
    pub proposal: Answer,
    /// What it had before it when it asked.
    pub evidence: Evidence,
}

/// Where a question stands.
#[derive(Debug, Clone, PartialEq)]
pub enum QuestionState {
    /// Nobody has answered.
    Open,
    /// Answered; the answer lies in the task's inbox until its holder takes it.
    Answered {
        /// What was decided.
        decision: Decision,
        /// The request that decided: its repeat is no second decision.
        request: RequestId,
    },
    /// Answered, and the answer is in the task's journal.
    Taken {
        /// What was decided.
        decision: Decision,
        /// The request that decided.
        request: RequestId,
    },
    /// Its task ended before anybody answered.
    Closed,
}

impl QuestionState {
    /// What was decided, if somebody has.
    #[must_use]
    pub const fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Answered { decision, .. } | Self::Taken { decision, .. } => Some(decision),
            Self::Open | Self::Closed => None,
        }
    }
}

/// What lies in a task's inbox: written by others, taken by the holder with its next commit.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxItem {
    /// Which question was answered.
    pub question: ApprovalId,
    /// The answer.
    pub decision: Decision,
}

/// What a tool wants delivered to the world outside. It becomes visible with the commit that carries it,
/// once per (effect key, index): the transactional outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxMessage {
    /// The effect that it is.
    pub key: EffectKey,
    /// Its place among the messages of the effect, from 0.
    pub index: u32,
    /// The task that caused it.
    pub task: TaskId,
    /// A named destination, such as `tickets`.
    pub destination: String,
    /// What is delivered.
    pub payload: serde_json::Value,
}

impl OutboxMessage {
    /// What names it for ever.
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId {
            key: self.key.clone(),
            index: self.index,
        }
    }
}

/// Names a message of the outbox for ever: whoever delivers it twice is known by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    /// The effect that the message is.
    pub key: EffectKey,
    /// Its place among the messages of the effect, from 0.
    pub index: u32,
}

/// Something learned: a percept and its right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// AttemptCounts up within the ledger; 0 in a new one, the engine numbers it.
    pub number: u64,
    /// Whose.
    pub tenant: Tenant,
    /// Which agent type shares it.
    pub agent_type: TypeName,
    /// The task it came from; at most one live episode a task, the last one counts.
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

impl Episode {
    /// Whether `other` teaches the same of the same task: a repeat, not a correction. Learning it again
    /// writes nothing and answers with the number it has.
    #[must_use]
    pub fn teaches_same(&self, other: &Self) -> bool {
        self.task == other.task
            && self.tenant == other.tenant
            && self.agent_type == other.agent_type
            && self.text == other.text
            && self.label == other.label
            && self.vector == other.vector
    }
}

/// Whether a release counts against the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptCounts {
    /// The attempt failed by the task's own doing: it waits for a back-off, or is dead.
    Failed,
    /// Something else was in the way: a model that is away, a node that stops.
    Not,
}

/// What becomes of the claim with a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// The holder goes on.
    Continue,
    /// Wait for a human; claim and agent are free.
    Wait(Box<Question>),
    /// The task has ended.
    End(Ending),
    /// The holder lets go and the task is ready again.
    Release {
        /// Whether it was the task's failure.
        counts: AttemptCounts,
        /// Not claimable before this much time has passed; a failed attempt waits for its back-off
        /// where that is longer.
        delay: Duration,
        /// One line on why.
        reason: String,
    },
}

impl Settlement {
    /// The holder lets go because of `trouble`; what that costs the task is [`retry::charge`]'s to say.
    #[must_use]
    pub fn release(trouble: Trouble, reason: impl Into<String>) -> Self {
        let (counts, delay) = retry::charge(trouble);
        let reason = reason.into();
        Self::Release {
            counts,
            delay,
            reason,
        }
    }
}

/// Everything one holder wants durable at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// Compared with the ledger; the whole commit is refused if it is old.
    pub claim: ClaimRef,
    /// The agent at work, recorded with a settlement.
    pub agent: Option<AgentId>,
    /// Journal entries, in sequence.
    pub entries: Vec<Entry>,
    /// Messages to the world outside.
    pub outbox: Vec<OutboxMessage>,
    /// What the task taught; its stamp is the engine's.
    pub episodes: Vec<Episode>,
    /// Answers that the entries hold: they leave the inbox.
    pub taken: Vec<ApprovalId>,
    /// What becomes of the claim.
    pub settlement: Settlement,
}

impl Commit {
    /// An empty commit that settles `claim`.
    #[must_use]
    pub const fn settling(claim: ClaimRef, settlement: Settlement) -> Self {
        Self {
            claim,
            agent: None,
            entries: Vec::new(),
            outbox: Vec::new(),
            episodes: Vec::new(),
            taken: Vec::new(),
            settlement,
        }
    }
}

/// Why a rule refused. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The claim is no longer the caller's.
    #[error("claim on task {task} with fence {fence} is lost; the task is {state}", fence = fence.0)]
    Lost {
        /// The task.
        task: TaskId,
        /// The fence that was shown.
        fence: Fence,
        /// Where the task stands.
        state: State,
    },
    /// The first entry does not follow the journal: an entry is missing.
    #[error("journal entry {sequence} of task {task} is out of order; the next is {expected}")]
    Sequence {
        /// The task.
        task: TaskId,
        /// The sequence number that was shown.
        sequence: u32,
        /// The one that would have been right.
        expected: u32,
    },
    /// The journal has another entry under this number: fold it again.
    #[error("journal entry {sequence} of task {task} is there already, with other content")]
    Conflict {
        /// The task.
        task: TaskId,
        /// The sequence number that was shown.
        sequence: u32,
    },
    /// The task has ended.
    #[error("task {task} has ended: it is {state}")]
    Ended {
        /// The task.
        task: TaskId,
        /// How.
        state: State,
    },
    /// Only dead, cancelled and expired tasks can be revived.
    #[error("task {task} is {state}; only dead, cancelled and expired tasks can be revived")]
    NotRevivable {
        /// The task.
        task: TaskId,
        /// Where it stands.
        state: State,
    },
    /// The id of the request is that of another request.
    #[error("the request id belongs to another request about task {task}")]
    RequestConflict {
        /// The task.
        task: TaskId,
    },
    /// Somebody else decided the question first.
    #[error("approval {id} was decided by {by}; task {task} is {state}")]
    Decided {
        /// The question.
        id: ApprovalId,
        /// Its task.
        task: TaskId,
        /// Where the task stands.
        state: State,
        /// Who decided.
        by: String,
    },
    /// The question closed with its task.
    #[error("approval {id} is closed: task {task} is {state}")]
    Closed {
        /// The question.
        id: ApprovalId,
        /// Its task.
        task: TaskId,
        /// Where the task stands.
        state: State,
    },
}
