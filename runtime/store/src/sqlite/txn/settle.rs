//! What others than the holder do to tasks, and humans to questions.

use colony_core::{
    cycle::Decision,
    id::{ApprovalId, RequestId, TaskId},
    ledger::{
        ClientVerb, QuestionState, TaskHead,
        settle::{self, Decided as RuledDecided},
        submit,
    },
    task::State,
};
use rusqlite::params;

use super::{Done, WriteTxn, unreadable};
use crate::{
    codec,
    ledger::{Decided, LedgerError, Question},
    sqlite::{
        load::{self, missing_spec},
        row::{self, ApprovalRow},
        select::EXPIRED,
        tables::{APPROVALS, LIVE, columns, insert, select},
        value::{Id, Number, question_code},
    },
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn cancel(&mut self, id: TaskId, request: RequestId) -> Done<State> {
        let head = self.head(id)?;
        let known = self.known_request(id, request)?;
        let Some(transition) = settle::cancel(&head, known, request, self.now)? else {
            return Ok(State::Cancelled);
        };
        self.apply(&head, &transition)?;
        Ok(transition.from)
    }

    /// What a client asked of a task under this id.
    fn known_request(&mut self, task: TaskId, request: RequestId) -> Done<Option<ClientVerb>> {
        match load::request(self.db, task, request)? {
            None => Ok(None),
            Some(Ok(verb)) => Ok(Some(verb)),
            Some(Err(damage)) => {
                // Something was asked under it; what is not known, so nothing may be done a second time.
                self.set_aside(&damage)?;
                Err(unreadable(&damage).into())
            }
        }
    }

    pub(in crate::sqlite) fn expire(&mut self, limit: u32) -> Done<Vec<TaskId>> {
        let late = LIVE.all(
            self.db,
            EXPIRED,
            params![Number::from(self.now), limit],
            row::live,
        )?;
        let mut expired = Vec::with_capacity(late.len());
        for head in self.readable(late)? {
            self.apply(&head, &settle::expire(&head, self.now))?;
            expired.push(head.id);
        }
        Ok(expired)
    }

    pub(in crate::sqlite) fn revive(&mut self, id: TaskId, request: RequestId) -> Done<State> {
        let head = self.head(id)?;
        let known = self.known_request(id, request)?;
        let spec = match load::spec(self.db, id)? {
            Some(Ok(spec)) => spec,
            Some(Err(damage)) => {
                self.set_aside(&damage)?;
                return Err(unreadable(&damage).into());
            }
            None => return Err(unreadable(&missing_spec(id)).into()),
        };
        let revived = settle::revive(&head, &spec, known, request, self.policy, self.now)?;
        let Some(transition) = revived else {
            return Ok(State::Ready);
        };
        submit::admits(self.counters.live(), 1, self.policy).map_err(LedgerError::from)?;
        self.apply(&head, &transition)?;
        Ok(transition.from)
    }

    pub(in crate::sqlite) fn decide(
        &mut self,
        id: ApprovalId,
        request: RequestId,
        decision: &Decision,
    ) -> Done<Decided> {
        let row = match load::approval(self.db, id)? {
            Some(Ok(row)) => row,
            Some(Err(damage)) => {
                self.set_aside(&damage)?;
                return Err(unreadable(&damage).into());
            }
            None => return Err(LedgerError::NoApproval(id).into()),
        };
        let task = row.task;
        let head = self.head(task)?;
        let ruled = settle::decide(
            &row.question,
            &row.state,
            &head,
            decision,
            request,
            self.now,
        )?;
        let mut state = head.state;
        if let Some(RuledDecided {
            question,
            transition,
        }) = ruled
        {
            self.answer_question(&row, question)?;
            if let Some(transition) = transition {
                self.apply(&head, &transition)?;
                state = transition.to();
            }
        }
        Ok(Decided { task, state })
    }

    /// Writes down a task's question.
    pub(super) fn ask(&mut self, head: &TaskHead, question: &Question) -> Done<()> {
        let row = ApprovalRow {
            question: question.clone(),
            task: head.id,
            tenant: head.tenant.clone(),
            asked_at: self.now,
            state: QuestionState::Open,
        };
        let sql = insert!(approvals, "?, ?, ?, ?, ?, ?, ?, ?, ?");
        self.write_approval(sql, &row)
    }

    /// Puts a question into another state.
    pub(super) fn answer_question(&mut self, row: &ApprovalRow, state: QuestionState) -> Done<()> {
        if row.state == state {
            return Ok(());
        }
        let row = ApprovalRow {
            state,
            ..row.clone()
        };
        let sql = "UPDATE approvals SET state = ?5, decision = ?7, request = ?8, checksum = ?9
                   WHERE id = ?1";
        self.write_approval(sql, &row)
    }

    fn write_approval(&mut self, sql: &str, row: &ApprovalRow) -> Done<()> {
        let (decision, request) = match &row.state {
            QuestionState::Answered { decision, request }
            | QuestionState::Taken { decision, request } => {
                (Some(codec::decision(decision)), Some(Id(request.0)))
            }
            QuestionState::Open | QuestionState::Closed => (None, None),
        };
        let row = params![
            Id::from(row.question.id),
            Id::from(row.task),
            row.tenant.as_str(),
            Number::from(row.asked_at),
            question_code(&row.state),
            codec::question(&row.question),
            decision,
            request
        ];
        self.put(&APPROVALS, sql, row)?;
        Ok(())
    }

    /// A task has ended: nobody will read an answer to what it asks.
    pub(super) fn close_questions(&mut self, task: TaskId) -> Done<()> {
        let open = APPROVALS.all(
            self.db,
            concat!(
                select!(approvals),
                " INDEXED BY approvals_task WHERE task = ?1 AND state = 0 AND state < 2"
            ),
            [Id::from(task)],
            row::approval,
        )?;
        for found in open {
            match found {
                Ok(row) => {
                    let state = settle::closed(row.state.clone());
                    self.answer_question(&row, state)?;
                }
                Err(damage) => self.note(&damage)?,
            }
        }
        Ok(())
    }
}
