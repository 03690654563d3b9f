//! Why a ledger refused, or could not do what it was asked.

use colony_core::{
    admission,
    id::{ApprovalId, Fence, TaskId},
    task::State,
};

use crate::ledger::Cursor;

/// Why the ledger refused.
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
    /// A journal entry does not follow the last one: an entry is missing. Nothing of the commit was done.
    #[error("journal entry {sequence} of task {task} is out of order; the next is {expected}")]
    Sequence {
        /// The task.
        task: TaskId,
        /// The sequence number that was shown.
        sequence: u32,
        /// The one that would have been right.
        expected: u32,
    },
    /// The journal has another entry under this number: the holder folds its journal again. Nothing of
    /// the commit was done.
    #[error("journal entry {sequence} of task {task} is there already, with other content")]
    Conflict {
        /// The task.
        task: TaskId,
        /// The sequence number that was shown.
        sequence: u32,
    },
    /// No such task.
    #[error("no task {0}")]
    NoTask(TaskId),
    /// No such question.
    #[error("no approval {0}")]
    NoApproval(ApprovalId),
    /// The question closed with its task, undecided.
    #[error("approval {id} is closed: task {task} is {state}")]
    Closed {
        /// The question.
        id: ApprovalId,
        /// Its task.
        task: TaskId,
        /// Where the task stands.
        state: State,
    },
    /// The id of the request belongs to another request about the same task or question: draw a new one.
    #[error("the request id belongs to another request about task {task}")]
    RequestConflict {
        /// The task.
        task: TaskId,
    },
    /// Somebody else decided first.
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
    /// One of the tasks is not let in.
    #[error("task {index}: {refusal}")]
    Refused {
        /// Its place in the batch, from 0.
        index: usize,
        /// Why.
        refusal: admission::Refusal,
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
    /// The cursor names changes that are not kept any more, or that have not happened.
    #[error("cursor {cursor} is out of range: changes {oldest} to {newest} are kept")]
    OutOfRange {
        /// The cursor that was shown.
        cursor: Cursor,
        /// The oldest change kept.
        oldest: Cursor,
        /// The newest.
        newest: Cursor,
    },
    /// The ledger cannot be opened, or was written by a newer version, or is open elsewhere.
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
    /// The write may or may not have reached the disk: whether it has is known when the ledger is opened
    /// again, and this one is closed. Repeat the request then, with the same ids.
    #[error("the outcome is unknown: {what}; the ledger is closed until it is opened again")]
    Unknown {
        /// The engine's words.
        what: String,
    },
    /// A row is damaged or was written by a newer version; nothing of the request was done.
    #[error("the ledger holds a row that cannot be read: {what}")]
    Unreadable {
        /// Which row, and why.
        what: String,
    },
    /// The engine was shut down.
    #[error("the ledger is closed")]
    Shut,
}

impl LedgerError {
    /// Whether the same call may succeed later, on the same ledger.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Busy { .. } | Self::Storage { .. } => true,
            Self::Lost { .. }
            | Self::Sequence { .. }
            | Self::Conflict { .. }
            | Self::NoTask(_)
            | Self::NoApproval(_)
            | Self::Closed { .. }
            | Self::RequestConflict { .. }
            | Self::Decided { .. }
            | Self::Ended { .. }
            | Self::NotRevivable { .. }
            | Self::Refused { .. }
            | Self::OutOfRange { .. }
            | Self::Open { .. }
            | Self::Unknown { .. }
            | Self::Unreadable { .. }
            | Self::Shut => false,
        }
    }
}
