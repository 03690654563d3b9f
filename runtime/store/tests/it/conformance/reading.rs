use std::{collections::BTreeSet, time::Duration};

use colony_core::{
    cycle::EscalationReason,
    id::{ApprovalId, IdPrefix, Tenant},
    task::{Answer, INPUT_BYTES_MAX, State},
    unit::Timestamp,
};
use colony_store::{ApprovalFilter, LedgerError, PAGE_BYTES_MAX, Settlement, TaskFilter, property};

use crate::world::{World, accept, done, give_up, kind, spec};

pub(crate) async fn tasks_are_paged_newest_first(w: World) {
    let mut ids = Vec::new();
    for n in 0..10 {
        let mut spec = spec(if n % 2 == 0 { "even" } else { "odd" });
        if n < 4 {
            spec.tenant = Tenant::new("acme").unwrap();
        }
        ids.push(w.submit(spec).await);
    }
    w.ledger.cancel(ids[0], w.request_id()).await.unwrap();
    ids.reverse();

    let page = async |filter: TaskFilter| {
        let page = w.ledger.list(filter).await.unwrap();
        let ids: Vec<_> = page.items.iter().map(|record| record.head.id).collect();
        (ids, page.more)
    };
    let whole = |ids: &[_]| (ids.to_vec(), false);
    let first = |ids: &[_]| (ids.to_vec(), true);
    let all = TaskFilter::default();
    assert_eq!(page(all.clone()).await, whole(&ids));
    let mut some = all.clone();
    some.limit = 4;
    assert_eq!(page(some.clone()).await, first(&ids[..4]));
    some.before = Some(ids[3]);
    assert_eq!(page(some.clone()).await, first(&ids[4..8]));
    some.before = Some(ids[5]);
    assert_eq!(
        page(some).await,
        whole(&ids[6..]),
        "exactly as many as asked for"
    );
    let mut acme = all.clone();
    acme.tenant = Some(Tenant::new("acme").unwrap());
    assert_eq!(page(acme.clone()).await, whole(&ids[6..]));
    acme.states = vec![State::Ready];
    assert_eq!(page(acme.clone()).await, whole(&ids[6..9]));
    acme.states = vec![State::Cancelled, State::Failed];
    assert_eq!(page(acme.clone()).await, whole(&ids[9..]));
    acme.states = vec![State::Cancelled, State::Ready];
    acme.agent_type = Some(kind("even"));
    assert_eq!(page(acme).await, whole(&[ids[7], ids[9]]));
    let unknown = w.task_id();
    let none = w.ledger.journal(unknown).await;
    assert!(matches!(none, Err(LedgerError::NoTask(id)) if id == unknown));
    let none = w.ledger.get(unknown).await;
    assert!(matches!(none, Err(LedgerError::NoTask(id)) if id == unknown));
    assert!(w.ledger.journal(ids[0]).await.unwrap().is_empty());
}

pub(crate) async fn a_page_ends_by_bytes(w: World) {
    let (mut submitted, mut batch) = (BTreeSet::new(), 0);
    while submitted.len() * INPUT_BYTES_MAX <= PAGE_BYTES_MAX + INPUT_BYTES_MAX {
        let mut large = spec("t");
        large.input = "x".repeat(INPUT_BYTES_MAX).into();
        let id = w.submit(large).await;
        w.ledger.cancel(id, w.request_id()).await.unwrap();
        submitted.insert(id);
    }
    let (mut filter, mut seen) = (TaskFilter::default(), BTreeSet::new());
    loop {
        batch += 1;
        let page = w.ledger.list(filter.clone()).await.unwrap();
        let bytes: usize = page
            .items
            .iter()
            .map(|record| record.spec.input.len())
            .sum();
        assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes on page {batch}");
        seen.extend(page.items.iter().map(|record| record.head.id));
        filter.before = page.items.last().map(|record| record.head.id);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, submitted);
    assert_eq!(batch, 2);
}

pub(crate) async fn questions_are_paged_oldest_first(w: World) {
    let mut asked = Vec::new();
    for n in 0..5 {
        let mut spec = spec("t");
        if n == 2 {
            spec.tenant = Tenant::new("acme").unwrap();
        }
        w.submit(spec).await;
        asked.push(w.wait(w.claim("t").await.unwrap().reference()).await);
    }
    let page = async |filter: ApprovalFilter| {
        let page = w.ledger.approvals(filter).await.unwrap();
        let ids: Vec<_> = page
            .items
            .iter()
            .map(|approval| approval.question.id)
            .collect();
        (ids, page.more)
    };
    let mut filter = ApprovalFilter::default();
    assert_eq!(page(filter.clone()).await, (asked.clone(), false));
    filter.limit = 2;
    filter.after = Some(asked[0]);
    assert_eq!(page(filter.clone()).await, (asked[1..3].to_vec(), true));
    filter.after = Some(asked[2]);
    assert_eq!(page(filter.clone()).await, (asked[3..].to_vec(), false));
    filter.after = None;
    filter.tenant = Some(Tenant::new("acme").unwrap());
    assert_eq!(page(filter).await, (asked[2..3].to_vec(), false));
}

pub(crate) async fn questions_are_found_by_what_is_looked_for(w: World) {
    let mut asked = Vec::new();
    for n in 0..4_u64 {
        let mut spec = spec(if n % 2 == 0 { "even" } else { "odd" });
        spec.input = format!("Ticket {n}: the PRINTER is on fire").into();
        w.submit(spec).await;
        let claim = w.claim_all(&[("even", 1), ("odd", 1)]).await.remove(0);
        let mut question = w.question();
        question.escalation_reason = if n < 2 {
            EscalationReason::New
        } else {
            EscalationReason::Risky
        };
        question.proposal = Answer::by_rule(format!("queue-{n}"), "a test");
        let wait = Settlement::Wait(Box::new(question.clone()));
        w.settle(claim.reference(), wait).await.unwrap();
        asked.push((question.id, claim.head.id));
        w.pass(Duration::from_secs(60));
    }
    let found = async |filter: ApprovalFilter| {
        let page = w.ledger.approvals(filter).await.unwrap();
        let place = |id: ApprovalId| asked.iter().position(|(known, _)| *known == id).unwrap();
        let places: Vec<_> = page.items.iter().map(|a| place(a.question.id)).collect();
        assert!(!page.more);
        places
    };
    let all = ApprovalFilter::default;
    let of_type = ApprovalFilter {
        agent_type: Some(kind("odd")),
        ..all()
    };
    assert_eq!(found(of_type).await, [1, 3]);
    let risky = ApprovalFilter {
        escalation_reasons: vec![EscalationReason::Risky],
        ..all()
    };
    assert_eq!(found(risky.clone()).await, [2, 3]);
    let both = ApprovalFilter {
        escalation_reasons: vec![EscalationReason::Risky, EscalationReason::New],
        ..all()
    };
    assert_eq!(found(both).await, [0, 1, 2, 3]);
    // The second was asked three minutes ago.
    let old = ApprovalFilter {
        asked_until: Some(Timestamp::from_micros(
            w.now().as_micros() - 3 * 60 * 1_000_000,
        )),
        ..all()
    };
    assert_eq!(found(old).await, [0, 1]);
    for (text, places) in [
        ("printer", vec![0, 1, 2, 3]),
        ("ticket 2", vec![2]),
        ("QUEUE-3", vec![3]),
        ("shall i", vec![0, 1, 2, 3]),
        ("scanner", vec![]),
    ] {
        let filter = ApprovalFilter {
            search: Some(text.to_owned()),
            ..all()
        };
        assert_eq!(found(filter).await, places, "{text}");
    }
    let of_task = |closed_too| ApprovalFilter {
        task: Some(asked[2].1),
        closed_too,
        ..all()
    };
    assert_eq!(found(of_task(false)).await, [2]);
    let whole = asked[1].0.to_string();
    for length in [36, 35, 24] {
        let filter = ApprovalFilter {
            id_prefix: Some(IdPrefix::parse(&whole[..length]).unwrap()),
            ..all()
        };
        assert_eq!(found(filter).await, [1], "{length} characters");
    }
    let mut prefixed = ApprovalFilter {
        id_prefix: Some(IdPrefix::parse(&whole[..2]).unwrap()),
        ..all()
    };
    assert_eq!(found(prefixed.clone()).await, [0, 1, 2, 3]);
    prefixed.after = Some(asked[1].0);
    assert_eq!(found(prefixed).await, [2, 3]);
    w.ledger
        .decide(asked[2].0, w.request_id(), accept())
        .await
        .unwrap();
    assert!(found(of_task(false)).await.is_empty());
    assert_eq!(found(of_task(true)).await, [2]);
    assert_eq!(found(risky).await, [3]);
}

pub(crate) async fn tasks_are_found_by_the_beginning_of_their_ids(w: World) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(w.submit(spec("t")).await);
        w.pass(Duration::from_secs(3600));
    }
    w.ledger.cancel(ids[1], w.request_id()).await.unwrap();
    let found = async |text: &str, before| {
        let filter = TaskFilter {
            id_prefix: Some(IdPrefix::parse(text).unwrap()),
            before,
            ..TaskFilter::default()
        };
        let page = w.ledger.list(filter).await.unwrap();
        let ids: Vec<_> = page.items.iter().map(|record| record.head.id).collect();
        ids
    };
    for id in &ids {
        assert_eq!(found(&id.to_string(), None).await, [*id]);
        assert_eq!(found(&id.to_string()[..9], None).await, [*id]);
    }
    assert_eq!(found("01", None).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(found("01", Some(ids[1])).await, [ids[0]]);
    assert!(found("ffff", None).await.is_empty());
}

pub(crate) async fn changes_have_no_gaps(w: World) {
    use State::{Claimed, Done, Ready};
    let mut latest = w.ledger.latest();
    assert_eq!(*latest.borrow_and_update(), 0);
    assert!(w.ledger.changes(0, 100).await.unwrap().is_empty());
    let claim = w.claimed().await;
    assert!(latest.has_changed().unwrap());
    w.append(claim, [0]).await.unwrap();
    w.settle(claim, give_up()).await.unwrap();
    w.pass(Duration::from_secs(1));
    let claim = w.claim("t").await.unwrap().reference();
    w.settle(claim, done("x")).await.unwrap();

    let changes = w.ledger.changes(0, 100).await.unwrap();
    let states: Vec<_> = changes.iter().map(|c| c.state).collect();
    assert_eq!(states, [Ready, Claimed, Ready, Claimed, Done]);
    assert!(changes.iter().all(|c| c.task == claim.task));
    assert_eq!(changes[4].at, w.now());
    property::gapless(0, &changes).unwrap();
    assert_eq!(*latest.borrow_and_update(), 5);
    assert_eq!(w.ledger.changes(1, 2).await.unwrap(), changes[1..3]);
    assert!(w.ledger.changes(5, 100).await.unwrap().is_empty());
    let ahead = w.ledger.changes(6, 100).await;
    assert!(matches!(
        ahead,
        Err(LedgerError::OutOfRange {
            cursor: 6,
            oldest: 1,
            newest: 5
        })
    ));
}
