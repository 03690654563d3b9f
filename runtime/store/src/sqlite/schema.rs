//! Opening the file: lock, pragmas, migrations.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use crate::ledger::LedgerError;

/// Marks the file as a book: "CLNY".
const APPLICATION_ID: i32 = 0x434c_4e59;
/// Pages of 4 KiB in the write-ahead log before they are moved into the file: 64 MiB. At a few
/// thousand tasks a second that is a pause of some tens of milliseconds every few seconds, instead of
/// in every commit.
const CHECKPOINT_PAGES: u32 = 16_384;
/// The write-ahead log is written full of zeros once, so that commits overwrite blocks that exist: a
/// sync then need not allocate. 16 MiB: reached by a busy node within seconds, no burden for an idle one.
const PREALLOCATE_BYTES: u64 = 16 * 1024 * 1024;

/// Each brings the book from the schema of its index to the next. Expand first: a migration adds, and
/// what it replaces is removed one release later. Never edit one that was released.
const MIGRATIONS: [&str; 1] = [include_str!("schema/0001_first.sql")];

/// The schema that this version writes.
const SCHEMA: usize = MIGRATIONS.len();

type What = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn open_error(path: &Path, what: impl Into<What>) -> LedgerError {
    LedgerError::Open {
        path: path.display().to_string(),
        what: what.into().to_string(),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How often a held lock is asked for again.
const LOCK_TRIES: u32 = 40;
/// Time between two of them: two seconds in all.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Holds the file against other processes for as long as it lives. The operating system lets go of it
/// when the process dies, however it dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, LedgerError> {
        let lock_path = beside(path, ".lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|e| open_error(&lock_path, format!("cannot be opened: {e}")))?;
        match wait_for(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let pid = if known { holder.trim() } else { "unknown" };
                let what = format!(
                    "is open in another process (pid {pid}); stop it or choose another data directory"
                );
                return Err(open_error(path, what));
            }
            Err(TryLockError::Error(e)) => {
                return Err(open_error(&lock_path, format!("cannot be locked: {e}")));
            }
        }
        // The pid is for people; that it cannot be written is no reason not to work.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { _file: file })
    }
}

/// Takes the lock, with patience for a process that was just killed: the system lets go of its files a
/// moment after whoever killed it goes on.
#[expect(
    clippy::disallowed_methods,
    reason = "opening blocks anyway, and there is no condition to wait for"
)]
fn wait_for(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    file.try_lock()
}

/// Opens the file for writing and brings its schema up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, LedgerError> {
    preallocate(path).map_err(|e| open_error(path, format!("has no room for its log: {e}")))?;
    let explain = |e: rusqlite::Error| open_error(path, explain(&e));
    let mut db = Connection::open(path).map_err(explain)?;
    db.set_prepared_statement_cache_capacity(128);
    prepare(&db).map_err(explain)?;
    let version: usize = db
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        .map_err(explain)?
        .try_into()
        .unwrap_or(usize::MAX);
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
    if version > SCHEMA {
        let what = format!(
            "was written by a newer colony (schema {version}, this version knows up to {SCHEMA}); \
             run that version, or restore a backup from before the upgrade"
        );
        return Err(open_error(path, what));
    }
    migrate(&mut db, version).map_err(explain)?;
    Ok(db)
}

/// Opens the file for reading beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    let explain = |e: rusqlite::Error| open_error(path, explain(&e));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(explain)?;
    db.set_prepared_statement_cache_capacity(64);
    db.pragma_update(None, "query_only", true)
        .map_err(explain)?;
    Ok(db)
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    db.pragma_update(None, "temp_store", "memory")?;
    // Negative: KiB. The hot part of a queue of 100,000 tasks.
    db.pragma_update(None, "cache_size", -65_536)
}

fn migrate(db: &mut Connection, version: usize) -> rusqlite::Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let step = db.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(
            None,
            "user_version",
            u32::try_from(index + 1).unwrap_or(u32::MAX),
        )?;
        step.commit()?;
    }
    Ok(())
}

/// Writes the log's file full of zeros where there is no log. SQLite takes a log without a valid header
/// for an empty one.
fn preallocate(path: &Path) -> std::io::Result<()> {
    let log = beside(path, "-wal");
    if log.exists() {
        return Ok(());
    }
    let mut file = File::create(&log)?;
    let zeros = vec![0_u8; 1024 * 1024];
    let mut written = 0;
    while written < PREALLOCATE_BYTES {
        file.write_all(&zeros)?;
        written += zeros.len() as u64;
    }
    file.sync_all()
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
