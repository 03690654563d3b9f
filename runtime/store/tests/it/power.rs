//! Cutting the power of the engine in memory.

use std::{sync::Arc, time::Duration};

use colony_core::task::State;
use colony_store::{
    Ledger, LedgerError, MemoryLedger, Policy, Submitted, memory::InFlight, property,
};

use crate::world::{World, spec};

const SYNC: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn writes_that_come_during_a_sync_share_the_next() {
    let book = MemoryLedger::with_sync_delay(Policy::default(), SYNC);
    let w = World::new(Arc::new(book.clone()));
    let begun = tokio::time::Instant::now();
    let many = (0..100).map(|_| w.submit(spec("t")));
    futures_join(many).await;
    assert_eq!(begun.elapsed(), SYNC * 2);
    assert_eq!(book.counts().await.unwrap().syncs, 2);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_loses_what_was_not_answered_and_nothing_else() {
    for (in_flight, survivors) in [(InFlight::Dropped, 1), (InFlight::Written, 2)] {
        let book = MemoryLedger::with_sync_delay(Policy::default(), SYNC);
        let w = World::new(Arc::new(book.clone()));
        let kept = w.submit(spec("t")).await;
        let cut = async {
            tokio::time::sleep(SYNC / 2).await;
            book.crash_with(in_flight)
        };
        let late = async {
            tokio::time::sleep(SYNC / 4).await;
            w.try_submit(spec("t")).await
        };
        let (syncing, queued, after) = tokio::join!(w.try_submit(spec("t")), late, cut);
        assert!(matches!(syncing, Err(LedgerError::Shut)));
        assert!(matches!(queued, Err(LedgerError::Shut)));
        assert!(matches!(w.book.get(kept).await, Err(LedgerError::Shut)));
        assert_eq!(after.get(kept).await.unwrap().state, State::Ready);
        let counts = after.counts().await.unwrap();
        assert_eq!(counts.accepted, survivors);
        property::conservation(&counts).unwrap();
        let w = World::new(Arc::new(after));
        w.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_changes_nothing_for_the_others() {
    let book = MemoryLedger::with_sync_delay(Policy::default(), SYNC);
    let w = World::new(Arc::new(book));
    let task = w.new_task(spec("t"));
    let left = tokio::time::timeout(SYNC / 2, w.book.submit(vec![task.clone()])).await;
    assert!(left.is_err());
    assert!(w.book.get(task.id).await.is_err(), "not durable yet");
    let again = w.book.submit(vec![task.clone()]).await.unwrap();
    assert_eq!(again, [Submitted::Duplicate(task.id)]);
}

#[tokio::test]
async fn old_endings_are_forgotten_in_detail_only() {
    let book = MemoryLedger::new(Policy::default()).finished_max(2);
    let w = World::new(Arc::new(book));
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(w.submit(spec("t")).await);
        let approval = w.park(w.claim("t").await.unwrap().reference).await;
        w.book
            .decide(approval, crate::world::accept(), w.now)
            .await
            .unwrap();
        let claim = w.claim("t").await.unwrap().reference;
        w.commit(claim, crate::world::done("x")).await.unwrap();
    }
    assert!(w.book.get(ids[2]).await.is_err());
    assert_eq!(w.state(ids[3]).await, State::Done);
    assert_eq!(w.book.counts().await.unwrap().by_state[&State::Done], 5);
    w.check().await;
}

/// Drives all at once.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) {
    let mut all: Vec<_> = futures.map(Box::pin).map(Some).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for slot in &mut all {
            if let Some(future) = slot {
                if future.as_mut().poll(cx).is_ready() {
                    *slot = None;
                } else {
                    pending = true;
                }
            }
        }
        if pending {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
}
