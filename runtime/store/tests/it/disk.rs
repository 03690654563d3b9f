//! What the engine asks of the disk, and what it does when the disk says no: seen and made by `strace`,
//! around a process of its own.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use colony_core::{id::TaskId, task::INPUT_BYTES_MAX};
use colony_store::{Health, Ledger, LedgerError, NewTask, Policy, SqliteLedger, Submitted};

use crate::world::{DAWN, HandClock, spec};

const LEDGER: &str = "COLONY_DISK_TEST_LEDGER";
const CALLERS: u8 = 8;

fn open(path: &Path) -> SqliteLedger {
    SqliteLedger::open(path, Policy::default(), HandClock::at(DAWN)).unwrap()
}

fn task(number: u8) -> NewTask {
    NewTask {
        id: TaskId::new(DAWN, [number; 10]),
        spec: Arc::new(spec("t")),
        refusal: None,
    }
}

/// Which syncs fail: those of this file, of each thread the first `from` and all after it.
struct Failing<'a> {
    file: &'a Path,
    from: u32,
}

/// What was synced by `victim` in a process of its own, one call a line. None, said aloud, where there is no
/// strace or it may not trace.
fn traced(victim: &str, ledger: &Path, failing: Option<&Failing<'_>>) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fsync,fdatasync"]);
    strace.arg("-o").arg(&trace);
    if let Some(Failing { file, from }) = failing {
        strace.arg("-P").arg(file).arg("-e");
        strace.arg(format!("inject=fsync,fdatasync:error=EIO:when={from}+"));
    }
    let ran = strace
        .arg(env::current_exe().unwrap())
        .args([victim, "--exact", "--nocapture"])
        .env(LEDGER, ledger)
        .output();
    let output = match ran {
        Ok(output) => output,
        Err(why) => return skipped(&why.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") {
        return skipped(&said);
    }
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read_to_string(trace).unwrap())
}

/// Past the harness, which hides what passing tests print.
fn skipped(why: &str) -> Option<String> {
    let _ = writeln!(io::stderr(), "skipped: no strace: {why}");
    None
}

/// The process whose disk fails: its second commit is not synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim_of_a_failed_sync() {
    let Some(path) = env::var_os(LEDGER).map(PathBuf::from) else {
        return;
    };
    let ledger = Arc::new(open(&path));
    let health = ledger.health();
    ledger.submit(vec![task(0)]).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=CALLERS {
        let ledger = Arc::clone(&ledger);
        calls.spawn(async move { ledger.submit(vec![task(number)]).await });
    }
    let mut unknown = 0;
    for answer in calls.join_all().await {
        match answer {
            Err(LedgerError::Unknown { .. }) => unknown += 1,
            // It came after the group whose sync failed.
            Err(LedgerError::Shut) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(unknown > 0);
    let failed = health.borrow().clone();
    assert!(
        matches!(&failed, Health::Failed(why) if why.contains("I/O error")),
        "{failed:?}"
    );
    for _ in 0..3 {
        let late = ledger.submit(vec![task(100)]).await;
        assert!(matches!(late, Err(LedgerError::Shut)), "{late:?}");
        let read = ledger.get(task(0).id).await;
        assert!(matches!(read, Err(LedgerError::Shut)), "{read:?}");
    }
    ledger.close().await;
}

/// C22: after a failed sync the system may hold for clean what it has not written: a second sync would
/// say that all is well.
#[tokio::test]
async fn a_sync_that_failed_is_never_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(open(&path));
    // Of the writer's thread: the first commit begins the log, which is a sync of its own.
    let victim = "disk::the_victim_of_a_failed_sync";
    let failing = Failing {
        file: &folder.path().join("ledger.db-wal"),
        from: 3,
    };
    let Some(trace) = traced(victim, &path, Some(&failing)) else {
        return;
    };
    assert_eq!(trace.matches("(INJECTED)").count(), 1, "{trace}");

    // The next life knows what became of it; whoever was told nothing asks again.
    let ledger = open(&path);
    for number in 0..=CALLERS {
        let answer = ledger.submit(vec![task(number)]).await.unwrap();
        match (number, &answer[0]) {
            (1.., Submitted::Accepted(_)) | (_, Submitted::Duplicate { .. }) => {}
            (_, other) => panic!("{other:?} for task {number}"),
        }
    }
    let counts = ledger.counts().await.unwrap();
    assert_eq!(counts.accepted, u64::from(CALLERS) + 1);
    assert!(ledger.verify().await.unwrap().is_whole());
}

/// The process whose disk fails when the log is moved into the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim_of_a_failed_checkpoint() {
    let Some(path) = env::var_os(LEDGER).map(PathBuf::from) else {
        return;
    };
    let ledger = open(&path);
    let mut spec = spec("t");
    spec.input = "x".repeat(INPUT_BYTES_MAX).into();
    let spec = Arc::new(spec);
    // More than the log may hold: 64 MiB.
    for batch in 0..40 {
        let new = |number: u8| NewTask {
            id: TaskId::new(DAWN, [batch, number, 0, 0, 0, 0, 0, 0, 0, 0]),
            spec: Arc::clone(&spec),
            refusal: None,
        };
        match ledger.submit((0..64).map(new).collect()).await {
            Ok(_) => {}
            Err(LedgerError::Unknown { .. }) => {
                let health = ledger.health().borrow().clone();
                assert!(matches!(health, Health::Failed(_)));
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the log was never moved, or nobody heard that it was not");
}

#[tokio::test]
async fn a_checkpoint_that_failed_is_heard_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(open(&path));
    let failing = Failing {
        file: &path,
        from: 1,
    };
    let victim = "disk::the_victim_of_a_failed_checkpoint";
    let Some(trace) = traced(victim, &path, Some(&failing)) else {
        return;
    };
    assert_eq!(trace.matches("(INJECTED)").count(), 1, "{trace}");
    let ledger = open(&path);
    let counts = ledger.counts().await.unwrap();
    assert!(counts.accepted > 0 && counts.accepted.is_multiple_of(64));
    assert!(ledger.verify().await.unwrap().is_whole());
}

#[test]
fn the_victim_of_a_first_life() {
    if let Some(path) = env::var_os(LEDGER).map(PathBuf::from) {
        drop(open(&path));
    }
}

#[test]
fn the_names_of_new_files_and_folders_are_synced() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let path = root.join("new/data/ledger.db");
    let victim = "disk::the_victim_of_a_first_life";
    let Some(trace) = traced(victim, &path, None) else {
        return;
    };
    for synced in [root.clone(), root.join("new"), root.join("new/data")] {
        let call = format!("<{}>)", synced.display());
        assert!(trace.contains(&call), "{call} in {trace}");
    }
}
