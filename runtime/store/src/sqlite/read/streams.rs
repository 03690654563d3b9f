//! What is read from a number on: changes, messages, episodes.

use colony_core::id::{Tenant, TypeName};
use rusqlite::{OptionalExtension, Row, params};

use super::{Done, ReadTxn};
use crate::{
    ledger::{
        Change, Cursor, EpisodeChange, EpisodeStream, LedgerError, OutboxFilter, Page, Posted,
    },
    limits::{PageFiller, change_bytes, size},
    sqlite::{
        row,
        tables::{CHANGES, Damage, EPISODES, OUTBOX, columns, select},
        value::Number,
    },
};

/// What a change takes in a message: a cursor, an id, a state and a time.
const CHANGE_BYTES: usize = 48;

impl ReadTxn<'_> {
    /// A change that cannot be read is as good as one that is not kept: a watcher is told to begin after it.
    pub(in crate::sqlite) fn changes(&mut self, after: Cursor, limit: u32) -> Done<Vec<Change>> {
        let counters = self.counters()?;
        let newest = counters.cursor;
        let out_of_range = |oldest| LedgerError::OutOfRange {
            cursor: after,
            oldest,
            newest,
        };
        let oldest = counters.changes_kept_from;
        if after > newest || after.saturating_add(1) < oldest {
            return Err(out_of_range(oldest).into());
        }
        let db = self.db;
        let mut statement = db.prepare_cached(concat!(
            select!(changes),
            " WHERE cursor > ?1 ORDER BY cursor LIMIT ?2"
        ))?;
        let mut rows = statement.query(params![Number(after), limit])?;
        let mut page = PageFiller::up_to(size(limit));
        for expected in after + 1.. {
            let Some(row) = rows.next()? else { break };
            let found = match CHANGES.read(row, row::change) {
                Ok(change) if change.cursor != expected => Err(missing_change(expected)),
                found => found,
            };
            let Some(change) = self.keep(found) else {
                let page = page.finish().items;
                if page.is_empty() {
                    return Err(out_of_range(expected + 1).into());
                }
                return Ok(page);
            };
            if !page.put(change, CHANGE_BYTES) {
                break;
            }
        }
        Ok(page.finish().items)
    }

    /// Few messages wait to be delivered, many may be kept: each case has an index.
    pub(in crate::sqlite) fn outbox(&mut self, filter: &OutboxFilter) -> Done<Page<Posted>> {
        let db = self.db;
        let sql = match (filter.acknowledged_too, &filter.destination) {
            (false, _) => concat!(
                select!(outbox),
                " INDEXED BY outbox_pending WHERE acknowledged_us IS NULL
                   AND (?1 IS NULL OR destination = ?1) AND number > ?2 ORDER BY number"
            ),
            (true, Some(_)) => concat!(
                select!(outbox),
                " INDEXED BY outbox_destination
                  WHERE destination = ?1 AND number > ?2 ORDER BY number"
            ),
            (true, None) => concat!(
                select!(outbox),
                " WHERE ?1 IS NULL AND number > ?2 ORDER BY number"
            ),
        };
        let mut statement = db.prepare_cached(sql)?;
        // The page ends it: rows that cannot be read must not fill it.
        let mut rows = statement.query(params![filter.destination, Number(filter.after)])?;
        let mut page = PageFiller::new(filter.limit);
        while let Some(row) = rows.next()? {
            let bytes = bytes(row, 5);
            if let Some(message) = self.keep(OUTBOX.read(row, row::outbox))
                && !page.put(message, bytes)
            {
                break;
            }
        }
        Ok(page.finish())
    }

    pub(in crate::sqlite) fn episode_streams(&mut self) -> Done<Vec<EpisodeStream>> {
        let sql = "SELECT DISTINCT tenant, agent_type FROM episodes ORDER BY tenant, agent_type";
        let names = self
            .db
            .prepare_cached(sql)?
            .query_map([], |row| {
                Ok((row.get::<_, Box<str>>(0)?, row.get::<_, Box<str>>(1)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        // A name that is none stands in a row that cannot be read.
        let stream = |(tenant, agent_type): (Box<str>, Box<str>)| {
            Some(EpisodeStream {
                tenant: Tenant::new(&tenant).ok()?,
                agent_type: TypeName::new(&agent_type).ok()?,
            })
        };
        Ok(names.into_iter().filter_map(stream).collect())
    }

    /// A row has two places in its stream once it is forgotten: see the writer's `txn/episodes.rs`.
    pub(in crate::sqlite) fn episodes(
        &mut self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Done<Page<EpisodeChange>> {
        let db = self.db;
        let mut places = db.prepare_cached(
            "SELECT number, number AS place FROM episodes
             WHERE tenant = ?1 AND agent_type = ?2 AND number > ?3
             UNION ALL
             SELECT number, forgotten AS place FROM episodes
             WHERE tenant = ?1 AND agent_type = ?2 AND forgotten > ?3
             ORDER BY place",
        )?;
        let (tenant, agent_type) = (stream.tenant.as_str(), stream.agent_type.as_str());
        let mut places = places.query(params![tenant, agent_type, Number(after)])?;
        let mut page = PageFiller::new(limit);
        while let Some(row) = places.next()? {
            let (number, place): (Number, Number) = (row.get(0)?, row.get(1)?);
            let sql = concat!(select!(episodes), " WHERE number = ?1");
            let found = EPISODES.one(db, sql, [number], row::episode)?;
            let Some((episode, forgotten)) = found.and_then(|found| self.keep(found)) else {
                continue;
            };
            let change = match forgotten {
                Some(number) if place != Number(episode.number) => EpisodeChange::Forgotten {
                    number,
                    episode: episode.number,
                },
                Some(_) | None => EpisodeChange::Learned(episode),
            };
            let bytes = change_bytes(&change);
            if !page.put(change, bytes) {
                break;
            }
        }
        Ok(page.finish())
    }

    pub(in crate::sqlite) fn episodes_floor(
        &mut self,
        stream: &EpisodeStream,
        live: u32,
    ) -> Done<u64> {
        let floor: Option<Number> = self
            .db
            .prepare_cached(
                "SELECT number FROM episodes
                 WHERE tenant = ?1 AND agent_type = ?2 AND forgotten IS NULL
                 ORDER BY number DESC LIMIT 1 OFFSET ?3",
            )?
            .query_row(
                params![stream.tenant.as_str(), stream.agent_type.as_str(), live],
                |row| row.get(0),
            )
            .optional()?;
        Ok(floor.map_or(0, |floor| floor.0))
    }
}

/// The length of a body.
fn bytes(row: &Row<'_>, column: usize) -> usize {
    let value = row.get_ref(column).ok();
    value
        .and_then(|value| value.as_blob().ok())
        .map_or(0, <[u8]>::len)
}

fn missing_change(cursor: Cursor) -> Damage {
    Damage {
        table: CHANGES.name,
        key: cursor.to_string(),
        reason: "the row is missing".to_owned(),
        owner: None,
    }
}
