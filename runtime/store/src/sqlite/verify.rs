//! Reading everything.
//!
//! Rows in chunks, each at a moment of its own, so that the log can be moved into the file in between;
//! then the numbers, at one moment; then the file's structure. Nothing here stops the writer.

use std::collections::BTreeMap;

use colony_core::id::TaskId;
use rusqlite::{Row, ToSql, types::Value};

use super::{
    SqliteLedger,
    load::{self, missing_head, missing_spec},
    read::ReadTxn,
    readers::Lane,
    row,
    schema::definitions,
    tables::{self, FINISHED, LIVE, META, SPECS, Table, columns, select},
    txn::TxnError,
    value::{Id, Number},
};
use crate::ledger::{LedgerError, Verification};

/// Rows read at one moment: some tens of milliseconds.
const CHUNK: u64 = 2_000;
/// Most problems that the file's structure is asked for; a torn page makes thousands.
const PROBLEMS_MAX: u32 = 100;

type Done<T> = Result<T, TxnError>;

/// Where the next chunk begins: after the row with this key.
type Key = Vec<Value>;

impl SqliteLedger {
    /// Where pages of the file cannot be read, the rest is read all the same.
    pub(super) async fn verify_all(&self) -> Result<Verification, LedgerError> {
        let mut rows = BTreeMap::new();
        let mut problems = Vec::new();
        for table in tables::ALL {
            match self.verify_table(table).await {
                Ok(read) => drop(rows.insert(table.name.to_owned(), read)),
                Err(error) => problems.push(problem(table.name, error)?),
            }
        }
        self.write(|txn| txn.forget_mended()).await?;
        match self.verify_counters().await {
            Ok(found) => problems.extend(found),
            Err(error) => problems.push(problem("counters", error)?),
        }
        match self.read(Lane::Scan, structure).await {
            Ok(found) => problems.extend(found),
            Err(error) => problems.push(problem("structure", error)?),
        }
        Ok(Verification {
            rows,
            quarantined: self.read(Lane::Scan, |txn| txn.quarantined()).await?,
            problems,
        })
    }

    /// How many rows were read. Those that come meanwhile are left out: they were just written.
    async fn verify_table(&self, table: &'static Table) -> Result<u64, LedgerError> {
        let total = self.read(Lane::Scan, move |txn| count(txn, table)).await?;
        let mut seen = 0;
        let mut after = None;
        while seen < total {
            let (rows, last) = self
                .read(Lane::Scan, move |txn| chunk(txn, table, after))
                .await?;
            seen += rows;
            after = last;
            if after.is_none() {
                break;
            }
        }
        Ok(seen)
    }

    async fn verify_counters(&self) -> Result<Vec<String>, LedgerError> {
        let (stored, counted) = self
            .read(Lane::Scan, |txn| {
                let stored = txn.counters()?;
                Ok((stored, stored.counted(txn.db)?))
            })
            .await?;
        if stored == counted {
            return Ok(Vec::new());
        }
        let what = format!("the counters were {stored:?}, and are {counted:?}");
        tracing::warn!(what, "the ledger's counters were wrong, and are mended");
        self.write(move |txn| {
            txn.counters = txn.counters.mended(&stored, &counted);
            txn.effects.wrote = true;
            Ok(())
        })
        .await?;
        Ok(vec![what])
    }
}

/// What is said of damage that is in no row; other errors end the verification.
fn problem(place: &str, error: LedgerError) -> Result<String, LedgerError> {
    if let LedgerError::Unreadable { what } = error {
        return Ok(format!("{place} cannot be read whole: {what}"));
    }
    Err(error)
}

fn count(txn: &ReadTxn<'_>, table: &Table) -> Done<u64> {
    let sql = format!("SELECT count(*) FROM {}", table.name);
    let count: Number = txn.db.query_row(&sql, [], |row| row.get(0))?;
    Ok(count.0)
}

/// Reads the rows after a key. How many; and the last key, if there may be more.
fn chunk(txn: &mut ReadTxn<'_>, table: &Table, after: Option<Key>) -> Done<(u64, Option<Key>)> {
    let names: Vec<&str> = table.columns.split(", ").take(table.keys).collect();
    let key = names.join(", ");
    let after = after.unwrap_or_default();
    let from = if after.is_empty() {
        String::new()
    } else {
        let values = vec!["?"; table.keys].join(", ");
        format!("WHERE ({key}) > ({values})")
    };
    let sql = format!(
        "SELECT {}, checksum FROM {} {from} ORDER BY {key} LIMIT {CHUNK}",
        table.columns, table.name
    );
    let db = txn.db;
    let mut statement = db.prepare_cached(&sql)?;
    let after: Vec<&dyn ToSql> = after.iter().map(|value| value as &dyn ToSql).collect();
    let mut rows = statement.query(after.as_slice())?;
    let mut seen = 0;
    let mut last = None;
    while let Some(row) = rows.next()? {
        seen += 1;
        last = Some(key_of(row, table)?);
        if txn.keep(table.check(row)).is_some() {
            related(txn, table, row)?;
        }
    }
    Ok((seen, last.filter(|_| seen == CHUNK)))
}

fn key_of(row: &Row<'_>, table: &Table) -> rusqlite::Result<Key> {
    (0..table.keys).map(|column| row.get(column)).collect()
}

/// What is asked has a head, and a head has what is asked.
fn related(txn: &mut ReadTxn<'_>, table: &Table, row: &Row<'_>) -> Done<()> {
    let name = table.name;
    if name == SPECS.name {
        let task = task_of(row)?;
        if load::head(txn.db, task)?.is_none() {
            txn.damages.push(missing_head(task));
        }
    } else if name == LIVE.name || name == FINISHED.name {
        let task = task_of(row)?;
        if load::spec(txn.db, task)?.is_none() {
            txn.damages.push(missing_spec(task));
        }
    }
    Ok(())
}

fn task_of(row: &Row<'_>) -> rusqlite::Result<TaskId> {
    row.get::<_, Id>(0).map(Id::task)
}

/// Whether the file's pages fit together, its indexes fit the tables, and these are what was declared.
fn structure(txn: &mut ReadTxn<'_>) -> Done<Vec<String>> {
    let sql = format!("PRAGMA integrity_check({PROBLEMS_MAX})");
    let mut problems: Vec<String> = txn
        .db
        .prepare(&sql)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    problems.retain(|problem| problem != "ok");
    // Where the row with their checksum cannot be read, that was found above.
    if let Some(Ok(meta)) = META.one(txn.db, select!(meta), [], row::meta)?
        && meta.tables != definitions(txn.db)?
    {
        problems.push("the tables are not declared as they were".to_owned());
    }
    Ok(problems)
}
