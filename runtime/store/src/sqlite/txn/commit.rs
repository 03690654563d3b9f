//! What a holder makes durable.

use colony_core::{
    id::{ApprovalId, TaskId},
    journal::Entry,
    ledger::{QuestionState, Settlement, commit},
};
use rusqlite::params;

use super::{Done, TxnError, WriteTxn};
use crate::{
    codec,
    ledger::{Commit, Committed, LedgerError},
    sqlite::{
        load,
        row::ApprovalRow,
        tables::{Damage, JOURNAL, columns, insert},
        value::{Id, Number},
    },
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn commit(&mut self, commit: &Commit) -> Done<Committed> {
        let head = self.head(commit.claim.task)?;
        let (policy, now) = (self.policy, self.now);
        let mut stored = Stored {
            txn: self,
            task: head.id,
            answered: Vec::new(),
        };
        let outcome = commit::outcome(&head, commit, &mut stored, policy, now)?;
        let answered = stored.answered;
        let Some(outcome) = outcome else {
            return Ok(Committed {
                episodes: self.numbers_of(&commit.episodes)?,
                state: Some(head.state),
            });
        };
        for entry in &commit.entries[outcome.append_from..] {
            self.append(head.id, entry)?;
        }
        for message in &commit.outbox {
            self.post(message)?;
        }
        for (id, state) in outcome.taken {
            if let Some(row) = answered.iter().find(|row| row.question.id == id) {
                self.answer_question(row, state)?;
            }
        }
        let episodes = self.learn(&commit.episodes)?;
        if let Settlement::Wait(question) = &commit.settlement {
            self.ask(&head, question)?;
        }
        self.apply(&head, &outcome.transition)?;
        Ok(Committed {
            episodes,
            state: Some(outcome.transition.to()),
        })
    }

    fn append(&mut self, task: TaskId, entry: &Entry) -> rusqlite::Result<()> {
        let row = params![
            Id::from(task),
            entry.sequence,
            Number::from(entry.at),
            codec::entry(entry)
        ];
        self.put(&JOURNAL, insert!(journal, "?, ?, ?, ?, ?"), row)?;
        Ok(())
    }
}

/// What the file has of what a commit is about.
struct Stored<'t, 'a> {
    txn: &'t mut WriteTxn<'a>,
    task: TaskId,
    /// The questions that were asked for, for they are written whole.
    answered: Vec<ApprovalRow>,
}

impl Stored<'_, '_> {
    /// The task ended under its holder's hands: it cannot go on without a row that cannot be read.
    fn lost(&mut self, damage: &Damage) -> Done<TxnError> {
        self.txn.set_aside(damage)?;
        if damage.owner.is_none() {
            self.txn.end_unreadable(self.task, damage)?;
        }
        let head = self.txn.head(self.task)?;
        Ok(TxnError::Refused(LedgerError::Lost {
            task: self.task,
            fence: head.fence,
            state: head.state,
        }))
    }
}

impl commit::Stored for Stored<'_, '_> {
    type Error = TxnError;

    fn next_sequence(&mut self) -> Done<u32> {
        Ok(load::next_sequence(self.txn.db, self.task)?)
    }

    fn entry(&mut self, sequence: u32) -> Done<Option<Entry>> {
        match load::entry(self.txn.db, self.task, sequence)? {
            Some(Err(damage)) => Err(self.lost(&damage)?),
            Some(Ok(entry)) => Ok(Some(entry)),
            None => Ok(None),
        }
    }

    fn question(&mut self, id: ApprovalId) -> Done<Option<(TaskId, QuestionState)>> {
        match load::approval(self.txn.db, id)? {
            Some(Err(damage)) => Err(self.lost(&damage)?),
            Some(Ok(row)) => {
                let found = (row.task, row.state.clone());
                self.answered.push(row);
                Ok(Some(found))
            }
            None => Ok(None),
        }
    }

    fn has_question(&mut self, id: ApprovalId) -> Done<bool> {
        Ok(load::approval(self.txn.db, id)?.is_some())
    }
}
