//! Messages to the world outside: posted with a commit, acknowledged by whoever delivers them, forgotten.

use rusqlite::{ToSql, params};

use super::{Done, WriteTxn};
use crate::{
    codec,
    ledger::{MessageId, OutboxMessage, Posted},
    sqlite::{
        row,
        tables::{OUTBOX, columns, insert, select},
        value::{Id, Number},
    },
};

/// Most messages forgotten by one acknowledgement: some milliseconds of the writer's time.
const FORGET_MAX: u32 = 1_000;

impl WriteTxn<'_> {
    /// Once per effect and place.
    pub(super) fn post(&mut self, message: &OutboxMessage) -> rusqlite::Result<()> {
        let posted = Posted {
            number: self.counters.outbox + 1,
            posted_at: self.now,
            acknowledged_at: None,
            message: message.clone(),
        };
        let sql = concat!(
            insert!(outbox, "?, ?, ?, ?, ?, ?, ?, ?, ?"),
            " ON CONFLICT (key, place) DO NOTHING"
        );
        let written = self.put_message(sql, &posted)?;
        self.counters.outbox += written as u64;
        Ok(())
    }

    /// Returns those that are not there.
    pub(in crate::sqlite) fn acknowledge(&mut self, ids: &[MessageId]) -> Done<Vec<MessageId>> {
        let mut unknown = Vec::new();
        for id in ids {
            let sql = concat!(select!(outbox), " WHERE key = ?1 AND place = ?2");
            let key: [&dyn ToSql; 2] = [&id.key.as_str(), &id.index];
            match OUTBOX.one(self.db, sql, key, row::outbox)? {
                Some(Ok(mut posted)) => {
                    if posted.acknowledged_at.is_none() {
                        posted.acknowledged_at = Some(self.now);
                        let sql = "UPDATE outbox SET acknowledged_us = ?8, checksum = ?9
                                   WHERE number = ?1";
                        self.put_message(sql, &posted)?;
                    }
                }
                Some(Err(damage)) => {
                    self.set_aside(&damage)?;
                    unknown.push(id.clone());
                }
                None => unknown.push(id.clone()),
            }
        }
        self.forget_messages()?;
        Ok(unknown)
    }

    /// What was acknowledged long enough ago, of tasks that have ended.
    fn forget_messages(&mut self) -> rusqlite::Result<()> {
        let horizon = Number::from(self.policy.outbox_horizon(self.now));
        let due = self
            .db
            .prepare_cached(
                "SELECT number FROM outbox INDEXED BY outbox_acknowledged
                 WHERE acknowledged_us IS NOT NULL AND acknowledged_us <= ?1
                   AND NOT EXISTS (SELECT 1 FROM live WHERE live.id = outbox.task)
                 ORDER BY acknowledged_us LIMIT ?2",
            )?
            .query_map(params![horizon, FORGET_MAX], |row| row.get::<_, Number>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        for number in due {
            self.execute("DELETE FROM outbox WHERE number = ?1", [number])?;
        }
        Ok(())
    }

    fn put_message(&mut self, sql: &str, posted: &Posted) -> rusqlite::Result<usize> {
        let message = &posted.message;
        let row = params![
            Number(posted.number),
            message.key.as_str(),
            message.index,
            Id::from(message.task),
            message.destination,
            codec::delivery(&message.payload),
            Number::from(posted.posted_at),
            posted.acknowledged_at.map(Number::from),
        ];
        self.put(&OUTBOX, sql, row)
    }
}
