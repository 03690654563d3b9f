//! Cutting the power of the engine in memory.

use std::{sync::Arc, time::Duration};

use colony_core::task::State;
use colony_store::{
    Ledger, LedgerError, MemoryLedger, NewTask, Policy, Submitted, memory::InFlight, property,
};

use crate::world::{DAWN, HandClock, World, accept, done, give_up, spec};

const SYNC: Duration = Duration::from_millis(5);

/// A ledger with a sync delay, and the world around it.
async fn syncing() -> (MemoryLedger, World) {
    let mut ledger = None;
    let w = World::begin(|clock| {
        let opened = MemoryLedger::with_sync_delay(Policy::default(), clock, SYNC);
        ledger = Some(opened.clone());
        (Arc::new(opened), None)
    });
    let w = w.await;
    (ledger.unwrap(), w)
}

/// Drives all at once.
async fn all<T: Send + 'static>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *answer = Some(value);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn writes_that_come_during_a_sync_share_the_next() {
    let (ledger, w) = syncing().await;
    let before = ledger.counts().await.unwrap().syncs;
    let begun = tokio::time::Instant::now();
    all((0..100).map(|_| w.submit(spec("t")))).await;
    assert_eq!(begun.elapsed(), SYNC * 2);
    assert_eq!(ledger.counts().await.unwrap().syncs, before + 2);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_loses_what_was_not_answered_and_nothing_else() {
    for (in_flight, survivors) in [(InFlight::Dropped, 1), (InFlight::Written, 2)] {
        let (ledger, w) = syncing().await;
        let kept = w.submit(spec("t")).await;
        let cut = async {
            tokio::time::sleep(SYNC / 2).await;
            ledger.crash_with(in_flight)
        };
        let late = async {
            tokio::time::sleep(SYNC / 4).await;
            w.try_submit(spec("t")).await
        };
        let (syncing, queued, after) = tokio::join!(w.try_submit(spec("t")), late, cut);
        assert!(matches!(syncing, Err(LedgerError::Shut)));
        assert!(matches!(queued, Err(LedgerError::Shut)));
        assert!(matches!(w.ledger.get(kept).await, Err(LedgerError::Shut)));
        assert_eq!(after.id(), ledger.id());
        assert_eq!(after.get(kept).await.unwrap().head.state, State::Ready);
        let counts = after.counts().await.unwrap();
        assert_eq!(counts.accepted, survivors);
        property::conservation(&counts).unwrap();
        assert!(after.verify().await.unwrap().is_whole());
    }
}

/// Nobody calls the ledger any more, and the submitter has left: the sync ends all the same, and says so.
#[tokio::test(start_paused = true)]
async fn a_sync_ends_in_time_without_a_caller() {
    let (ledger, w) = syncing().await;
    let (mut wakes, mut latest) = (ledger.ready_wakes(), ledger.latest());
    let task = w.new_task(spec("t"));
    let begun = tokio::time::Instant::now();
    let left = tokio::time::timeout(SYNC / 2, ledger.submit(vec![task.clone()])).await;
    assert!(left.is_err());
    assert!(ledger.get(task.id).await.is_err(), "not durable yet");
    wakes.changed().await.unwrap();
    latest.changed().await.unwrap();
    assert_eq!(begun.elapsed(), SYNC);
    assert_eq!(*latest.borrow(), 1);
    let again = ledger.submit(vec![task.clone()]).await.unwrap();
    let (id, state) = (task.id, State::Ready);
    assert_eq!(again, [Submitted::Duplicate { id, state }]);
}

/// The ledger outlives the runtime of its first caller, as it outlives a node in the simulator.
#[test]
fn a_sync_outlives_the_runtime_in_which_it_began() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let ledger = MemoryLedger::with_sync_delay(Policy::default(), HandClock::at(DAWN), SYNC);
    let task = |number| NewTask {
        id: colony_core::id::TaskId::new(DAWN, [number; 10]),
        spec: Arc::new(spec("t")),
        refusal: None,
    };
    runtime().block_on(async {
        let submit = ledger.submit(vec![task(1)]);
        assert!(tokio::time::timeout(SYNC / 2, submit).await.is_err());
    });
    runtime().block_on(async {
        ledger.submit(vec![task(2)]).await.unwrap();
        assert_eq!(ledger.counts().await.unwrap().accepted, 2);
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_is_written_out_when_the_ledger_closes() {
    let (ledger, w) = syncing().await;
    let submits = all((0..3).map(|_| w.submit(spec("t"))));
    let close = async {
        tokio::task::yield_now().await;
        ledger.close().await;
    };
    let (ids, ()) = tokio::join!(submits, close);
    assert!(matches!(
        w.try_submit(spec("t")).await,
        Err(LedgerError::Shut)
    ));
    assert_eq!(ledger.crash().get(ids[2]).await.unwrap().head.id, ids[2]);
}

/// The wall clock is set back by a day between two lives: time does not stand still, nothing waits longer.
#[tokio::test]
async fn the_next_life_may_have_another_clock() {
    let clock = HandClock::at(DAWN);
    let ledger = MemoryLedger::new(Policy::default(), clock.clone());
    let w = World::around((Arc::new(ledger.clone()), None), clock);
    w.register("n1").await;
    w.pass(Duration::from_secs(86_400));
    let claim = w.claimed().await;
    w.settle(claim, give_up()).await.unwrap();
    let highest = ledger.now();

    let clock = HandClock::at(DAWN);
    let ledger = ledger.crash().on_clock(clock.clone());
    assert_eq!(ledger.now(), highest);
    let w = World::around((Arc::new(ledger), None), clock);
    w.register("n1").await;
    let early = w.ask("n1", 2, &[("t", 1)]).await;
    assert_eq!(early.next_due, Some(Duration::from_millis(100)));
    w.pass(Duration::from_millis(100));
    assert_eq!(w.ask("n1", 2, &[("t", 1)]).await.claims.len(), 1);
    w.check().await;
}

#[tokio::test]
async fn old_endings_are_forgotten_in_detail_only() {
    let w = World::begin(|clock| {
        let ledger = MemoryLedger::new(Policy::default(), clock).finished_max(2);
        (Arc::new(ledger), None)
    });
    let w = w.await;
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("k".into());
    let mut ids = Vec::new();
    for n in 0..5 {
        let spec = if n == 0 { keyed.clone() } else { spec("t") };
        ids.push(w.submit(spec).await);
        let approval = w.wait(w.claim("t").await.unwrap().reference()).await;
        w.ledger
            .decide(approval, w.request_id(), accept())
            .await
            .unwrap();
        let claim = w.claim("t").await.unwrap().reference();
        w.settle(claim, done("x")).await.unwrap();
    }
    assert!(w.ledger.get(ids[2]).await.is_err());
    assert_eq!(w.state(ids[3]).await, State::Done);
    assert_eq!(w.ledger.counts().await.unwrap().by_state[&State::Done], 5);
    let (id, state) = (ids[0], State::Done);
    let known = w.try_submit(keyed).await.unwrap();
    assert_eq!(known, Submitted::Duplicate { id, state });
    w.check().await;
}
