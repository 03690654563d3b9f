//! The rules' refusals as the ledger's errors.

use colony_core::{
    id::{ApprovalId, Fence, TaskId},
    ledger::{
        Refusal,
        submit::{self, Full},
    },
    task::State,
};

use crate::ledger::LedgerError;

/// A refusal that is about `task`; `fence` is the one that was shown, where one was.
pub(crate) fn about_task(task: TaskId, fence: Fence, refusal: &Refusal) -> LedgerError {
    match *refusal {
        Refusal::Lost { state } => LedgerError::Lost { task, fence, state },
        Refusal::Sequence { sequence, expected } => LedgerError::Sequence {
            task,
            sequence,
            expected,
        },
        Refusal::Conflict { sequence } => LedgerError::Conflict { task, sequence },
        // Questions have their own; a task's rules never give these.
        Refusal::Ended { state } | Refusal::Closed { state } => LedgerError::Ended { task, state },
        Refusal::NotRevivable { state } => LedgerError::NotRevivable { task, state },
        Refusal::RequestConflict | Refusal::Decided { .. } => LedgerError::RequestConflict { task },
    }
}

/// A refusal that is about the question `id` of `task`, which is in `state`.
pub(crate) fn about_question(
    id: ApprovalId,
    task: TaskId,
    state: State,
    refusal: Refusal,
) -> LedgerError {
    match refusal {
        Refusal::Decided { by } => LedgerError::Decided {
            id,
            task,
            state,
            by,
        },
        Refusal::RequestConflict => LedgerError::RequestConflict { task },
        Refusal::Lost { state }
        | Refusal::Ended { state }
        | Refusal::Closed { state }
        | Refusal::NotRevivable { state } => LedgerError::Closed { id, task, state },
        Refusal::Sequence { .. } | Refusal::Conflict { .. } => {
            LedgerError::Closed { id, task, state }
        }
    }
}

impl From<submit::Error> for LedgerError {
    fn from(error: submit::Error) -> Self {
        match error {
            submit::Error::Full(full) => full.into(),
            submit::Error::Refused { index, refusal } => Self::Refused { index, refusal },
        }
    }
}

impl From<Full> for LedgerError {
    fn from(full: Full) -> Self {
        let Full { live, limit } = full;
        Self::Full { live, limit }
    }
}
