//! A full disk, as SQLite sees it: the file may not grow.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use colony_core::{
    id::{TaskId, TypeName},
    task::Spec,
    unit::Timestamp,
};

use super::SqliteLedger;
use crate::{
    ledger::{Ledger, LedgerError, NewTask, Policy},
    property,
};

fn task(number: u16, bytes: usize) -> NewTask {
    let now = Timestamp::from_micros(1_000_000_000);
    let mut chance = [0; 10];
    chance[8..].copy_from_slice(&number.to_be_bytes());
    NewTask {
        id: TaskId::new(now, chance),
        spec: Arc::new(Spec::new(TypeName::new("t").unwrap(), "x".repeat(bytes))),
        now,
    }
}

async fn pages_max(book: &SqliteLedger, pages: impl Fn(u32) -> u32 + Send + 'static) {
    book.write(move |pen| {
        let now: u32 = pen
            .db
            .pragma_query_value(None, "page_count", |row| row.get(0))?;
        pen.db
            .pragma_update_and_check(None, "max_page_count", pages(now), |_| Ok(()))?;
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let book = SqliteLedger::open(&folder.path().join("ledger.db"), Policy::default()).unwrap();
    let mut kept = Vec::new();
    for number in 0..20 {
        let task = task(number, 1_000);
        kept.push(task.id);
        book.submit(vec![task]).await.unwrap();
    }
    pages_max(&book, |now| now + 2).await;

    // One is far too large, and those beside it in the group that fit still succeed.
    let book = Arc::new(book);
    let mut calls = tokio::task::JoinSet::new();
    for number in 100..110 {
        let book = Arc::clone(&book);
        let bytes = if number == 105 { 60_000 } else { 10 };
        calls.spawn(async move {
            let task = task(number, bytes);
            (task.id, book.submit(vec![task]).await)
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

    pages_max(&book, |_| u32::MAX - 1).await;
    let large = task(105, 60_000);
    kept.push(large.id);
    book.submit(vec![large]).await.unwrap();
    let counts = book.counts().await.unwrap();
    property::conservation(&counts).unwrap();
    assert_eq!(counts.accepted, kept.len() as u64);
    for id in kept {
        book.get(id).await.unwrap();
    }
}
