//! What a holder makes durable.

use colony_core::{
    id::TaskId,
    journal::Entry,
    ledger::{
        Question, Settlement, TaskHead,
        settle::{self, Appended},
    },
};
use rusqlite::params;

use super::{Done, TxnError, WriteTxn};
use crate::{
    codec,
    ledger::{Commit, Committed, LedgerError},
    sqlite::{
        load,
        row::ApprovalRow,
        tables::{JOURNAL, columns, insert},
        value::{Id, Number},
    },
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn commit(&mut self, commit: &Commit) -> Done<Committed> {
        let id = commit.claim.task;
        let head = self.head(id)?;
        let Some(transition) = settle::commit(&head, commit, self.policy, self.now)? else {
            return self.answered_before(commit, &head);
        };
        let from = match self.place(id, &commit.entries)?? {
            Appended::Repeat if transition.head.is_none() => {
                return self.answered_before(commit, &head);
            }
            Appended::Repeat => commit.entries.len(),
            Appended::From(index) => index,
        };
        let taken = self.answers(commit)?;
        if let Settlement::Wait(question) = &commit.settlement {
            self.refuse_known(id, question)?;
        }
        for entry in &commit.entries[from..] {
            self.append(id, entry)?;
        }
        for message in &commit.outbox {
            self.post(message)?;
        }
        for row in taken {
            let state = settle::taken(row.state.clone());
            self.answer_question(&row, state)?;
        }
        let episodes = self.learn(&commit.episodes)?;
        if let Settlement::Wait(question) = &commit.settlement {
            self.ask(&head, question)?;
        }
        self.apply(&head, &transition)?;
        Ok(Committed {
            episodes,
            state: Some(transition.to()),
        })
    }

    /// The answer that the first copy of this commit had.
    fn answered_before(&mut self, commit: &Commit, head: &TaskHead) -> Done<Committed> {
        Ok(Committed {
            episodes: self.numbers_of(&commit.episodes)?,
            state: Some(head.state),
        })
    }

    /// Where the entries stand in the journal.
    fn place(
        &mut self,
        task: TaskId,
        entries: &[Entry],
    ) -> Done<Result<Appended, colony_core::ledger::Refusal>> {
        if entries.is_empty() {
            return Ok(Ok(Appended::From(0)));
        }
        let next = load::next_sequence(self.db, task)?;
        let mut damaged = None;
        let placed = settle::append(task, next, entries, |sequence| {
            let found = load::entry(self.db, task, sequence)?;
            Ok::<_, TxnError>(match found {
                Some(Ok(entry)) => Some(entry),
                Some(Err(damage)) => {
                    damaged = Some(damage);
                    None
                }
                None => None,
            })
        })?;
        match damaged {
            None => Ok(placed),
            Some(damage) => {
                self.set_aside(&damage)?;
                Err(self.lost(task)?)
            }
        }
    }

    /// The task ended under its holder's hands.
    fn lost(&mut self, task: TaskId) -> Done<TxnError> {
        let head = self.head(task)?;
        Ok(TxnError::Refused(LedgerError::Lost {
            task,
            fence: head.fence,
            state: head.state,
        }))
    }

    /// The questions whose answers leave the inbox.
    fn answers(&mut self, commit: &Commit) -> Done<Vec<ApprovalRow>> {
        let mut answers = Vec::with_capacity(commit.taken.len());
        for id in &commit.taken {
            match load::approval(self.db, *id)? {
                Some(Ok(row)) if row.task == commit.claim.task => answers.push(row),
                Some(Ok(_)) | None => {}
                Some(Err(damage)) => {
                    self.set_aside(&damage)?;
                    self.end_unreadable(commit.claim.task, &damage)?;
                    return Err(self.lost(commit.claim.task)?);
                }
            }
        }
        Ok(answers)
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

    /// The id of a question is drawn for it.
    fn refuse_known(&self, task: TaskId, question: &Question) -> Done<()> {
        match load::approval(self.db, question.id)? {
            None => Ok(()),
            Some(_) => Err(LedgerError::RequestConflict { task }.into()),
        }
    }
}
