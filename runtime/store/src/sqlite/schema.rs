//! Opening the file: pragmas, migrations, what must be right before anybody works.

use std::path::Path;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, config::DbConfig, functions::FunctionFlags, params,
};
use uuid::Uuid;

use super::{
    counters::Counters,
    files,
    mark::{self, Acknowledged},
    row::{self, Meta},
    tables::{self, META, Table, columns, select},
    value::{Id, Number},
};
use crate::{codec, ledger::LedgerError};

/// Marks the file as a ledger: "CLNY".
const APPLICATION_ID: i32 = 0x434c_4e59;
/// Pages of 4 KiB in the write-ahead log before they are moved into the file: 64 MiB. At a few
/// thousand tasks a second that is a pause of some tens of milliseconds every few seconds, instead of
/// in every commit.
const CHECKPOINT_PAGES: i32 = 16_384;

/// Each brings the ledger from the schema of its index to the next. Expand first: a migration adds, and
/// what it replaces is removed one release later. Never edit one that was released.
const MIGRATIONS: [&str; 3] = [
    include_str!("schema/0001_first.sql"),
    include_str!("schema/0002_heads.sql"),
    include_str!("schema/0003_requests.sql"),
];

/// The schema that this version writes.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub(super) const SCHEMA: u32 = MIGRATIONS.len() as u32;
/// The oldest schema whose version may write what this one does: an older one knows no checksums.
const OLDEST_SCHEMA: u32 = 2;

type What = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn open_error(path: &Path, what: impl Into<What>) -> LedgerError {
    LedgerError::Open {
        path: path.display().to_string(),
        what: what.into().to_string(),
    }
}

/// A ledger's file, opened for writing.
pub(super) struct Opened {
    pub(super) db: Connection,
    pub(super) meta: Meta,
    /// Whether indexes of live tasks were damaged.
    pub(super) mended: bool,
}

/// Opens the file for writing and brings its schema up to date. `acknowledged` is what it must hold.
pub(super) fn open_writer(
    path: &Path,
    acknowledged: Option<Acknowledged>,
) -> Result<Opened, LedgerError> {
    let explain = |e: rusqlite::Error| open_error(path, explain(&e));
    if let Some(acknowledged) = acknowledged
        && !path.exists()
    {
        return Err(too_few_writes(path, 0, acknowledged));
    }
    create(path)?;
    let mut db = Connection::open(path).map_err(explain)?;
    db.set_prepared_statement_cache_capacity(128);
    prepare(&db).map_err(|what| open_error(path, what))?;
    plan_once(&db).map_err(explain)?;
    let version: u32 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(explain)?;
    let application: i32 = db
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(explain)?;
    let tables: u32 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(explain)?;
    if tables > 0 && application != APPLICATION_ID {
        let what = "is the database of another program; choose another data directory";
        return Err(open_error(path, what));
    }
    if let Some(acknowledged) = acknowledged
        && let Some(found) = writes(&db, version, acknowledged.ledger).map_err(explain)?
        && found < acknowledged.writes
    {
        // Closing would move what there is of the log into the file, and delete it.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(explain)?;
        return Err(too_few_writes(path, found, acknowledged));
    }
    // What a former life wrote is made durable before anybody is told of it: its last sync may have
    // failed.
    checkpoint(&db, "FULL").map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            let what = "its disk is full; make room and start again, nothing is lost";
            open_error(path, what)
        }
        Some(_) | None => explain(error),
    })?;
    if version < SCHEMA {
        migrate(&mut db, version).map_err(explain)?;
    }
    let mended = mend_indexes(&db, path);
    files::preallocate_index(path)
        .map_err(|e| open_error(path, format!("has no room for the index of its log: {e}")))?;
    let meta = read_meta(&db, version.max(SCHEMA)).map_err(|what| open_error(path, what))?;
    db.wal_hook(Some(|log: &mut rusqlite::hooks::Wal, pages| {
        if pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        // Not left to SQLite, which would say nothing of a sync that failed.
        match log.checkpoint() {
            // What was committed is durable in the log: it is moved when there is room.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                tracing::warn!(
                    pages,
                    "the disk is full, the log stays beside the ledger for now"
                );
                Ok(())
            }
            Err(error) => {
                // SQLite passes on that it failed, and not how.
                tracing::error!(%error, "the log cannot be moved into the ledger");
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }))
    .map_err(explain)?;
    Ok(Opened { db, meta, mended })
}

/// How many writes the file and its log hold; none: it is another ledger than `id`, or its counters cannot be read.
fn writes(db: &Connection, version: u32, id: Uuid) -> rusqlite::Result<Option<u64>> {
    if version < 2 {
        // Nothing, or from before there were marks.
        return Ok(Some(0));
    }
    let other = match META.one(db, select!(meta), [], row::meta)? {
        Some(Ok(meta)) => meta.id != id,
        Some(Err(_)) | None => false,
    };
    let counters = Counters::read(db)?.and_then(Result::ok);
    Ok(counters.filter(|_| !other).map(|counters| counters.writes))
}

fn too_few_writes(path: &Path, found: u64, acknowledged: Acknowledged) -> LedgerError {
    let beside = |suffix| files::beside(path, suffix);
    let what = format!(
        "holds {found} of {} acknowledged writes: the file or its log {} is damaged or gone, or an older copy was put \
         back. Put the file and its log back from one copy; to go on without what is missing, move {} away",
        acknowledged.writes,
        beside("-wal").display(),
        beside(mark::SUFFIX).display(),
    );
    open_error(path, what)
}

/// Claims walk the indexes of live tasks: a task that one of them does not have would never run, and an entry
/// that leads nowhere would stop all claims. They hold nothing that the rows do not, so they are made anew. Takes a
/// second or two for a million live tasks. Whether they were damaged: the rows may be, too, and then even a new index
/// leads nobody to them.
pub(super) fn mend_indexes(db: &Connection, path: &Path) -> bool {
    let check = "PRAGMA integrity_check(live)";
    let found = db.query_row(check, [], |row| row.get::<_, String>(0));
    let found = found.unwrap_or_else(|error| explain(&error));
    if found == "ok" {
        return false;
    }
    let path = path.display();
    match db.execute_batch("REINDEX live") {
        Ok(()) => tracing::error!(%path, found, "indexes were damaged, and are made anew"),
        Err(error) => tracing::error!(%path, found, %error, "indexes cannot be made anew"),
    }
    true
}

/// Makes the files where they are missing.
fn create(path: &Path) -> Result<(), LedgerError> {
    let log = files::beside(path, "-wal");
    if !path.exists() && log.metadata().is_ok_and(|log| log.len() > 0) {
        let what = format!(
            "is missing, though its log {} is there: put both back from one copy, or move the log away to begin anew",
            log.display()
        );
        return Err(open_error(path, what));
    }
    let old =
        files::create_file(path).map_err(|e| open_error(path, format!("cannot be opened: {e}")))?;
    if !old {
        // Its first page. A log beside a file without one would be deleted.
        let db = Connection::open(path).map_err(|e| open_error(path, explain(&e)))?;
        prepare(&db).map_err(|what| open_error(path, what))?;
    }
    files::preallocate(path)
        .map_err(|e| open_error(path, format!("has no room for its log: {e}")))?;
    files::sync_names(path)
        .map_err(|e| open_error(path, format!("is in a folder that cannot be synced: {e}")))
}

/// Opens the file for reading beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    let explain = |e: rusqlite::Error| open_error(path, explain(&e));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(explain)?;
    db.set_prepared_statement_cache_capacity(64);
    plan_once(&db).map_err(explain)?;
    db.pragma_update(None, "query_only", true)
        .map_err(explain)?;
    Ok(db)
}

/// One plan a statement. Else SQLite, as it is built here, compiles many of them anew for each value that is
/// bound to them, in search of a better plan: a quarter of the writer's time. Ours have one good plan.
fn plan_once(db: &Connection) -> rusqlite::Result<()> {
    let stable = DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG;
    db.set_db_config(stable, true).map(drop)
}

/// What durability rests on is asked for, and asked back.
pub(super) fn prepare(db: &Connection) -> Result<(), String> {
    let say = |e: rusqlite::Error| explain(&e);
    let mode: String = db
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(say)?;
    if mode != "wal" {
        return Err(format!(
            "cannot have a write-ahead log (its journal mode stays {mode:?}); choose a data directory on a local disk"
        ));
    }
    db.pragma_update(None, "synchronous", "full").map_err(say)?;
    let synchronous: i64 = db
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .map_err(say)?;
    if synchronous != 2 {
        return Err(format!(
            "does not sync its log (synchronous stays {synchronous})"
        ));
    }
    db.pragma_update(None, "temp_store", "memory")
        .map_err(say)?;
    // Negative: KiB. The hot part of a queue of 100,000 tasks.
    db.pragma_update(None, "cache_size", -65_536).map_err(say)
}

/// Moves the log into the file.
pub(super) fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<()> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

fn migrate(db: &mut Connection, version: u32) -> rusqlite::Result<()> {
    db.create_scalar_function(
        "spec_deadline",
        1,
        FunctionFlags::SQLITE_DETERMINISTIC,
        |call| {
            let spec = call.get_raw(0).as_blob().ok().map(codec::read_spec);
            let deadline = spec.and_then(Result::ok).and_then(|spec| spec.deadline);
            Ok(deadline.map(Number::from))
        },
    )?;
    let step = db.transaction()?;
    for migration in MIGRATIONS.iter().skip(version as usize) {
        step.execute_batch(migration)?;
    }
    for table in tables::ALL {
        seal(&step, table)?;
    }
    write_meta(&step)?;
    step.pragma_update(None, "application_id", APPLICATION_ID)?;
    step.pragma_update(None, "user_version", SCHEMA)?;
    step.commit()
}

/// Computes the checksums of the rows that were written without: those that have one keep it, for it may tell
/// of damage.
fn seal(db: &Connection, table: &Table) -> rusqlite::Result<()> {
    db.create_scalar_function(
        "row_checksum",
        -1,
        FunctionFlags::SQLITE_DETERMINISTIC,
        |call| {
            let table = call.get_raw(0).as_str()?.to_owned();
            let row = (1..call.len()).map(|column| call.get_raw(column));
            Ok(tables::checksum(&table, row))
        },
    )?;
    let Table { name, columns, .. } = table;
    db.execute_batch(&format!(
        "UPDATE {name} SET checksum = row_checksum('{name}', {columns}) WHERE checksum = 0"
    ))
}

/// Names the ledger, once; says who may write it, and what its tables look like.
fn write_meta(db: &Connection) -> rusqlite::Result<()> {
    let known = META.one(db, select!(meta), [], row::meta)?;
    let id = match known {
        Some(Ok(meta)) => meta.id,
        Some(Err(_)) | None => draw_id(db)?,
    };
    META.write(
        db,
        concat!(
            "INSERT OR REPLACE INTO meta (",
            columns!(meta),
            ", checksum) VALUES (?, ?, ?, ?, ?, ?)"
        ),
        params![1, Id(id), SCHEMA, OLDEST_SCHEMA, definitions(db)?],
    )?;
    Ok(())
}

/// A random UUID. SQLite has its randomness from the operating system.
fn draw_id(db: &Connection) -> rusqlite::Result<Uuid> {
    let bytes = db.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// A checksum over what tables and indexes were declared as: a flipped bit in a declaration would change
/// what a statement means.
pub(super) fn definitions(db: &Connection) -> rusqlite::Result<u32> {
    let mut all = Vec::new();
    let mut statement = db.prepare(
        "SELECT type || name || tbl_name || coalesce(sql, '') FROM sqlite_schema
         WHERE name NOT LIKE 'sqlite_%' ORDER BY name",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        all.push(row.get::<_, String>(0)?);
    }
    let values = all.iter().map(|text| text.as_str().into());
    Ok(tables::checksum("sqlite_schema", values))
}

/// Who the ledger is; refuses it where this version may not write it.
fn read_meta(db: &Connection, version: u32) -> Result<Meta, String> {
    let say = |e: rusqlite::Error| explain(&e);
    let meta = match META.one(db, select!(meta), [], row::meta).map_err(say)? {
        Some(Ok(meta)) if meta.schema == version => meta,
        Some(Ok(meta)) => {
            return Err(format!(
                "is damaged: its header says schema {version}, its tables {}; restore a backup or move it away",
                meta.schema
            ));
        }
        Some(Err(damage)) if version == SCHEMA => {
            // Cursors are good for one ledger: under a new name, watchers begin anew.
            tracing::warn!(%damage, "the ledger does not know its name, and gets another");
            write_meta(db).map_err(say)?;
            let renamed = META.one(db, select!(meta), [], row::meta).map_err(say)?;
            renamed
                .and_then(Result::ok)
                .ok_or("cannot be given a name")?
        }
        Some(Err(damage)) => {
            return Err(format!(
                "is damaged: {damage}; restore a backup or move it away"
            ));
        }
        None => return Err("is damaged: it has no name; restore a backup or move it away".into()),
    };
    if meta.oldest_schema > SCHEMA {
        return Err(format!(
            "was written by a newer colony (schema {version}, which needs a version that knows {} at least; this \
             one knows {SCHEMA}); run that version, or restore a backup from before the upgrade",
            meta.oldest_schema
        ));
    }
    if meta.tables != definitions(db).map_err(say)? {
        return Err("is damaged, or another program has changed it: its tables are not declared as they were; restore a backup or move it away".into());
    }
    Ok(meta)
}

/// SQLite's words, with what to do where it is known.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(NotADatabase) => {
            "is no database, or its first page is damaged; restore a backup or move it away".into()
        }
        Some(DatabaseCorrupt) => format!("is damaged ({error}); restore a backup or move it away"),
        Some(_) | None => error.to_string(),
    }
}
