//! Rows that both sides look up, writer and readers.

use std::sync::Arc;

use colony_core::{
    id::{ApprovalId, RequestId, TaskId},
    journal::Entry,
    ledger::{ClientVerb, TaskHead},
    task::Spec,
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{
    row::{self, ApprovalRow},
    tables::{
        APPROVALS, Damage, FINISHED, Found, JOURNAL, LIVE, REQUESTS, SPECS, Table, columns, select,
    },
    value::Id,
};

type Loaded<T> = rusqlite::Result<Option<Found<T>>>;

/// A live task.
pub(super) fn live(db: &Connection, id: TaskId) -> Loaded<TaskHead> {
    let sql = concat!(select!(live), " WHERE id = ?1");
    LIVE.one(db, sql, [Id::from(id)], row::live)
}

/// A task, live or ended.
pub(super) fn head(db: &Connection, id: TaskId) -> Loaded<TaskHead> {
    match live(db, id)? {
        Some(found) => Ok(Some(found)),
        None => {
            let sql = concat!(select!(finished), " WHERE id = ?1");
            FINISHED.one(db, sql, [Id::from(id)], row::finished)
        }
    }
}

/// What is asked.
pub(super) fn spec(db: &Connection, id: TaskId) -> Loaded<Arc<Spec>> {
    let sql = concat!(select!(specs), " WHERE id = ?1");
    SPECS.one(db, sql, [Id::from(id)], row::spec)
}

/// What a client asked of a task under this id.
pub(super) fn request(db: &Connection, task: TaskId, request: RequestId) -> Loaded<ClientVerb> {
    let sql = concat!(select!(requests), " WHERE task = ?1 AND request = ?2");
    REQUESTS.one(db, sql, [Id::from(task), Id(request.0)], row::request)
}

pub(super) fn entry(db: &Connection, task: TaskId, sequence: u32) -> Loaded<Entry> {
    let sql = concat!(select!(journal), " WHERE task = ?1 AND sequence = ?2");
    JOURNAL.one(db, sql, params![Id::from(task), sequence], row::entry)
}

/// The number of the next journal entry.
pub(super) fn next_sequence(db: &Connection, task: TaskId) -> rusqlite::Result<u32> {
    let last: Option<u32> = db
        .prepare_cached(
            "SELECT sequence FROM journal WHERE task = ?1 ORDER BY sequence DESC LIMIT 1",
        )?
        .query_row([Id::from(task)], |row| row.get(0))
        .optional()?;
    Ok(last.map_or(0, |last| last.saturating_add(1)))
}

pub(super) fn approval(db: &Connection, id: ApprovalId) -> Loaded<ApprovalRow> {
    let sql = concat!(select!(approvals), " WHERE id = ?1");
    APPROVALS.one(db, sql, [Id::from(id)], row::approval)
}

/// Whether it was written down before that the row cannot be read.
pub(super) fn is_quarantined(db: &Connection, damage: &Damage) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM quarantined WHERE place = ?1 AND key = ?2")?
        .exists(params![damage.table, damage.key])
}

/// Whether a task lives.
pub(super) fn is_live(db: &Connection, task: Uuid) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM live WHERE id = ?1")?
        .exists([Id(task)])
}

/// A task has a head and nothing that says what is asked.
pub(super) fn missing_spec(task: TaskId) -> Damage {
    missing(&SPECS, task)
}

/// A task was accepted and has no head.
pub(super) fn missing_head(task: TaskId) -> Damage {
    missing(&LIVE, task)
}

fn missing(table: &Table, task: TaskId) -> Damage {
    Damage {
        table: table.name,
        key: task.to_string(),
        reason: "the row is missing".to_owned(),
        owner: Some(task.0),
    }
}
