use std::{sync::Arc, time::Duration};

use colony_core::{admission::Refusal, id::Tenant, task::State};
use colony_store::{LedgerError, NewTask, Submitted};

use crate::world::{World, done, spec};

pub(crate) async fn a_repeated_submit_is_a_duplicate(w: World) {
    let task = w.new_task(spec("t"));
    let id = task.id;
    let submit = async |task| w.ledger.submit(vec![task]).await.unwrap();
    assert_eq!(submit(task.clone()).await, [Submitted::Accepted(id)]);
    let state = State::Ready;
    let duplicate = Submitted::Duplicate { id, state };
    assert_eq!(submit(task.clone()).await, [duplicate]);
    let mut other = task.clone();
    other.spec = Arc::new(spec("other"));
    let conflict = Submitted::Conflict { id, state };
    assert_eq!(submit(other.clone()).await, [conflict]);

    let claim = w.claim("t").await.unwrap().reference();
    w.settle(claim, done("x")).await.unwrap();
    let state = State::Done;
    assert_eq!(submit(task).await, [Submitted::Duplicate { id, state }]);
    assert_eq!(submit(other).await, [Submitted::Conflict { id, state }]);
    assert_eq!(w.ledger.counts().await.unwrap().accepted, 1);
    w.check().await;
}

pub(crate) async fn a_repeat_is_answered_before_anything_is_judged(w: World) {
    let refusal = Refusal::DeadlinePassed {
        ago: Duration::from_secs(1),
    };
    let refused = |mut task: NewTask| {
        task.refusal = Some(refusal.clone());
        task
    };
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("order-7".into());
    let first = w.new_task(keyed.clone());
    let id = first.id;
    w.ledger.submit(vec![first.clone()]).await.unwrap();
    let state = State::Ready;
    let by_key = w.new_task(keyed);
    let repeats = vec![refused(first.clone()), refused(by_key)];
    let answers = w.ledger.submit(repeats).await.unwrap();
    let duplicate = Submitted::Duplicate { id, state };
    assert_eq!(answers, [duplicate.clone(), duplicate]);

    // What is new is refused by its place, and all of its batch.
    let (new, other) = (w.new_task(spec("t")), w.new_task(spec("t")));
    let batch = vec![refused(first), other, refused(new)];
    match w.ledger.submit(batch).await {
        Err(LedgerError::Refused {
            index,
            refusal: why,
        }) => assert_eq!((index, why), (2, refusal)),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(w.ledger.counts().await.unwrap().accepted, 1);
    w.check().await;
}

pub(crate) async fn a_deduplication_key_is_remembered(w: World) {
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("order-7".into());
    let id = w.submit(keyed.clone()).await;
    let state = State::Ready;
    let again = w.try_submit(keyed.clone()).await.unwrap();
    assert_eq!(again, Submitted::Duplicate { id, state });

    let mut other = keyed.clone();
    other.input = "something else".into();
    let conflict = w.try_submit(other.clone()).await.unwrap();
    assert_eq!(conflict, Submitted::Conflict { id, state });

    // Another tenant's keys are another world.
    let mut elsewhere = other.clone();
    elsewhere.tenant = Tenant::new("acme").unwrap();
    w.submit(elsewhere).await;

    // Another trace or deadline is still the same request; the end of the task changes nothing.
    w.ledger.cancel(id, w.request_id()).await.unwrap();
    let state = State::Cancelled;
    let mut traced = keyed.clone();
    traced.trace.trace_id = 7;
    traced.deadline = Some(w.now());
    let duplicate = Submitted::Duplicate { id, state };
    assert_eq!(w.try_submit(traced).await.unwrap(), duplicate);

    w.pass(Duration::from_secs(30 * 24 * 3600 - 1));
    assert_eq!(w.try_submit(keyed).await.unwrap(), duplicate);
    w.pass(Duration::from_secs(1));
    assert_ne!(w.submit(other).await, id);
    w.check().await;
}

pub(crate) async fn a_batch_is_accepted_in_order(w: World) {
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("k".into());
    let tasks = vec![
        w.new_task(keyed.clone()),
        w.new_task(spec("t")),
        w.new_task(keyed),
    ];
    let ids: Vec<_> = tasks.iter().map(|t| t.id).collect();
    let answers = w.ledger.submit(tasks).await.unwrap();
    let twin = Submitted::Duplicate {
        id: ids[0],
        state: State::Ready,
    };
    let accepted = [Submitted::Accepted(ids[0]), Submitted::Accepted(ids[1])];
    assert_eq!(answers[..2], accepted);
    assert_eq!(answers[2], twin);
    assert_eq!(w.state(ids[1]).await, State::Ready);
    let unwritten = w.ledger.get(ids[2]).await;
    assert!(matches!(unwritten, Err(LedgerError::NoTask(id)) if id == ids[2]));
    assert!(w.ledger.submit(vec![]).await.unwrap().is_empty());
    w.check().await;
}

pub(crate) async fn a_full_ledger_takes_all_or_none(w: World) {
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("k".into());
    w.submit(keyed.clone()).await;
    let many = |n| (0..n).map(|_| w.new_task(spec("t"))).collect::<Vec<_>>();
    let refused = w.ledger.submit(many(20)).await;
    let (live, limit) = (1, 20);
    assert!(
        matches!(refused, Err(LedgerError::Full { live: l, limit: m }) if (l, m) == (live, limit))
    );
    assert_eq!(w.ledger.counts().await.unwrap().accepted, 1);

    // What is known takes no room.
    let mut batch = many(18);
    batch.push(batch[0].clone());
    batch.push(w.new_task(keyed.clone()));
    let mut last = w.new_task(spec("t"));
    let mut other_key = keyed.clone();
    other_key.dedupe_key = Some("other".into());
    last.spec = Arc::new(other_key);
    let mut twin = last.clone();
    twin.id = w.task_id();
    batch.extend([last, twin]);
    let answers = w.ledger.submit(batch).await.unwrap();
    let accepted = answers
        .iter()
        .filter(|a| matches!(a, Submitted::Accepted(_)));
    assert_eq!(accepted.count(), 19);
    let known = w.try_submit(keyed).await;
    assert!(matches!(known, Ok(Submitted::Duplicate { .. })));
    let full = w.try_submit(spec("t")).await;
    assert!(matches!(
        full,
        Err(LedgerError::Full {
            live: 20,
            limit: 20
        })
    ));

    // Nor is anything revived into a full ledger; what ends makes room.
    let claim = w.claim("t").await.unwrap().reference();
    w.settle(claim, done("x")).await.unwrap();
    let ended = w.submit(spec("t")).await;
    w.ledger.cancel(ended, w.request_id()).await.unwrap();
    let last = w.submit(spec("t")).await;
    let full = w.ledger.revive(ended, w.request_id()).await;
    assert!(matches!(
        full,
        Err(LedgerError::Full {
            live: 20,
            limit: 20
        })
    ));
    w.ledger.cancel(last, w.request_id()).await.unwrap();
    w.ledger.revive(ended, w.request_id()).await.unwrap();
    w.check().await;
}
