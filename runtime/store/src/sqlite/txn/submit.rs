//! Writing tasks down.

use colony_core::{
    id::TaskId,
    ledger::{
        TaskHead,
        submit::{self, Known, Planned},
    },
    task::{Spec, State},
};
use rusqlite::params;

use super::{Done, WriteTxn, unreadable};
use crate::{
    codec,
    ledger::{NewTask, Submitted},
    sqlite::{
        load, row,
        tables::{DEDUPE, SPECS, columns, insert, select},
        value::{Id, Number},
    },
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn submit(&mut self, batch: &[NewTask]) -> Done<Vec<Submitted>> {
        let mut known = Vec::with_capacity(batch.len());
        for task in batch {
            known.push(self.known(task)?);
        }
        let live = self.counters.live();
        let planned = submit::plan(batch, &known, live, self.policy, self.now)
            .map_err(crate::ledger::LedgerError::from)?;
        let mut answers = Vec::with_capacity(batch.len());
        for (task, planned) in batch.iter().zip(planned) {
            answers.push(match planned {
                Planned::Answer(answer) => answer,
                Planned::Write(head) => {
                    self.write_down(&head, &task.spec)?;
                    Submitted::Accepted(head.id)
                }
            });
        }
        Ok(answers)
    }

    /// What the ledger has under a task's id, else under its deduplication key.
    fn known(&mut self, task: &NewTask) -> Done<Option<Known>> {
        match load::spec(self.db, task.id)? {
            Some(Ok(spec)) => {
                return Ok(Some(Known {
                    id: task.id,
                    state: self.head(task.id)?.state,
                    same_payload: spec.same_payload(&task.spec),
                }));
            }
            Some(Err(damage)) => {
                self.set_aside(&damage)?;
                return Err(unreadable(&damage).into());
            }
            None => {}
        }
        let Some(key) = &task.spec.dedupe_key else {
            return Ok(None);
        };
        let sql = concat!(
            select!(dedupe),
            " WHERE tenant = ?1 AND key = ?2 AND until_us > ?3"
        );
        let params = params![task.spec.tenant.as_str(), key, Number::from(self.now)];
        match DEDUPE.one(self.db, sql, params, row::dedupe)? {
            None => Ok(None),
            Some(Ok((id, payload))) => Ok(Some(Known {
                id,
                state: self.state_of_known(id)?,
                same_payload: payload == codec::payload_hash(&task.spec),
            })),
            Some(Err(damage)) => {
                // The key was used; by whom is not known, so nothing may be done a second time.
                self.set_aside(&damage)?;
                Err(unreadable(&damage).into())
            }
        }
    }

    /// Keys outlive their tasks.
    fn state_of_known(&mut self, id: TaskId) -> Done<State> {
        match load::head(self.db, id)? {
            Some(_) => Ok(self.head(id)?.state),
            None => Ok(State::Done),
        }
    }

    fn write_down(&mut self, head: &TaskHead, spec: &Spec) -> Done<()> {
        if let Some(key) = &spec.dedupe_key {
            self.remember(head.id, spec, key)?;
        }
        let row = params![Id::from(head.id), codec::spec(spec)];
        self.put(&SPECS, insert!(specs, "?, ?, ?"), row)?;
        self.insert_live(head)?;
        self.counters.accepted += 1;
        self.entered(head.id, head.state)?;
        self.cache.ready.replaced(None, head);
        self.effects.wakes = true;
        Ok(())
    }

    fn remember(&mut self, id: TaskId, spec: &Spec, key: &str) -> Done<()> {
        let until = self.now.after(self.policy.dedupe_ttl);
        self.execute(
            "DELETE FROM dedupe WHERE until_us <= ?1",
            [Number::from(self.now)],
        )?;
        let row = params![
            spec.tenant.as_str(),
            key,
            Id::from(id),
            codec::payload_hash(spec),
            Number::from(until)
        ];
        self.put(&DEDUPE, insert!(dedupe, "?, ?, ?, ?, ?, ?"), row)?;
        Ok(())
    }
}
