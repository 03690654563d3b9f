//! What was acknowledged and is not in the files any more.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use colony_core::id::TaskId;
use colony_store::{Ledger, LedgerError, Policy, SqliteLedger};
use rand::{RngCore, SeedableRng, rngs::SmallRng};

use crate::world::{DAWN, HandClock, World, spec};

const FLIPS: u64 = 60;

fn open(path: &Path) -> Result<Arc<dyn Ledger>, LedgerError> {
    let clock = HandClock::at(DAWN);
    clock.pass(Duration::from_secs(3_600));
    Ok(Arc::new(SqliteLedger::open(
        path,
        Policy::default(),
        clock,
    )?))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// The files as a kill leaves them, after so many acknowledged tasks and journal entries.
async fn killed(folder: &Path, tasks: usize) -> (PathBuf, Vec<TaskId>) {
    let path = folder.join("live.db");
    let clock = HandClock::at(DAWN);
    let ledger = SqliteLedger::open(&path, Policy::default(), clock.clone()).unwrap();
    let w = World::around((Arc::new(ledger), None), clock);
    w.register("n1").await;
    let mut ids = Vec::new();
    for _ in 0..tasks {
        ids.push(w.submit(spec("t")).await);
    }
    // No change of a task's state: nothing but the journal shows it.
    let claims = w.claim_all(&[("t", 1)]).await;
    w.append(claims[0].reference(), [0, 1]).await.unwrap();
    let left = folder.join("left.db");
    copy(&path, &left);
    (left, ids)
}

/// Copies the files, of the log what was written of it.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal", ".mark"] {
        let Ok(mut content) = std::fs::read(beside(from, suffix)) else {
            continue;
        };
        let used = content.iter().rposition(|byte| *byte != 0);
        content.truncate(used.map_or(0, |last| last + 1));
        std::fs::write(beside(to, suffix), content).unwrap();
    }
}

fn refused(path: &Path) -> String {
    let Err(LedgerError::Open { what, .. }) = open(path) else {
        panic!("it was opened");
    };
    what
}

/// A log that is damaged, cut or gone ends early for SQLite, and what follows is gone without a word.
#[tokio::test]
async fn no_flipped_bit_of_the_log_loses_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (left, tasks) = killed(folder.path(), 20).await;
    let log = std::fs::read(beside(&left, "-wal")).unwrap();
    let mut named = 0;
    for seed in 0..FLIPS {
        let mut rng = SmallRng::seed_from_u64(seed);
        let bit = usize::try_from(rng.next_u64()).unwrap() % (log.len() * 8);
        let mut flipped = log.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let path = folder.path().join(format!("flipped-{seed}.db"));
        copy(&left, &path);
        std::fs::write(beside(&path, "-wal"), &flipped).unwrap();
        let opened = open(&path);
        let Ok(ledger) = opened else {
            named += 1;
            // Whoever refuses it leaves it as it is: another copy of the log may mend it.
            assert_eq!(std::fs::read(beside(&path, "-wal")).unwrap(), flipped);
            std::fs::write(beside(&path, "-wal"), &log).unwrap();
            open(&path).unwrap().close().await;
            continue;
        };
        for task in &tasks {
            ledger.get(*task).await.unwrap();
        }
        assert_eq!(ledger.journal(tasks[0]).await.unwrap().len(), 2);
        ledger.close().await;
    }
    assert!(named > FLIPS / 2, "{named}");
}

#[tokio::test]
async fn a_log_that_is_cut_or_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (left, tasks) = killed(folder.path(), 5).await;
    let log = std::fs::read(beside(&left, "-wal")).unwrap();
    for keep in [0, 32, log.len() / 2, log.len() - 4_096] {
        let path = folder.path().join(format!("cut-{keep}.db"));
        copy(&left, &path);
        std::fs::write(beside(&path, "-wal"), &log[..keep]).unwrap();
        let what = refused(&path);
        assert!(what.contains("acknowledged"), "{what}");
    }
    let path = folder.path().join("gone.db");
    copy(&left, &path);
    std::fs::remove_file(beside(&path, "-wal")).unwrap();
    let what = refused(&path);
    assert!(what.contains("gone.db-wal"), "{what}");
    assert!(what.contains("move"), "{what}");

    // Who means it goes on without.
    std::fs::remove_file(beside(&path, ".mark")).unwrap();
    let ledger = open(&path).unwrap();
    assert!(ledger.get(tasks[4]).await.is_err());
}

#[tokio::test]
async fn a_file_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let clock = HandClock::at(DAWN);
    let ledger = SqliteLedger::open(&path, Policy::default(), clock.clone()).unwrap();
    let w = World::around((Arc::new(ledger), None), clock);
    w.submit(spec("t")).await;
    w.ledger.close().await;
    drop(w);
    std::fs::remove_file(&path).unwrap();
    assert!(refused(&path).contains("acknowledged"));
    assert!(!path.exists());
}

#[tokio::test]
async fn an_older_copy_that_was_put_back_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let clock = HandClock::at(DAWN);
    let mut copy = None;
    for _ in 0..2 {
        let ledger = SqliteLedger::open(&path, Policy::default(), clock.clone()).unwrap();
        let w = World::around((Arc::new(ledger), None), clock.clone());
        w.submit(spec("t")).await;
        w.ledger.close().await;
        drop(w);
        clock.pass(Duration::from_secs(1));
        copy.get_or_insert_with(|| std::fs::read(&path).unwrap());
    }
    std::fs::write(&path, copy.unwrap()).unwrap();
    assert!(refused(&path).contains("older copy"));
}

/// How much it holds cannot be read, and what it is then said to hold is no less than was acknowledged.
#[tokio::test]
async fn damaged_counters_are_no_lost_log() {
    let folder = tempfile::tempdir().unwrap();
    let (left, tasks) = killed(folder.path(), 3).await;
    let db = rusqlite::Connection::open(&left).unwrap();
    db.execute("UPDATE counters SET accepted = 7", []).unwrap();
    drop(db);
    for _ in 0..2 {
        let ledger = open(&left).unwrap();
        ledger.get(tasks[2]).await.unwrap();
    }
}

/// It guards the ledger, and is no part of it.
#[tokio::test]
async fn a_damaged_mark_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (left, tasks) = killed(folder.path(), 3).await;
    let mark = std::fs::read(beside(&left, ".mark")).unwrap();
    for bit in (0..mark.len() * 8).step_by(29) {
        let mut flipped = mark.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(beside(&left, ".mark"), flipped).unwrap();
        let ledger = open(&left).unwrap();
        ledger.get(tasks[2]).await.unwrap();
        ledger.close().await;
    }
}
