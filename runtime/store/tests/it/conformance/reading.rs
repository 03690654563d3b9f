use std::time::Duration;

use colony_core::{id::Tenant, task::State};
use colony_store::{ApprovalFilter, LedgerError, TaskFilter, property};

use crate::world::{World, done, kind, retry, spec};

pub(crate) async fn tasks_are_paged_newest_first(w: World) {
    let mut ids = Vec::new();
    for n in 0..10 {
        let mut spec = spec(if n % 2 == 0 { "even" } else { "odd" });
        if n < 4 {
            spec.tenant = Tenant::new("acme").unwrap();
        }
        ids.push(w.submit(spec).await);
    }
    let claim = w.claim("even").await.unwrap().reference;
    w.commit(claim, done("x")).await.unwrap();
    ids.reverse();

    let page = async |filter: TaskFilter| {
        let page = w.book.list(filter).await.unwrap();
        page.into_iter().map(|r| r.id).collect::<Vec<_>>()
    };
    let all = TaskFilter::default();
    assert_eq!(page(all.clone()).await, ids);
    let mut first = all.clone();
    first.limit = 4;
    assert_eq!(page(first.clone()).await, ids[..4]);
    first.before = Some(ids[3]);
    assert_eq!(page(first).await, ids[4..8]);
    let mut acme = all.clone();
    acme.tenant = Some(Tenant::new("acme").unwrap());
    assert_eq!(page(acme.clone()).await, ids[6..]);
    acme.states = vec![State::Ready];
    assert_eq!(page(acme.clone()).await, ids[6..9]);
    acme.states = vec![State::Done, State::Failed];
    assert_eq!(page(acme.clone()).await, ids[9..]);
    acme.states = vec![State::Done, State::Ready];
    acme.agent_type = Some(kind("even"));
    assert_eq!(page(acme).await, [ids[7], ids[9]]);
    let unknown = w.task_id();
    assert!(matches!(
        w.book.journal(unknown).await,
        Err(LedgerError::NoTask(id)) if id == unknown
    ));
    assert!(w.book.journal(ids[0]).await.unwrap().is_empty());
}

pub(crate) async fn questions_are_paged_oldest_first(w: World) {
    let mut asked = Vec::new();
    for n in 0..5 {
        let mut spec = spec("t");
        if n == 2 {
            spec.tenant = Tenant::new("acme").unwrap();
        }
        w.submit(spec).await;
        asked.push(w.park(w.claim("t").await.unwrap().reference).await);
    }
    let page = async |filter: ApprovalFilter| {
        let page = w.book.approvals(filter).await.unwrap();
        page.into_iter().map(|a| a.question.id).collect::<Vec<_>>()
    };
    let mut filter = ApprovalFilter::default();
    assert_eq!(page(filter.clone()).await, asked);
    filter.limit = 2;
    filter.after = Some(asked[0]);
    assert_eq!(page(filter.clone()).await, asked[1..3]);
    filter.after = None;
    filter.tenant = Some(Tenant::new("acme").unwrap());
    assert_eq!(page(filter).await, asked[2..3]);
}

pub(crate) async fn changes_have_no_gaps(mut w: World) {
    let mut latest = w.book.latest();
    assert_eq!(*latest.borrow_and_update(), 0);
    let id = w.submit(spec("t")).await;
    assert!(latest.has_changed().unwrap());
    let claim = w.claim("t").await.unwrap().reference;
    w.commit(claim, retry()).await.unwrap();
    w.pass(Duration::from_secs(1));
    let claim = w.claim("t").await.unwrap().reference;
    w.commit(claim, done("x")).await.unwrap();

    let changes = w.book.changes(0, 100).await.unwrap();
    let states: Vec<_> = changes.iter().map(|c| c.state).collect();
    use State::{Claimed, Done, Ready};
    assert_eq!(states, [Ready, Claimed, Ready, Claimed, Done]);
    assert!(changes.iter().all(|c| c.task == id));
    property::gapless(0, &changes).unwrap();
    assert_eq!(*latest.borrow_and_update(), 5);
    assert_eq!(w.book.changes(1, 2).await.unwrap(), changes[1..3]);
    assert!(w.book.changes(5, 100).await.unwrap().is_empty());
    assert!(w.book.changes(99, 100).await.unwrap().is_empty());
}

pub(crate) async fn next_due_is_the_next_deadline_or_backoff(mut w: World) {
    assert_eq!(w.book.next_due(w.now).await.unwrap(), None);
    let mut urgent = spec("t");
    let deadline = w.now.after(Duration::from_secs(1));
    urgent.deadline = Some(deadline);
    w.submit(urgent).await;
    assert_eq!(w.book.next_due(w.now).await.unwrap(), Some(deadline));
    let claim = w.claim("t").await.unwrap().reference;
    w.commit(claim, retry()).await.unwrap();
    let backoff = w.now.after(Duration::from_millis(100));
    assert_eq!(w.book.next_due(w.now).await.unwrap(), Some(backoff));
    assert_eq!(w.book.next_due(backoff).await.unwrap(), Some(deadline));
    assert_eq!(w.book.next_due(deadline).await.unwrap(), None);
    w.pass(Duration::from_secs(2));
    w.book.expire(w.now).await.unwrap();
    w.check().await;
}
