//! The rules' refusals as the ledger's errors.

use colony_core::ledger::{
    Refusal,
    submit::{self, Full},
};

use crate::ledger::LedgerError;

impl From<Refusal> for LedgerError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Lost { task, fence, state } => Self::Lost { task, fence, state },
            Refusal::Sequence {
                task,
                sequence,
                expected,
            } => Self::Sequence {
                task,
                sequence,
                expected,
            },
            Refusal::Conflict { task, sequence } => Self::Conflict { task, sequence },
            Refusal::Ended { task, state } => Self::Ended { task, state },
            Refusal::NotRevivable { task, state } => Self::NotRevivable { task, state },
            Refusal::RequestConflict { task } => Self::RequestConflict { task },
            Refusal::Decided {
                id,
                task,
                state,
                by,
            } => Self::Decided {
                id,
                task,
                state,
                by,
            },
            Refusal::Closed { id, task, state } => Self::Closed { id, task, state },
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
