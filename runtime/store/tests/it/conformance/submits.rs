use std::time::Duration;

use colony_core::{id::Tenant, task::State};
use colony_store::{LedgerError, Submitted};

use crate::world::{World, done, spec};

pub(crate) async fn a_repeated_submit_is_a_duplicate(w: World) {
    let task = w.new_task(spec("t"));
    let accepted = w.book.submit(vec![task.clone()]).await.unwrap();
    assert_eq!(accepted, [Submitted::Accepted(task.id)]);
    let again = w.book.submit(vec![task.clone()]).await.unwrap();
    assert_eq!(again, [Submitted::Duplicate(task.id)]);
    let mut other = task.clone();
    other.spec = std::sync::Arc::new(spec("other"));
    let conflict = w.book.submit(vec![other]).await.unwrap();
    assert_eq!(conflict, [Submitted::Conflict(task.id)]);

    let claim = w.claim("t").await.unwrap();
    w.commit(claim.reference, done("x")).await.unwrap();
    let ended = w.book.submit(vec![task.clone()]).await.unwrap();
    assert_eq!(ended, [Submitted::Duplicate(task.id)]);
    assert_eq!(w.book.counts().await.unwrap().accepted, 1);
    w.check().await;
}

pub(crate) async fn a_deduplication_key_is_remembered(mut w: World) {
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("order-7".into());
    let first = w.submit(keyed.clone()).await;
    let again = w.try_submit(keyed.clone()).await.unwrap();
    assert_eq!(again, Submitted::Duplicate(first));

    let mut other = keyed.clone();
    other.input = "something else".into();
    assert_eq!(
        w.try_submit(other.clone()).await.unwrap(),
        Submitted::Conflict(first)
    );

    // Another tenant's keys are another world.
    let mut elsewhere = other.clone();
    elsewhere.tenant = Tenant::new("acme").unwrap();
    w.submit(elsewhere).await;

    // Another trace or deadline is still the same request; the end of the task changes nothing.
    let claim = w.claim("t").await.unwrap();
    w.commit(claim.reference, done("x")).await.unwrap();
    let mut traced = keyed.clone();
    traced.trace.trace_id = 7;
    traced.deadline = Some(w.now);
    assert_eq!(
        w.try_submit(traced).await.unwrap(),
        Submitted::Duplicate(first)
    );

    w.pass(Duration::from_secs(30 * 24 * 3600 - 1));
    assert_eq!(
        w.try_submit(keyed).await.unwrap(),
        Submitted::Duplicate(first)
    );
    w.pass(Duration::from_secs(1));
    assert_ne!(w.submit(other).await, first);
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
    let answers = w.book.submit(tasks).await.unwrap();
    assert_eq!(
        answers,
        [
            Submitted::Accepted(ids[0]),
            Submitted::Accepted(ids[1]),
            Submitted::Duplicate(ids[0])
        ]
    );
    assert_eq!(w.state(ids[1]).await, State::Ready);
    assert!(matches!(
        w.book.get(ids[2]).await,
        Err(LedgerError::NoTask(id)) if id == ids[2]
    ));
    assert!(w.book.submit(vec![]).await.unwrap().is_empty());
    w.check().await;
}

pub(crate) async fn a_full_book_takes_all_or_none(w: World) {
    let mut keyed = spec("t");
    keyed.dedupe_key = Some("k".into());
    w.submit(keyed.clone()).await;
    let many = |n| (0..n).map(|_| w.new_task(spec("t"))).collect::<Vec<_>>();
    let refused = w.book.submit(many(20)).await;
    assert!(matches!(
        refused,
        Err(LedgerError::Full { live: 1, limit: 20 })
    ));
    assert_eq!(w.book.counts().await.unwrap().accepted, 1);

    // What was accepted before takes no room.
    let mut batch = many(18);
    batch.push(batch[0].clone());
    batch.push(w.new_task(keyed.clone()));
    let mut last = w.new_task(spec("t"));
    let mut other_key = keyed.clone();
    other_key.dedupe_key = Some("other".into());
    last.spec = std::sync::Arc::new(other_key);
    let mut twin = last.clone();
    twin.id = w.task_id();
    batch.extend([last, twin]);
    let answers = w.book.submit(batch).await.unwrap();
    let accepted = answers
        .iter()
        .filter(|a| matches!(a, Submitted::Accepted(_)));
    assert_eq!(accepted.count(), 19);
    assert!(matches!(
        w.try_submit(keyed).await,
        Ok(Submitted::Duplicate(_))
    ));
    assert!(matches!(
        w.try_submit(spec("t")).await,
        Err(LedgerError::Full {
            live: 20,
            limit: 20
        })
    ));
    let claim = w.claim("t").await.unwrap().reference;
    w.commit(claim, done("x")).await.unwrap();
    w.submit(spec("t")).await;
    w.check().await;
}
