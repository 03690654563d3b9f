//! What the engine in a file finds when it opens, and what it leaves.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use colony_core::{id::Incarnation, task::State};
use colony_store::{ClaimRequest, LedgerError, Policy, SqliteLedger};

use crate::world::{DAWN, HandClock, World, accept, appending, done, give_up, node, spec};

fn open(path: &Path) -> Result<SqliteLedger, LedgerError> {
    SqliteLedger::open(path, Policy::default(), HandClock::at(DAWN))
}

/// A world around the ledger in a file, some time after the dawn.
fn world(path: &Path, after: Duration) -> World {
    let clock = HandClock::at(DAWN);
    clock.pass(after);
    let ledger = SqliteLedger::open(path, Policy::default(), clock.clone()).unwrap();
    World::around((Arc::new(ledger), None), clock)
}

fn refusal(path: &Path) -> String {
    match open(path) {
        Err(error @ LedgerError::Open { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[tokio::test]
async fn everything_is_there_after_it_was_closed_and_after_it_was_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/ledger.db");
    let w = world(&path, Duration::ZERO);
    let id = w.ledger.id();
    w.register("n1").await;
    let claim = w.claimed().await;
    let waiting = claim.task;
    w.append(claim, [0]).await.unwrap();
    let approval = w.wait(claim).await;
    w.ledger.close().await;
    assert!(!beside(&path, "-wal").exists());

    let again = world(&path, Duration::from_secs(1));
    assert_eq!(again.ledger.id(), id);
    assert_eq!(again.register("n1").await, Incarnation(2));
    assert_eq!(*again.ledger.latest().borrow(), 3);
    let request = again.request_id();
    again
        .ledger
        .decide(approval, request, accept())
        .await
        .unwrap();
    let claim = again.ask("n1", 2, &[("t", 1)]).await.claims.pop().unwrap();
    assert!(claim.has_journal);
    assert_eq!(claim.inbox[0].question, approval);
    let mut commit = appending(claim.reference(), [1]);
    commit.taken = vec![approval];
    commit.settlement = done("x");
    again.ledger.commit(commit).await.unwrap();
    drop(again);

    let last = world(&path, Duration::from_secs(2));
    assert_eq!(last.state(waiting).await, State::Done);
    assert_eq!(last.ledger.journal(waiting).await.unwrap().len(), 2);
    last.check().await;
}

#[test]
fn a_second_opening_names_the_process_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let first = open(&path).unwrap();
    let text = refusal(&path);
    let pid = std::process::id();
    assert!(
        text.contains(&format!("is open in another process (pid {pid})")),
        "{text}"
    );
    drop(first);
    open(&path).unwrap();
}

#[test]
fn what_is_no_ledger_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, [b'x'; 8192]).unwrap();
    assert!(refusal(&garbage).contains("is no database"));

    let foreign = folder.path().join("foreign.db");
    let db = rusqlite::Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(db);
    assert!(refusal(&foreign).contains("is the database of another program"));
}

#[test]
fn only_the_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = data.join("ledger.db");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let ledger = open(&path).unwrap();
    assert_eq!(mode(&data), 0o700);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix:?}");
    }
    drop(ledger);
    // One that an older version made.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _ledger = open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&beside(&path, "-wal")), 0o600);
}

/// C23: SQLite deletes a log that lies beside an empty file.
#[tokio::test]
async fn the_log_is_as_large_as_it_will_be_from_the_first_life_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    for life in 1..=2 {
        let w = world(&path, Duration::from_secs(life));
        w.submit(spec("t")).await;
        let log = std::fs::metadata(beside(&path, "-wal")).unwrap();
        assert!(log.len() >= 16 << 20, "{} bytes in life {life}", log.len());
        w.ledger.close().await;
    }
}

/// C20: time that was written is not waited for a second time.
#[tokio::test]
async fn a_clock_set_back_a_day_delays_no_back_off() {
    let day = Duration::from_secs(86_400);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let before = world(&path, day);
    before.register("n1").await;
    let claim = before.claimed().await;
    before.settle(claim, give_up()).await.unwrap();
    let written = before.ledger.now();
    before.ledger.close().await;

    let after = world(&path, Duration::ZERO);
    assert!(after.ledger.now() >= written);
    after.register("n1").await;
    let early = after.ask("n1", 2, &[("t", 1)]).await;
    assert!(early.claims.is_empty());
    let due = early.next_due.unwrap();
    assert!(due <= Duration::from_millis(100), "{due:?}");
    after.pass(due);
    let claims = after.ask("n1", 2, &[("t", 1)]).await.claims;
    assert_eq!(claims[0].head.id, claim.task);
    after.check().await;
}

#[tokio::test]
async fn a_claim_that_takes_nothing_costs_no_sync() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(&folder.path().join("ledger.db"), Duration::ZERO);
    w.register("n1").await;
    let syncs = w.ledger.counts().await.unwrap().syncs;
    let request = w.request("n1", 1, &[("t", 1)]);
    assert!(
        w.ledger
            .claim(request.clone())
            .await
            .unwrap()
            .claims
            .is_empty()
    );
    assert_eq!(w.ledger.counts().await.unwrap().syncs, syncs);
    // It was answered all the same: its repeat takes nothing.
    let id = w.submit(spec("t")).await;
    assert!(
        w.ledger
            .claim(request.clone())
            .await
            .unwrap()
            .claims
            .is_empty()
    );
    let batch = request.batch + 1;
    let next = w.ledger.claim(ClaimRequest { batch, ..request }).await;
    assert_eq!(next.unwrap().claims[0].head.id, id);
}

#[tokio::test]
async fn a_node_that_came_back_is_asked_for_its_last_claim_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let w = world(&path, Duration::ZERO);
    w.register("n1").await;
    let id = w.submit(spec("t")).await;
    let request = w.request("n1", 1, &[("t", 2)]);
    w.ledger.claim(request.clone()).await.unwrap();
    w.ledger.close().await;

    // The store began another life, the node did not.
    let again = world(&path, Duration::from_secs(1));
    let late = again.submit(spec("t")).await;
    let repeat = again.ledger.claim(request.clone()).await.unwrap();
    assert_eq!(repeat.claims.len(), 1);
    assert_eq!(repeat.claims[0].head.id, id);
    assert_eq!(
        repeat.claims[0].head.holder.as_ref().unwrap().node,
        node("n1")
    );
    assert_eq!(again.state(late).await, State::Ready);
}
