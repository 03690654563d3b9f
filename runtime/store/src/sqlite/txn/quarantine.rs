//! Rows that cannot be read: named, counted, and out of everybody's way.
//!
//! The row stays where it is, for whoever wants to mend it, and is left out of every answer; but a head, in whose place
//! stands what is left of its task. What cannot
//! go on without it ends: a live task whose head, spec, journal or question is unreadable is dead, so that
//! nobody waits for it for ever.

use colony_core::{
    id::{ApprovalId, TaskId},
    ledger::settle,
};
use rusqlite::params;
use uuid::Uuid;

use super::{Done, TxnError, WriteTxn};
use crate::sqlite::{
    load, row,
    tables::{self, APPROVALS, Damage, JOURNAL, LIVE, QUARANTINED, SPECS, columns, insert, select},
    value::{Id, Number},
};

impl WriteTxn<'_> {
    /// Sets a row aside, and ends the live task that cannot go on without it. A row that can be read now stays: what a
    /// reader had in its memory was wrong, not the file.
    pub(in crate::sqlite) fn set_aside(&mut self, damage: &Damage) -> Done<()> {
        if self.is_readable(damage).unwrap_or(false) {
            let Damage {
                table, key, reason, ..
            } = damage;
            tracing::warn!(
                table,
                key,
                reason,
                "a row was read wrongly once, and is whole"
            );
            return Ok(());
        }
        self.note(damage)?;
        if let Some(task) = damage.owner {
            self.end_unreadable(TaskId(task), damage)?;
        }
        if damage.table == APPROVALS.name {
            self.end_waiting_for(damage)?;
        }
        Ok(())
    }

    /// Reads every live task; what cannot be read is set aside.
    pub(in crate::sqlite) fn look_at_live(&mut self) -> Done<()> {
        let mut statement = self.db.prepare("SELECT id FROM live")?;
        let ids = statement.query_map([], |row| row.get::<_, Id>(0))?;
        let ids: Vec<Id> = ids.collect::<Result<_, _>>()?;
        drop(statement);
        for id in ids {
            match self.head(TaskId(id.0)) {
                Ok(_) | Err(TxnError::Refused(_)) => {}
                Err(failed) => return Err(failed),
            }
        }
        Ok(())
    }

    /// Forgets what was set aside and can be read again, as after the file was mended.
    pub(in crate::sqlite) fn forget_mended(&mut self) -> Done<()> {
        let noted = QUARANTINED.all(self.db, select!(quarantined), [], row::quarantined)?;
        for noted in noted.into_iter().flatten() {
            let Some(table) = tables::ALL.iter().find(|table| table.name == noted.table) else {
                continue;
            };
            let damage = Damage {
                table: table.name,
                key: noted.key,
                reason: noted.reason,
                owner: None,
            };
            if self.is_readable(&damage).unwrap_or(false) {
                self.execute(
                    "DELETE FROM quarantined WHERE place = ?1 AND key = ?2",
                    params![damage.table, damage.key],
                )?;
                self.effects.mended += 1;
                tracing::info!(
                    table = damage.table,
                    key = damage.key,
                    "a row can be read again"
                );
            }
        }
        Ok(())
    }

    /// Whether the row, of a task that would die of it, can be read now.
    fn is_readable(&self, damage: &Damage) -> Done<bool> {
        let (key, sequence) = match damage.key.split_once('/') {
            Some((key, sequence)) => (key, sequence.parse().ok()),
            None => (damage.key.as_str(), None),
        };
        let Ok(id) = Uuid::parse_str(key) else {
            return Ok(false);
        };
        let (task, table) = (TaskId(id), damage.table);
        let readable = if table == LIVE.name {
            matches!(load::live(self.db, task)?, Some(Ok(_)))
        } else if table == SPECS.name {
            matches!(load::spec(self.db, task)?, Some(Ok(_)))
        } else if table == APPROVALS.name {
            matches!(load::approval(self.db, ApprovalId(id))?, Some(Ok(_)))
        } else if let Some(sequence) = sequence
            && table == JOURNAL.name
        {
            matches!(load::entry(self.db, task, sequence)?, Some(Ok(_)))
        } else {
            false
        };
        Ok(readable)
    }

    /// Writes down that a row cannot be read, once.
    pub(super) fn note(&mut self, damage: &Damage) -> Done<()> {
        let Damage {
            table, key, reason, ..
        } = damage;
        if load::is_quarantined(self.db, damage)? {
            return Ok(());
        }
        let row = params![table, key, reason, Number::from(self.now)];
        self.put(&QUARANTINED, insert!(quarantined, "?, ?, ?, ?, ?"), row)?;
        self.effects.quarantined += 1;
        tracing::error!(table, key, reason, "a row of the ledger cannot be read");
        Ok(())
    }

    /// Ends a live task that cannot go on without the row.
    pub(super) fn end_unreadable(&mut self, task: TaskId, damage: &Damage) -> Done<()> {
        let reason = format!("{} cannot be read: {}", damage.table, damage.reason);
        match load::live(self.db, task)? {
            Some(Ok(head)) => {
                let transition = settle::quarantine(&head, &reason, self.now);
                self.apply(&head, &transition)
            }
            Some(Err(damage)) => {
                self.note(&damage)?;
                self.write_off(task, &reason)
            }
            // Accepted, and neither live nor ended: the head is lost.
            None if damage.table == LIVE.name
                && load::head(self.db, task)?.is_none()
                && load::spec(self.db, task)?.is_some() =>
            {
                self.write_off(task, &reason)
            }
            None => Ok(()),
        }
    }

    /// The tasks that wait for a question which cannot be read, whatever that says of its task.
    fn end_waiting_for(&mut self, damage: &Damage) -> Done<()> {
        let Ok(id) = Uuid::parse_str(&damage.key) else {
            return Ok(());
        };
        let waiting = LIVE.all(
            self.db,
            concat!(select!(live), " WHERE wait_approval = ?1"),
            [Id(id)],
            row::live,
        )?;
        for head in waiting.into_iter().flatten() {
            self.end_unreadable(head.id, damage)?;
        }
        Ok(())
    }

    /// Ends a task whose head cannot be read, with what its key and its spec say.
    fn write_off(&mut self, task: TaskId, reason: &str) -> Done<()> {
        let spec = load::spec(self.db, task)?.and_then(Result::ok);
        let head = settle::write_off(task, spec.as_deref(), reason, self.policy, self.now);
        self.execute("DELETE FROM live WHERE id = ?1", [Id::from(task)])?;
        self.insert_finished(&head)?;
        self.close_questions(task)?;
        // What it was counted as is not known; the numbers are counted anew when the group ends.
        self.effects.recount = true;
        self.entered(task, head.state)?;
        Ok(())
    }
}
