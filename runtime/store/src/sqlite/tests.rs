//! What cannot be provoked from outside: a full disk, panics, the lanes of the readers, other versions.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use colony_core::{
    cycle::{ExecutionResult, Output},
    id::{Incarnation, NodeId, QueueName, RequestId, TaskId, TypeName},
    journal::{Entry, Note},
    ledger::Trouble,
    port::Clock,
    task::{Spec, State},
    unit::Timestamp,
};

use rusqlite::{Connection, StatementStatus, params};

use super::{
    SqliteLedger,
    readers::Lane,
    row,
    schema::{self, SCHEMA},
    select::CLAIMABLE,
    tables::{self, Damage, LIVE, META, SPECS, columns, select},
    value::{Id, Number},
};
use crate::{
    ledger::{
        Claim, ClaimRequest, Commit, Health, Ledger, LedgerError, NewTask, Others, Policy,
        Settlement,
    },
    property,
};

/// A clock that stands.
#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000_000)
    }
}

fn open(path: &Path) -> Result<SqliteLedger, LedgerError> {
    SqliteLedger::open(path, Policy::default(), Arc::new(Noon))
}

fn task(number: u16, bytes: usize) -> NewTask {
    let mut random = [0; 10];
    random[8..].copy_from_slice(&number.to_be_bytes());
    NewTask {
        id: TaskId::new(Noon.now(), random),
        spec: Arc::new(Spec::new(TypeName::new("t").unwrap(), "x".repeat(bytes))),
        refusal: None,
    }
}

async fn pages_max(ledger: &SqliteLedger, pages: impl Fn(u32) -> u32 + Send + 'static) {
    ledger
        .write(move |txn| {
            let now: u32 = txn
                .db
                .pragma_query_value(None, "page_count", |row| row.get(0))?;
            txn.db
                .pragma_update_and_check(None, "max_page_count", pages(now), |_| Ok(()))?;
            Ok(())
        })
        .await
        .unwrap();
}

/// What was wrong was in the memory of a reader, or on its way there.
#[tokio::test]
async fn a_row_that_was_read_wrongly_once_kills_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger.db")).unwrap();
    let task = task(1, 10);
    let id = task.id;
    ledger.submit(vec![task]).await.unwrap();
    for table in [LIVE.name, SPECS.name] {
        let damage = Damage {
            table,
            key: id.to_string(),
            reason: "the checksum does not fit the row".into(),
            owner: Some(id.0),
        };
        ledger
            .write(move |txn| txn.set_aside(&damage))
            .await
            .unwrap();
    }
    assert_eq!(ledger.get(id).await.unwrap().head.state, State::Ready);
    assert!(ledger.verify().await.unwrap().is_whole());
}

/// Flips bits of a byte in the root page of a table or index, in the file and not in anybody's memory.
async fn flip(ledger: &SqliteLedger, path: &Path, name: &'static str, byte: u64, bits: u8) {
    let page = ledger
        .write(move |txn| {
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
            let page = txn
                .db
                .query_row(sql, [name], |row| row.get::<_, Number>(0))?;
            Ok(page.0)
        })
        .await
        .unwrap();
    let beside = Connection::open(path).unwrap();
    schema::checkpoint(&beside, "TRUNCATE").unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let at = (page - 1) * 4_096 + byte;
    let mut found = [0];
    file.read_exact_at(&mut found, at).unwrap();
    file.write_all_at(&[found[0] ^ bits], at).unwrap();
    ledger
        .write(|txn| Ok(txn.db.execute_batch("PRAGMA shrink_memory")?))
        .await
        .unwrap();
}

async fn claim(ledger: &SqliteLedger, incarnation: Incarnation, batch: u64) -> Vec<Claim> {
    let request = ClaimRequest {
        node: NodeId::new("n1").unwrap(),
        incarnation,
        batch,
        free: BTreeMap::from([(QueueName::new("t").unwrap(), 100)]),
        total: 100,
    };
    ledger.claim(request).await.unwrap().claims
}

async fn registered(ledger: &SqliteLedger) -> Incarnation {
    let node = NodeId::new("n1").unwrap();
    let registered = ledger.register(&node, Others::Nobody).await.unwrap();
    registered.incarnation
}

/// Claims that fail, and tasks that no claim finds: either way the index is made anew.
#[tokio::test]
async fn an_index_that_is_damaged_while_the_node_runs_is_made_anew() {
    // From the end of its page, where the entries lie.
    for byte in [3, 40, 90, 150] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let ledger = open(&path).unwrap();
        let life = registered(&ledger).await;
        let tasks: Vec<NewTask> = (0..20).map(|number| task(number, 10)).collect();
        ledger.submit(tasks).await.unwrap();
        flip(&ledger, &path, "live_claimable", 4_096 - byte, 1).await;
        let mut claimed = 0;
        for batch in 1..=2 {
            claimed += claim(&ledger, life, batch).await.len();
        }
        assert_eq!(claimed, 20, "byte {byte}");
    }
}

/// A page of journals that cannot be read: who needs it waits, is charged nothing, and the others are claimed.
#[tokio::test]
async fn a_page_that_cannot_be_read_stops_only_who_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = open(&path).unwrap();
    let life = registered(&ledger).await;
    let begun = task(1, 10);
    let id = begun.id;
    ledger.submit(vec![begun]).await.unwrap();
    let held = claim(&ledger, life, 1).await.pop().unwrap();
    let note = Note::Output(Output::Execute(ExecutionResult::default()));
    let mut commit = Commit::settling(
        held.reference(),
        Settlement::release(Trouble::NoAgent, "let go"),
    );
    commit.entries = vec![Entry {
        sequence: 0,
        at: Noon.now(),
        note,
    }];
    ledger.commit(commit).await.unwrap();
    ledger.submit(vec![task(2, 10)]).await.unwrap();
    flip(&ledger, &path, "journal", 0, 0x40).await;

    let claimed = claim(&ledger, life, 2).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    assert_ne!(claimed[0].head.id, id);
    assert_eq!(*ledger.health().borrow(), Health::Working);
    let head = ledger.get(id).await.unwrap().head;
    assert_eq!((head.state, head.failed_attempts), (State::Ready, 0));
    assert!(head.not_before.is_some());
    let verified = ledger.verify().await.unwrap();
    assert!(
        verified
            .problems
            .iter()
            .any(|problem| problem.starts_with("journal")),
        "{verified:?}"
    );
    assert_eq!(verified.rows["live"], 2);
    let noted: Vec<&str> = verified
        .quarantined
        .iter()
        .map(|row| row.key.as_str())
        .collect();
    assert_eq!(noted, [id.to_string()]);
}

/// What somebody has mended is no longer said to be damaged.
#[tokio::test]
async fn a_row_that_can_be_read_again_is_no_longer_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = open(&path).unwrap();
    let task = task(1, 10);
    ledger.submit(vec![task.clone()]).await.unwrap();
    let body: Vec<u8> = {
        let db = Connection::open(&path).unwrap();
        let body = db
            .query_row("SELECT body FROM specs", [], |row| row.get(0))
            .unwrap();
        db.execute("UPDATE specs SET body = x'ff'", []).unwrap();
        body
    };
    assert!(!ledger.verify().await.unwrap().is_whole());
    assert_eq!(ledger.counts().await.unwrap().quarantined, 1);
    let db = Connection::open(&path).unwrap();
    db.execute("UPDATE specs SET body = ?1", [body]).unwrap();
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!(ledger.counts().await.unwrap().quarantined, 0);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger.db")).unwrap();
    let mut kept = Vec::new();
    for number in 0..20 {
        let task = task(number, 1_000);
        kept.push(task.id);
        ledger.submit(vec![task]).await.unwrap();
    }
    pages_max(&ledger, |now| now + 2).await;

    // One is far too large, and those beside it in the group that fit still succeed.
    let ledger = Arc::new(ledger);
    let mut calls = tokio::task::JoinSet::new();
    for number in 100..110 {
        let ledger = Arc::clone(&ledger);
        let bytes = if number == 105 { 60_000 } else { 10 };
        calls.spawn(async move {
            let task = task(number, bytes);
            (task.id, ledger.submit(vec![task]).await)
        });
    }
    let mut refused = 0;
    for (id, answer) in calls.join_all().await {
        match answer {
            Ok(_) => kept.push(id),
            Err(error) => {
                assert!(matches!(error, LedgerError::Storage { .. }), "{error:?}");
                assert!(error.is_retryable());
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1);

    pages_max(&ledger, |_| u32::MAX - 1).await;
    let large = task(105, 60_000);
    kept.push(large.id);
    ledger.submit(vec![large]).await.unwrap();
    let counts = ledger.counts().await.unwrap();
    property::conservation(&counts).unwrap();
    assert_eq!(counts.accepted, kept.len() as u64);
    for id in kept {
        ledger.get(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_of_the_writer_is_answered_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = open(&path).unwrap();
    ledger.submit(vec![task(1, 10)]).await.unwrap();
    let answer = ledger.write::<()>(|_| panic!("a test")).await;
    assert!(
        matches!(answer, Err(LedgerError::Unknown { .. })),
        "{answer:?}"
    );
    let mut health = ledger.health();
    let failed = health.wait_for(|health| *health != Health::Working).await;
    let failed = failed.unwrap().clone();
    assert_eq!(failed, Health::Failed("the writer panicked: a test".into()));
    let late = ledger.submit(vec![task(2, 10)]).await;
    assert!(matches!(late, Err(LedgerError::Shut)), "{late:?}");
    ledger.close().await;
    let ledger = open(&path).unwrap();
    assert_eq!(ledger.counts().await.unwrap().accepted, 1);
}

#[tokio::test]
async fn a_panic_of_a_read_is_that_read_s_own() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("ledger.db")).unwrap();
    for lane in [Lane::Point, Lane::Scan] {
        let answer = ledger.read::<()>(lane, |_| panic!("a test")).await;
        assert!(
            matches!(answer, Err(LedgerError::Storage { .. })),
            "{answer:?}"
        );
        ledger.read(lane, |_| Ok(())).await.unwrap();
    }
}

#[tokio::test]
async fn reads_whose_callers_left_are_not_done_and_pages_delay_no_journal() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(&folder.path().join("ledger.db")).unwrap());
    let (release, held) = mpsc::sync_channel::<()>(0);
    let mut long = tokio::task::JoinSet::new();
    let reader = Arc::clone(&ledger);
    long.spawn(async move {
        let read = reader.read(Lane::Scan, move |_| {
            held.recv().unwrap();
            Ok(())
        });
        read.await
    });
    tokio::task::yield_now().await;
    let done = Arc::new(AtomicBool::new(false));
    let left = {
        let done = Arc::clone(&done);
        ledger.read(Lane::Scan, move |_| {
            done.store(true, Ordering::Relaxed);
            Ok(())
        })
    };
    tokio::select! {
        biased;
        _ = left => panic!("it overtook the one before it"),
        () = std::future::ready(()) => {}
    }
    // The other lane goes on meanwhile.
    let journal = ledger.journal(task(1, 1).id).await;
    assert!(matches!(journal, Err(LedgerError::NoTask(_))));
    release.send(()).unwrap();
    long.join_next().await.unwrap().unwrap().unwrap();
    ledger.read(Lane::Scan, |_| Ok(())).await.unwrap();
    assert!(!done.load(Ordering::Relaxed), "nobody waits for it");
}

#[test]
fn a_file_that_cannot_have_a_log_is_refused() {
    let db = Connection::open_in_memory().unwrap();
    let refused = schema::prepare(&db).unwrap_err();
    assert!(
        refused.contains("its journal mode stays \"memory\""),
        "{refused}"
    );
}

/// Says of a closed ledger that another version wrote it.
fn written_by(path: &Path, schema: u32, oldest_schema: u32) {
    let db = Connection::open(path).unwrap();
    let meta = META.one(&db, select!(meta), [], row::meta).unwrap();
    let meta = meta.unwrap().unwrap();
    let row = params![1, Id(meta.id), schema, oldest_schema, meta.tables];
    let sql = concat!(
        "INSERT OR REPLACE INTO meta (",
        columns!(meta),
        ", checksum) VALUES (?, ?, ?, ?, ?, ?)"
    );
    META.write(&db, sql, row).unwrap();
    db.pragma_update(None, "user_version", schema).unwrap();
}

#[tokio::test]
async fn a_newer_ledger_is_opened_where_it_allows_this_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let first = open(&path).unwrap();
    let id = first.id();
    drop(first);
    written_by(&path, SCHEMA + 3, SCHEMA);
    let ledger = open(&path).unwrap();
    assert_eq!(ledger.id(), id);
    ledger.submit(vec![task(1, 10)]).await.unwrap();
    ledger.close().await;
    let db = Connection::open(&path).unwrap();
    let version: u32 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, SCHEMA + 3, "it stays what it is");
    drop(db);

    written_by(&path, SCHEMA + 3, SCHEMA + 1);
    let Err(LedgerError::Open { what, .. }) = open(&path) else {
        panic!("opened");
    };
    assert!(
        what.starts_with("was written by a newer colony (schema 6"),
        "{what}"
    );
    assert!(
        what.contains("run that version, or restore a backup"),
        "{what}"
    );
}

/// Heads kept the last cancel; and what was damaged before a migration is damaged after it.
#[tokio::test]
async fn cancels_of_the_second_schema_are_recognised_and_its_damage_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let first = open(&path).unwrap();
    let (cancelled, damaged) = (task(1, 1), task(2, 1));
    let (cancelled_id, damaged_id) = (cancelled.id, damaged.id);
    first.submit(vec![cancelled, damaged]).await.unwrap();
    let request = RequestId::new([7; 16]);
    first.cancel(cancelled_id, request).await.unwrap();
    first.close().await;
    drop(first);
    let db = Connection::open(&path).unwrap();
    db.execute_batch("DROP TABLE requests").unwrap();
    let sql = "UPDATE finished SET last_request = 4, last_key = ?1, checksum = 0";
    db.execute(sql, params![Id(request.0)]).unwrap();
    let sql = "UPDATE specs SET checksum = checksum + 1 WHERE id = ?1";
    db.execute(sql, params![Id::from(damaged_id)]).unwrap();
    drop(db);
    written_by(&path, 2, 2);

    let again = open(&path).unwrap();
    let revive = RequestId::new([8; 16]);
    let was = again.revive(cancelled_id, revive).await.unwrap();
    assert_eq!(was, State::Cancelled);
    again.cancel(cancelled_id, request).await.unwrap();
    let state = again.get(cancelled_id).await.unwrap().head.state;
    assert_eq!(state, State::Ready, "the cancel is a repeat");
    let found = again.verify().await.unwrap().quarantined;
    let [damage] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (damage.table.as_str(), &damage.key),
        ("specs", &damaged_id.to_string())
    );
}

/// The lists of columns are what the tables have, in their order, and the checksum is the last.
#[test]
fn the_tables_are_declared_as_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(open(&path).unwrap());
    let db = Connection::open(&path).unwrap();
    let count: u32 = db
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(count as usize, tables::ALL.len());
    for table in tables::ALL {
        let mut statement = db
            .prepare("SELECT name, pk FROM pragma_table_info(?1)")
            .unwrap();
        let columns: Vec<(String, u32)> = statement
            .query_map([table.name], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let names: Vec<_> = columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.join(", "), format!("{}, checksum", table.columns));
        let keys: Vec<_> = columns
            .iter()
            .map(|(_, key)| *key as usize)
            .take(table.keys)
            .collect();
        assert_eq!(keys, (1..=table.keys).collect::<Vec<_>>(), "{}", table.name);
    }
}

/// SQLite would compile a statement anew for each value that is bound to it, where that value might tell
/// of a better plan: most of what a claim costs.
#[test]
fn a_statement_is_compiled_once_whatever_is_bound_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(open(&path).unwrap());
    let writer = schema::open_writer(&path, None).unwrap().db;
    for db in [writer, schema::open_reader(&path).unwrap()] {
        let mut statement = db.prepare(CLAIMABLE).unwrap();
        for queue in ["a", "b", "c"] {
            assert!(!statement.exists(params!["t", queue, 1]).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
