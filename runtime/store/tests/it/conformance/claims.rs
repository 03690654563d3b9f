use std::time::Duration;

use colony_core::{
    id::{AgentId, Incarnation},
    journal::Past,
    task::{Ending, Priority, State},
};
use colony_store::{LedgerError, Then};

use crate::world::{World, done, kind, node, perceived, retry, spec};

pub(crate) async fn priority_overtakes_within_its_head_start(mut w: World) {
    let first = w.submit(spec("t")).await;
    w.pass(Duration::from_secs(299));
    let mut critical = spec("t");
    critical.priority = Priority::CRITICAL;
    let overtakes = w.submit(critical.clone()).await;
    w.pass(Duration::from_secs(2));
    let too_late = w.submit(critical).await;
    let claims = w.claim_as("n1", 1, &[("t", 10)]).await;
    let order: Vec<_> = claims.iter().map(|c| c.reference.task).collect();
    assert_eq!(order, [overtakes, first, too_late]);
    w.check().await;
}

pub(crate) async fn a_claim_takes_what_is_wanted_of_each_type(w: World) {
    for agent_type in ["a", "a", "a", "b", "c"] {
        w.submit(spec(agent_type)).await;
    }
    let claims = w
        .claim_as("n1", 1, &[("a", 2), ("b", 5), ("x", 5), ("c", 0)])
        .await;
    let types: Vec<_> = claims.iter().map(|c| c.spec.agent_type.as_str()).collect();
    assert_eq!(types, ["a", "a", "b"]);
    assert!(w.claim_as("n1", 1, &[]).await.is_empty());
    let counts = w.book.counts().await.unwrap();
    assert_eq!(counts.by_state[&State::Claimed], 3);
    assert_eq!(counts.by_state[&State::Ready], 2);
    w.check().await;
}

pub(crate) async fn a_task_walks_to_its_end(mut w: World) {
    let id = w.submit(spec("t")).await;
    let claim = w.claim("t").await.unwrap();
    assert_eq!(claim.reference.task, id);
    assert_eq!(claim.submitted_at, w.now);
    assert!(!claim.has_journal);
    assert_eq!(w.state(id).await, State::Claimed);

    let agent = AgentId {
        agent_type: kind("t"),
        ordinal: 4,
    };
    let mut commit = w.bare(claim.reference, Then::Continue);
    commit.agent = Some(agent.clone());
    commit.entries = vec![perceived(0, w.now)];
    w.book.commit(commit).await.unwrap();
    assert_eq!(w.book.journal(id).await.unwrap(), [perceived(0, w.now)]);

    w.pass(Duration::from_secs(1));
    let mut commit = w.bare(claim.reference, done("it"));
    commit.entries = vec![perceived(1, w.now), perceived(2, w.now)];
    w.book.commit(commit).await.unwrap();
    let record = w.book.get(id).await.unwrap();
    assert_eq!(record.state, State::Done);
    assert_eq!(record.agent, Some(agent));
    assert_eq!(record.updated_at, w.now);
    assert_eq!(record.deliveries, 0);
    assert!(matches!(record.ending, Some(Ending::Done(a)) if a.text == "it"));
    assert_eq!(*record.spec, spec("t"));
    let journal = w.book.journal(id).await.unwrap();
    assert_eq!(Past::from_entries(journal).next_sequence, 3);
    w.check().await;

    let failing = w.submit(spec("t")).await;
    let claim = w.claim("t").await.unwrap();
    let ending = Ending::Failed {
        reason: "cannot".into(),
    };
    w.commit(claim.reference, Then::End(ending.clone()))
        .await
        .unwrap();
    let record = w.book.get(failing).await.unwrap();
    assert_eq!((record.state, record.ending), (State::Failed, Some(ending)));
    w.check().await;
}

pub(crate) async fn an_old_claim_is_lost_everywhere(w: World) {
    let id = w.submit(spec("t")).await;
    let old = w.claim("t").await.unwrap().reference;
    w.commit(old, Then::HandBack).await.unwrap();
    let thens = || {
        [
            Then::Continue,
            Then::HandBack,
            retry(),
            done("x"),
            Then::Park(Box::new(w.question())),
        ]
    };
    for then in thens() {
        let refused = w.commit(old, then).await;
        assert!(matches!(
            refused,
            Err(LedgerError::Lost {
                state: State::Ready,
                ..
            })
        ));
    }
    let new = w.claim("t").await.unwrap().reference;
    assert!(new.fence > old.fence);
    for then in thens() {
        let mut commit = w.bare(old, then);
        commit.entries = vec![perceived(0, w.now)];
        let refused = w.book.commit(commit).await;
        assert!(matches!(
            refused,
            Err(LedgerError::Lost {
                state: State::Claimed,
                ..
            })
        ));
    }
    assert!(w.book.journal(id).await.unwrap().is_empty());
    w.commit(new, done("x")).await.unwrap();
    for then in thens() {
        let refused = w.commit(new, then).await;
        assert!(matches!(
            refused,
            Err(LedgerError::Lost {
                state: State::Done,
                ..
            })
        ));
    }
    let nobody = colony_store::ClaimRef {
        task: w.task_id(),
        fence: new.fence,
    };
    assert!(matches!(
        w.commit(nobody, Then::Continue).await,
        Err(LedgerError::NoTask(_))
    ));
    w.check().await;
}

pub(crate) async fn a_gap_in_the_journal_is_refused_whole(w: World) {
    let id = w.submit(spec("t")).await;
    let claim = w.claim("t").await.unwrap().reference;
    let with = |sequences: &[u32], then| {
        let mut commit = w.bare(claim, then);
        commit.entries = sequences.iter().map(|s| perceived(*s, w.now)).collect();
        commit
    };
    w.book.commit(with(&[0, 1], Then::Continue)).await.unwrap();
    for wrong in [&[1][..], &[3], &[2, 4], &[2, 2], &[0]] {
        let refused = w.book.commit(with(wrong, done("x"))).await;
        assert!(
            matches!(refused, Err(LedgerError::Sequence { .. })),
            "{wrong:?}: {refused:?}"
        );
    }
    assert_eq!(w.book.journal(id).await.unwrap().len(), 2);
    assert_eq!(w.state(id).await, State::Claimed);
    w.book.commit(with(&[2], done("x"))).await.unwrap();
    w.check().await;
}

pub(crate) async fn hand_back_is_not_a_delivery(w: World) {
    let id = w.submit(spec("t")).await;
    for _ in 0..20 {
        let claim = w.claim("t").await.unwrap();
        assert_eq!(claim.deliveries, 0);
        w.commit(claim.reference, Then::HandBack).await.unwrap();
    }
    let record = w.book.get(id).await.unwrap();
    assert_eq!((record.state, record.deliveries), (State::Ready, 0));
    assert_eq!(record.fence.0, 20);
    w.check().await;
}

pub(crate) async fn a_failed_claim_waits_and_dies_in_the_end(mut w: World) {
    let id = w.submit(spec("t")).await;
    for delivery in 0..5_u32 {
        let claim = w.claim("t").await.unwrap();
        assert_eq!(claim.deliveries, delivery);
        w.commit(claim.reference, retry()).await.unwrap();
        assert!(w.claim("t").await.is_none(), "its backoff has not passed");
        let backoff = Duration::from_millis(100) * 2_u32.pow(delivery);
        w.pass(backoff - Duration::from_micros(1));
        assert!(w.claim("t").await.is_none(), "its backoff has not passed");
        w.pass(Duration::from_micros(1));
    }
    let record = w.book.get(id).await.unwrap();
    assert_eq!((record.state, record.deliveries), (State::Dead, 5));
    assert!(matches!(record.ending, Some(Ending::Failed { reason }) if reason == "it crashed"));
    assert!(w.claim("t").await.is_none());
    w.check().await;
}

pub(crate) async fn a_new_life_requeues_former_claims_only(mut w: World) {
    let now = w.now;
    assert_eq!(
        w.book.begin(&node("n1"), now).await.unwrap(),
        Incarnation(1)
    );
    assert_eq!(
        w.book.begin(&node("n2"), now).await.unwrap(),
        Incarnation(1)
    );
    for _ in 0..3 {
        w.submit(spec("t")).await;
    }
    let mine = w
        .claim_as("n1", 1, &[("t", 1)])
        .await
        .pop()
        .unwrap()
        .reference;
    let theirs = w
        .claim_as("n2", 1, &[("t", 1)])
        .await
        .pop()
        .unwrap()
        .reference;

    assert_eq!(
        w.book.begin(&node("n1"), now).await.unwrap(),
        Incarnation(2)
    );
    let record = w.book.get(mine.task).await.unwrap();
    assert_eq!((record.state, record.deliveries), (State::Ready, 1));
    assert!(w.commit(mine, done("x")).await.is_err());
    assert_eq!(w.state(theirs.task).await, State::Claimed);
    w.commit(theirs, Then::Continue).await.unwrap();

    w.pass(Duration::from_millis(100));
    let again = w.claim_as("n1", 2, &[("t", 9)]).await;
    assert_eq!(again.len(), 2);
    assert_eq!(again[0].reference.task, mine.task);
    assert_eq!(again[0].deliveries, 1);

    // Four more crashes and it is dead, as is the one that was claimed with it.
    for life in 3..=6 {
        assert_eq!(
            w.book.begin(&node("n1"), w.now).await.unwrap(),
            Incarnation(life)
        );
        w.pass(Duration::from_secs(60));
        w.claim_as("n1", life, &[("t", 9)]).await;
    }
    assert_eq!(w.state(mine.task).await, State::Dead);
    assert_eq!(w.state(again[1].reference.task).await, State::Claimed);
    w.check().await;
}

pub(crate) async fn a_former_life_gets_nothing(w: World) {
    w.book.begin(&node("n1"), w.now).await.unwrap();
    w.book.begin(&node("n1"), w.now).await.unwrap();
    w.submit(spec("t")).await;
    assert!(w.claim_as("n1", 1, &[("t", 1)]).await.is_empty());
    assert_eq!(w.claim_as("n1", 2, &[("t", 1)]).await.len(), 1);
}

pub(crate) async fn deadlines_end_tasks(mut w: World) {
    let deadline = w.now.after(Duration::from_secs(5));
    let mut urgent = spec("t");
    urgent.deadline = Some(deadline);
    let ready = w.submit(urgent.clone()).await;
    let claimed = w.submit(urgent.clone()).await;
    let parked = w.submit(urgent.clone()).await;
    let done_before = w.submit(urgent).await;
    let never = w.submit(spec("t")).await;
    let claims = w.claim_as("n1", 1, &[("t", 4)]).await;
    let reference = |id| {
        claims
            .iter()
            .find(|c| c.reference.task == id)
            .unwrap()
            .reference
    };
    w.commit(reference(ready), Then::HandBack).await.unwrap();
    let approval = w.park(reference(parked)).await;
    w.commit(reference(done_before), done("x")).await.unwrap();

    assert!(w.book.expire(w.now).await.unwrap().is_empty());
    w.pass(Duration::from_secs(5));
    let late = w.claim_as("n1", 1, &[("t", 9)]).await;
    assert_eq!(late.len(), 1, "a task past its deadline is not handed out");
    assert_eq!(late[0].reference.task, never);
    let mut expired = w.book.expire(w.now).await.unwrap();
    expired.sort();
    assert_eq!(expired, [ready, claimed, parked]);
    assert!(w.book.expire(w.now).await.unwrap().is_empty());
    for id in expired {
        assert_eq!(w.state(id).await, State::Expired);
    }
    assert!(w.commit(reference(claimed), done("x")).await.is_err());
    let closed = w.book.decide(approval, crate::world::accept(), w.now).await;
    assert!(matches!(
        closed,
        Err(LedgerError::Closed {
            state: State::Expired,
            ..
        })
    ));
    assert_eq!(w.state(done_before).await, State::Done);
    w.check().await;
}
