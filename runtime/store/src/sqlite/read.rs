//! What reads. Each read is one transaction, so it sees one moment. Rows that cannot be read are left out
//! and remembered: whoever asked has the writer set them aside ([`super::SqliteLedger`]).

mod streams;

use std::sync::Arc;

use colony_core::{
    id::{ApprovalId, IdPrefix, TaskId, Tenant, TypeName},
    journal::Entry,
    ledger::Record,
    task::{Spec, State},
    unit::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{
    counters::Counters,
    load::{self, missing_spec},
    row::{self, ApprovalRow},
    tables::{AGENTS, APPROVALS, Damage, Found, JOURNAL, QUARANTINED, SNAPSHOTS, columns, select},
    txn::{TxnError, unreadable},
    value::{Id, Number, code},
};
use crate::{
    ledger::{
        Agent, Approval, ApprovalFilter, LedgerError, Page, Quarantined, Snapshot, SnapshotKey,
        TaskFilter,
    },
    limits::{PageFiller, approval_bytes, page, record_bytes},
};

type Done<T> = Result<T, TxnError>;

/// Reads at one moment.
#[derive(Debug)]
pub(super) struct ReadTxn<'a> {
    pub(super) db: &'a Connection,
    /// What could not be read.
    pub(super) damages: Vec<Damage>,
}

impl ReadTxn<'_> {
    /// The row, if it can be read.
    pub(super) fn keep<T>(&mut self, found: Found<T>) -> Option<T> {
        found.map_err(|damage| self.damages.push(damage)).ok()
    }

    /// The row, for an answer that is nothing without it.
    fn need<T>(&mut self, found: Found<T>) -> Done<T> {
        found.map_err(|damage| {
            let error = unreadable(&damage);
            self.damages.push(damage);
            error.into()
        })
    }

    /// Those that were not set aside before, and those that a live task cannot go on without: it may have been
    /// revived since.
    pub(super) fn new_damages(self) -> rusqlite::Result<Vec<Damage>> {
        let mut new = Vec::new();
        for damage in self.damages {
            let known = load::is_quarantined(self.db, &damage)?;
            let in_the_way = match damage.owner {
                Some(owner) if known => load::is_live(self.db, owner)?,
                Some(_) | None => false,
            };
            if !known || in_the_way {
                new.push(damage);
            }
        }
        Ok(new)
    }

    pub(super) fn get(&mut self, id: TaskId) -> Done<Record> {
        let head = load::head(self.db, id)?.ok_or(LedgerError::NoTask(id))?;
        let head = self.need(head)?;
        let spec = self.spec(id)?;
        let spec = self.need(spec)?;
        Ok(Record { head, spec })
    }

    /// What a task asks. A task without it is as good as a row that cannot be read.
    fn spec(&self, id: TaskId) -> rusqlite::Result<Found<Arc<Spec>>> {
        let found = load::spec(self.db, id)?;
        Ok(found.unwrap_or_else(|| Err(missing_spec(id))))
    }

    pub(super) fn list(&mut self, filter: &TaskFilter) -> Done<Page<Record>> {
        let mut page = PageFiller::new(filter.limit);
        let mut before = filter.before.unwrap_or(TaskId(Uuid::max()));
        loop {
            let ids = self.ids(filter, before)?;
            for id in &ids {
                if let Some(record) = self.record(*id)? {
                    let bytes = record_bytes(&record);
                    if !page.put(record, bytes) {
                        return Ok(page.finish());
                    }
                }
            }
            // Only where some could not be read is there room left, and more to come.
            match ids.last() {
                Some(last) if ids.len() > self::page(filter.limit) => before = *last,
                Some(_) | None => return Ok(page.finish()),
            }
        }
    }

    /// The ids of a page, newest first, and of one task more.
    fn ids(&self, filter: &TaskFilter, before: TaskId) -> Done<Vec<TaskId>> {
        let all = filter.states.is_empty();
        let (finished, live): (Vec<State>, Vec<State>) = State::ALL
            .into_iter()
            .filter(|state| all || filter.states.contains(state))
            .partition(|state| state.is_final());
        let limit = page(filter.limit) + 1;
        let mut ids = Vec::new();
        for (table, states, count) in [("live", live, 3), ("finished", finished, 5)] {
            if states.len() == count {
                self.some_ids(filter, before, table, "", limit, &mut ids)?;
                continue;
            }
            // One state at a time, and where it is rare, by its index. SQLite knows that a partial index is
            // good for a statement where that repeats its condition.
            for state in states {
                let code = code(state);
                let (table, only) = if code > 3 {
                    let table = "finished INDEXED BY finished_otherwise";
                    (table, format!("AND state = {code} AND state > 3"))
                } else {
                    (table, format!("AND state = {code}"))
                };
                self.some_ids(filter, before, table, &only, limit, &mut ids)?;
            }
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        Ok(ids)
    }

    fn some_ids(
        &self,
        filter: &TaskFilter,
        before: TaskId,
        table: &str,
        only: &str,
        limit: usize,
        ids: &mut Vec<TaskId>,
    ) -> Done<()> {
        let sql = format!(
            "SELECT id FROM {table} WHERE id < ?1 AND (?2 IS NULL OR tenant = ?2)
             AND (?3 IS NULL OR queue = ?3) AND id > ?5 {only} ORDER BY id DESC LIMIT ?4"
        );
        let (above, below) = around(filter.id_prefix);
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params![
            Id(before.0.min(below)),
            filter.tenant.as_ref().map(Tenant::as_str),
            filter.agent_type.as_ref().map(TypeName::as_str),
            Number(limit as u64),
            Id(above)
        ])?;
        while let Some(row) = rows.next()? {
            ids.push(row.get::<_, Id>(0)?.task());
        }
        Ok(())
    }

    /// A task, if it can be read.
    fn record(&mut self, id: TaskId) -> Done<Option<Record>> {
        let Some(head) = load::head(self.db, id)? else {
            return Ok(None);
        };
        let spec = self.spec(id)?;
        let (head, spec) = (self.keep(head), self.keep(spec));
        Ok(head.zip(spec).map(|(head, spec)| Record { head, spec }))
    }

    pub(super) fn journal(&mut self, id: TaskId) -> Done<Vec<Entry>> {
        let db = self.db;
        let sql = concat!(select!(journal), " WHERE task = ?1 ORDER BY sequence");
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query([Id::from(id)])?;
        let mut entries: Vec<Entry> = Vec::new();
        // Row by row: a long journal lies in memory once, and one that cannot be read only up to there.
        for sequence in 0.. {
            let Some(row) = rows.next()? else {
                break;
            };
            let entry = self.need(JOURNAL.read(row, row::entry))?;
            if entry.sequence != sequence {
                return self.need(Err(missing_entry(id, sequence)));
            }
            entries.push(entry);
        }
        if entries.is_empty() && load::head(self.db, id)?.is_none() {
            return Err(LedgerError::NoTask(id).into());
        }
        Ok(entries)
    }

    pub(super) fn approval(&mut self, id: ApprovalId) -> Done<Approval> {
        let row = load::approval(self.db, id)?.ok_or(LedgerError::NoApproval(id))?;
        let row = self.need(row)?;
        let spec = self.spec(row.task)?;
        let spec = self.need(spec)?;
        Ok(approval(row, spec))
    }

    pub(super) fn approvals(&mut self, filter: &ApprovalFilter) -> Done<Page<Approval>> {
        // SQLite knows that a partial index is good for a statement where that repeats its condition.
        let only = match (filter.closed_too, filter.task.is_some()) {
            (true, true) => "AND task = ?5",
            (true, false) => "AND ?5 IS NULL",
            (false, true) => "AND task = ?5 AND state = 0 AND state < 2",
            (false, false) => "AND ?5 IS NULL AND state = 0",
        };
        let db = self.db;
        let mut statement = db.prepare_cached(&format!(
            "{} WHERE id > ?1 AND id < ?2 AND (?3 IS NULL OR tenant = ?3) AND asked_us <= ?4
             {only} ORDER BY id",
            select!(approvals)
        ))?;
        let (above, below) = around(filter.id_prefix);
        let after = filter.after.map_or(above, |after| after.0.max(above));
        let mut rows = statement.query(params![
            Id(after),
            Id(below),
            filter.tenant.as_ref().map(Tenant::as_str),
            Number(filter.asked_until.map_or(u64::MAX, Timestamp::as_micros)),
            filter.task.map(Id::from),
        ])?;
        let mut page = PageFiller::new(filter.limit);
        while let Some(row) = rows.next()? {
            let Some(found) = self.keep(APPROVALS.read(row, row::approval)) else {
                continue;
            };
            let spec = self.spec(found.task)?;
            let Some(spec) = self.keep(spec) else {
                continue;
            };
            let approval = approval(found, spec);
            if !filter.matches(&approval) {
                continue;
            }
            let bytes = approval_bytes(&approval);
            if !page.put(approval, bytes) {
                break;
            }
        }
        Ok(page.finish())
    }

    pub(super) fn counters(&mut self) -> Done<Counters> {
        match Counters::read(self.db)? {
            Some(found) => self.need(found),
            None => Err(LedgerError::Unreadable {
                what: "counters: the row is missing".to_owned(),
            }
            .into()),
        }
    }

    pub(super) fn agents(&mut self) -> Done<Vec<Agent>> {
        let sql = concat!(select!(agents), " ORDER BY agent_type, ordinal");
        let found = AGENTS.all(self.db, sql, [], row::agent)?;
        Ok(found.into_iter().filter_map(|row| self.keep(row)).collect())
    }

    /// A component does without a snapshot that cannot be read.
    pub(super) fn snapshot(&mut self, key: &SnapshotKey) -> Done<Option<Snapshot>> {
        let sql = concat!(select!(snapshots), " WHERE node = ?1 AND name = ?2");
        let key = params![key.node.as_str(), key.name];
        let found = SNAPSHOTS.one(self.db, sql, key, row::snapshot)?;
        Ok(found.and_then(|row| self.keep(row)))
    }

    pub(super) fn quarantined(&mut self) -> Done<Vec<Quarantined>> {
        let sql = concat!(select!(quarantined), " ORDER BY place, key");
        let found = QUARANTINED.all(self.db, sql, [], row::quarantined)?;
        Ok(found.into_iter().filter_map(|row| self.keep(row)).collect())
    }
}

/// The ids around those that begin so. None is nil, and none the highest there is.
fn around(prefix: Option<IdPrefix>) -> (Uuid, Uuid) {
    prefix.map_or((Uuid::nil(), Uuid::max()), |prefix| {
        let (first, last) = (prefix.first().as_u128(), prefix.last().as_u128());
        (
            Uuid::from_u128(first.saturating_sub(1)),
            Uuid::from_u128(last.saturating_add(1)),
        )
    })
}

fn approval(row: ApprovalRow, spec: Arc<Spec>) -> Approval {
    Approval {
        question: row.question,
        task: row.task,
        spec,
        asked_at: row.asked_at,
        state: row.state,
    }
}

fn missing_entry(task: TaskId, sequence: u32) -> Damage {
    Damage {
        table: JOURNAL.name,
        key: format!("{task}/{sequence}"),
        reason: "the row is missing".to_owned(),
        owner: Some(task.0),
    }
}

/// The rows quarantined so far.
pub(super) fn count_quarantined(db: &Connection) -> rusqlite::Result<u64> {
    let count: Option<Number> = db
        .query_row("SELECT count(*) FROM quarantined", [], |row| row.get(0))
        .optional()?;
    Ok(count.map_or(0, |count| count.0))
}
