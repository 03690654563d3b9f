//! The tables: their columns, and the checksum that is the last of them.
//!
//! A row is written whole, with the checksum over its table's name and its columns, the key among them;
//! a row is read whole, and compared. So a flipped bit is noticed where the row is read, and the row is
//! *damage*: the caller gets the others, and the row is set aside ([`super::txn::WriteTxn::set_aside`]).

use rusqlite::{
    Connection, OptionalExtension, Params, Row, ToSql,
    types::{FromSqlError, ToSqlOutput, ValueRef},
};
use uuid::Uuid;

use super::row;
use crate::codec::CodecError;

/// The columns of a table, without the checksum.
macro_rules! columns {
    (specs) => {
        "id, body"
    };
    // What live and finished have in common.
    (head) => {
        "id, tenant, queue, state, revision, fence, failed_attempts, node_losses, deadline_us, \
         sort_key, agent_type, agent_ordinal, submitted_us, updated_us, last_request, last_key"
    };
    (live) => {
        concat!(
            columns!(head),
            ", node, incarnation, batch, not_before_us, wait_approval"
        )
    };
    (finished) => {
        concat!(columns!(head), ", ending")
    };
    (journal) => {
        "task, sequence, at_us, body"
    };
    (approvals) => {
        "id, task, tenant, asked_us, state, question, decision, request"
    };
    (requests) => {
        "task, request, verb"
    };
    (dedupe) => {
        "tenant, key, task, payload, until_us"
    };
    (outbox) => {
        "number, key, place, task, destination, body, posted_us, acknowledged_us"
    };
    (episodes) => {
        "number, task, tenant, agent_type, at_us, forgotten, body"
    };
    (agents) => {
        "agent_type, ordinal, revision, version, tasks, successes, escalations, crashes, updated_us"
    };
    (snapshots) => {
        "node, name, version, body"
    };
    (nodes) => {
        "name, incarnation, batch"
    };
    (changes) => {
        "cursor, task, state, at_us"
    };
    (counters) => {
        "only, accepted, cursor, changes_kept_from, ready, claimed, waiting, done, failed, \
         cancelled, expired, dead, outbox, episodes, highest_us, writes"
    };
    (meta) => {
        "only, id, schema, oldest_schema, tables"
    };
    (quarantined) => {
        "place, key, reason, at_us"
    };
}

/// Whole rows of a table: `select!(live)` and a condition after it.
macro_rules! select {
    ($table:ident) => {
        concat!(
            "SELECT ",
            columns!($table),
            ", checksum FROM ",
            stringify!($table)
        )
    };
}

/// Writes a whole row; the values are `?`s, the checksum's is the last.
macro_rules! insert {
    ($table:ident, $values:literal) => {
        concat!(
            "INSERT INTO ",
            stringify!($table),
            " (",
            columns!($table),
            ", checksum) VALUES (",
            $values,
            ")"
        )
    };
}

pub(super) use {columns, insert, select};

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Without the checksum, which is the last.
    pub(super) columns: &'static str,
    /// How many of them, from the first, are the key.
    pub(super) keys: usize,
    /// Whether the key begins with a task that cannot go on without the row.
    owned: bool,
    /// Reads a row as whoever needs it does.
    decode: fn(&Row<'_>) -> Result<(), Undecodable>,
}

macro_rules! table {
    ($name:ident, $table:ident, $keys:literal, $owned:literal, $decode:expr) => {
        pub(super) const $name: Table = Table {
            name: stringify!($table),
            columns: columns!($table),
            keys: $keys,
            owned: $owned,
            decode: |row| $decode(row).map(drop),
        };
    };
}

table!(SPECS, specs, 1, true, row::spec);
table!(LIVE, live, 1, true, row::live);
table!(FINISHED, finished, 1, false, row::finished);
table!(JOURNAL, journal, 2, true, row::entry);
table!(APPROVALS, approvals, 1, false, row::approval);
table!(REQUESTS, requests, 2, false, row::request);
table!(DEDUPE, dedupe, 2, false, row::dedupe);
table!(OUTBOX, outbox, 1, false, row::outbox);
table!(EPISODES, episodes, 1, false, row::episode);
table!(AGENTS, agents, 2, false, row::agent);
table!(SNAPSHOTS, snapshots, 2, false, row::snapshot);
table!(NODES, nodes, 1, false, row::node);
table!(CHANGES, changes, 1, false, row::change);
table!(COUNTERS, counters, 1, false, row::counters);
table!(META, meta, 1, false, row::meta);
table!(QUARANTINED, quarantined, 2, false, row::quarantined);

/// All of them.
pub(super) const ALL: [&Table; 16] = [
    &SPECS,
    &LIVE,
    &FINISHED,
    &JOURNAL,
    &APPROVALS,
    &REQUESTS,
    &DEDUPE,
    &OUTBOX,
    &EPISODES,
    &AGENTS,
    &SNAPSHOTS,
    &NODES,
    &CHANGES,
    &COUNTERS,
    &META,
    &QUARANTINED,
];

/// Why a row whose checksum is right was not read: by this version, something else stands there than it
/// would have written.
#[derive(Debug)]
pub(super) struct Undecodable(String);

impl From<rusqlite::Error> for Undecodable {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<FromSqlError> for Undecodable {
    fn from(error: FromSqlError) -> Self {
        Self(error.to_string())
    }
}

impl From<CodecError> for Undecodable {
    fn from(error: CodecError) -> Self {
        Self(error.to_string())
    }
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) table: &'static str,
    /// The key's columns, with `/` between them.
    pub(super) key: String,
    pub(super) reason: String,
    /// The task that cannot go on without it.
    pub(super) owner: Option<Uuid>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.table, self.key, self.reason)
    }
}

/// A row, or that it cannot be read.
pub(super) type Found<T> = Result<T, Damage>;

impl Table {
    /// Reads a row that was selected whole.
    pub(super) fn read<T>(
        &self,
        row: &Row<'_>,
        decode: impl FnOnce(&Row<'_>) -> Result<T, Undecodable>,
    ) -> Found<T> {
        let width = row.as_ref().column_count() - 1;
        let columns = (0..width).map_while(|column| row.get_ref(column).ok());
        let checksum = ValueRef::Integer(i64::from(checksum(self.name, columns)));
        let damage = |reason: String| Damage {
            table: self.name,
            key: self.key(row),
            reason,
            owner: self.owned.then(|| uuid(row, 0)).flatten(),
        };
        if row.get_ref(width) != Ok(checksum) {
            return Err(damage("the checksum does not fit the row".to_owned()));
        }
        decode(row).map_err(|Undecodable(reason)| damage(reason))
    }

    /// Reads a row for nothing but to know whether it can be read.
    pub(super) fn check(&self, row: &Row<'_>) -> Found<()> {
        self.read(row, self.decode)
    }

    /// The first row of a statement that selects whole rows.
    pub(super) fn one<T>(
        &self,
        db: &Connection,
        sql: &str,
        params: impl Params,
        decode: impl FnOnce(&Row<'_>) -> Result<T, Undecodable>,
    ) -> rusqlite::Result<Option<Found<T>>> {
        db.prepare_cached(sql)?
            .query_row(params, |row| Ok(self.read(row, decode)))
            .optional()
    }

    /// All rows of a statement that selects whole rows.
    pub(super) fn all<T>(
        &self,
        db: &Connection,
        sql: &str,
        params: impl Params,
        decode: impl Fn(&Row<'_>) -> Result<T, Undecodable>,
    ) -> rusqlite::Result<Vec<Found<T>>> {
        db.prepare_cached(sql)?
            .query_map(params, |row| Ok(self.read(row, &decode)))?
            .collect()
    }

    /// Executes a statement whose parameters are a whole row, and after it the checksum.
    pub(super) fn write(
        &self,
        db: &Connection,
        sql: &str,
        row: &[&dyn ToSql],
    ) -> rusqlite::Result<usize> {
        let mut statement = db.prepare_cached(sql)?;
        let mut checksum = Checksum::of(self.name);
        for (number, column) in (1..).zip(row) {
            let value = column.to_sql()?;
            checksum.add(value_of(&value)?);
            statement.raw_bind_parameter(number, value)?;
        }
        statement.raw_bind_parameter(row.len() + 1, checksum.get())?;
        statement.raw_execute()
    }

    fn key(&self, row: &Row<'_>) -> String {
        let key: Vec<_> = (0..self.keys).map(|column| shown(row, column)).collect();
        key.join("/")
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not ours, and not exhaustive"
)]
fn value_of<'a>(value: &'a ToSqlOutput<'_>) -> rusqlite::Result<ValueRef<'a>> {
    match value {
        ToSqlOutput::Borrowed(value) => Ok(*value),
        ToSqlOutput::Owned(value) => Ok(value.into()),
        other => Err(rusqlite::Error::ToSqlConversionFailure(
            format!("{other:?} is no value of a column").into(),
        )),
    }
}

fn uuid(row: &Row<'_>, column: usize) -> Option<Uuid> {
    let bytes = row.get_ref(column).ok()?.as_blob().ok()?;
    Uuid::from_slice(bytes).ok()
}

/// A key's column for people.
fn shown(row: &Row<'_>, column: usize) -> String {
    if let Some(id) = uuid(row, column) {
        return id.to_string();
    }
    match row.get_ref(column) {
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Real(number)) => number.to_string(),
        Ok(ValueRef::Text(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Ok(ValueRef::Blob(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Ok(ValueRef::Null) | Err(_) => "null".to_owned(),
    }
}

/// Bytes that are gathered before they are hashed: one pass over a row is several times faster than one
/// for each of its columns.
const GATHERED_MAX: usize = 512;

/// CRC-32 over a table's name and values with their types and lengths: finds every single flipped bit,
/// and every burst of up to 32.
struct Checksum {
    hasher: crc32fast::Hasher,
    gathered: Vec<u8>,
}

impl Checksum {
    fn of(table: &str) -> Self {
        let mut gathered = Vec::with_capacity(GATHERED_MAX);
        gathered.extend_from_slice(table.as_bytes());
        Self {
            hasher: crc32fast::Hasher::new(),
            gathered,
        }
    }

    fn add(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.gather(0, &0_u64.to_le_bytes()),
            ValueRef::Integer(number) => self.gather(1, &number.to_le_bytes()),
            ValueRef::Real(number) => self.gather(2, &number.to_le_bytes()),
            ValueRef::Text(bytes) => self.add_bytes(3, bytes),
            ValueRef::Blob(bytes) => self.add_bytes(4, bytes),
        }
    }

    fn add_bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.gather(kind, &(bytes.len() as u64).to_le_bytes());
        if self.gathered.len() + bytes.len() <= GATHERED_MAX {
            self.gathered.extend_from_slice(bytes);
        } else {
            self.flush();
            self.hasher.update(bytes);
        }
    }

    fn gather(&mut self, kind: u8, bytes: &[u8]) {
        if self.gathered.len() + 1 + bytes.len() > GATHERED_MAX {
            self.flush();
        }
        self.gathered.push(kind);
        self.gathered.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        self.hasher.update(&self.gathered);
        self.gathered.clear();
    }

    fn get(mut self) -> u32 {
        self.flush();
        self.hasher.finalize()
    }
}

/// The checksum of a row of `table`.
pub(super) fn checksum<'a>(table: &str, row: impl IntoIterator<Item = ValueRef<'a>>) -> u32 {
    let mut checksum = Checksum::of(table);
    for value in row {
        checksum.add(value);
    }
    checksum.get()
}
