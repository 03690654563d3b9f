//! What the engine in a file finds when it opens, and what it leaves.

use std::{path::Path, sync::Arc};

use colony_core::{id::Incarnation, task::State};
use colony_store::{Ledger, LedgerError, Policy, SqliteLedger};

use crate::world::{World, accept, done, node, perceived, spec};

fn open(path: &Path) -> Result<SqliteLedger, LedgerError> {
    SqliteLedger::open(path, Policy::default())
}

fn refusal(path: &Path) -> String {
    match open(path) {
        Err(error @ LedgerError::Open { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_is_there_after_it_was_closed_and_after_it_was_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/ledger.db");
    let w = World::new(Arc::new(open(&path).unwrap()));
    w.book.begin(&node("n1"), w.now).await.unwrap();
    let parked = w.submit(spec("t")).await;
    let approval = w.park(w.claim("t").await.unwrap().reference).await;
    w.book.close().await;
    assert!(!folder.path().join("new/folder/ledger.db-wal").exists());

    let mut again = World::new(Arc::new(open(&path).unwrap()));
    again.pass(std::time::Duration::from_secs(1));
    assert_eq!(
        again.book.begin(&node("n1"), again.now).await.unwrap(),
        Incarnation(2)
    );
    assert_eq!(*again.book.latest().borrow(), 3);
    again
        .book
        .decide(approval, accept(), again.now)
        .await
        .unwrap();
    let claim = again.claim_as("n1", 2, &[("t", 1)]).await.pop().unwrap();
    let mut commit = again.bare(claim.reference, done("x"));
    commit.entries = vec![perceived(1, again.now)];
    again.book.commit(commit).await.unwrap();
    drop(again);

    let last = World::new(Arc::new(open(&path).unwrap()));
    assert_eq!(last.state(parked).await, State::Done);
    assert_eq!(last.book.journal(parked).await.unwrap().len(), 2);
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
fn what_is_no_book_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, [b'x'; 8192]).unwrap();
    assert!(refusal(&garbage).contains("is no database"));

    let foreign = folder.path().join("foreign.db");
    let db = rusqlite::Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(db);
    assert!(refusal(&foreign).contains("is the database of another program"));

    let newer = folder.path().join("newer.db");
    drop(open(&newer).unwrap());
    let db = rusqlite::Connection::open(&newer).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let text = refusal(&newer);
    assert!(
        text.contains("was written by a newer colony (schema 99"),
        "{text}"
    );
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_not_a_wrong_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let w = World::new(Arc::new(open(&path).unwrap()));
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(w.submit(spec("t")).await);
    }
    w.book.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(2) {
        page.fill(0xa5);
    }
    std::fs::write(&path, bytes).unwrap();
    // The first page is whole, so the damage may be found only when the page is read.
    match open(&path) {
        Err(error) => assert!(matches!(error, LedgerError::Open { .. }), "{error:?}"),
        Ok(book) => {
            let error = book.get(ids[0]).await.unwrap_err();
            assert!(matches!(error, LedgerError::Unreadable { .. }), "{error:?}");
        }
    }
}
