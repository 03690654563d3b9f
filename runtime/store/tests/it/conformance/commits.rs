use std::time::Duration;

use colony_core::{
    journal::Past,
    task::{Ending, State},
};
use colony_store::{AttemptCounts, ClaimRef, Commit, LedgerError, Settlement};

use crate::world::{
    World, accept, agent, appending, done, entries, failed, give_up, hand_back, perceived, spec,
};

pub(crate) async fn a_task_walks_to_its_end(w: World) {
    let id = w.submit(spec("t")).await;
    let claim = w.claim("t").await.unwrap();
    assert_eq!(claim.head, w.ledger.get(id).await.unwrap().head);
    assert_eq!(claim.head.submitted_at, w.now());
    assert!(!claim.has_journal);
    assert!(claim.inbox.is_empty());
    assert_eq!(w.state(id).await, State::Claimed);

    let committed = w.append(claim.reference(), [0]).await.unwrap();
    assert_eq!(committed.state, Some(State::Claimed));
    assert_eq!(w.ledger.journal(id).await.unwrap(), entries([0]));
    let head = w.ledger.get(id).await.unwrap().head;
    assert_eq!(head, claim.head, "an append leaves the head alone");

    w.pass(Duration::from_secs(1));
    let mut commit = Commit::settling(claim.reference(), done("it"));
    commit.agent = Some(agent("t", 4));
    commit.entries = entries([1, 2]);
    let committed = w.ledger.commit(commit).await.unwrap();
    assert_eq!(committed.state, Some(State::Done));
    let record = w.ledger.get(id).await.unwrap();
    assert_eq!(record.head.agent, Some(agent("t", 4)));
    assert_eq!(record.head.updated_at, w.now());
    assert_eq!(record.head.revision, claim.head.revision + 1);
    assert!(matches!(record.head.ending, Some(Ending::Done(a)) if a.text == "it"));
    assert_eq!(*record.spec, spec("t"));
    let journal = w.ledger.journal(id).await.unwrap();
    assert_eq!(Past::from_entries(journal).next_sequence, 3);

    let claim = w.claimed().await;
    w.settle(claim, failed("cannot")).await.unwrap();
    let head = w.ledger.get(claim.task).await.unwrap().head;
    let reason = "cannot".into();
    assert_eq!(head.state, State::Failed);
    assert_eq!(head.ending, Some(Ending::Failed { reason }));
    w.check().await;
}

/// One of each kind.
fn settlements(w: &World) -> [Settlement; 6] {
    [
        Settlement::Continue,
        hand_back(),
        give_up(),
        done("x"),
        failed("x"),
        Settlement::Wait(Box::new(w.question())),
    ]
}

/// Each commit under this claim is refused as lost to a task in `state`, and changes nothing.
async fn all_lost(w: &World, claim: ClaimRef, state: State) {
    let before = w.ledger.get(claim.task).await.unwrap();
    for settlement in settlements(w) {
        let mut commit = Commit::settling(claim, settlement);
        commit.entries = entries([0]);
        let refused = w.ledger.commit(commit).await;
        let Err(LedgerError::Lost { state: found, .. }) = refused else {
            panic!("{refused:?} for a lost claim");
        };
        assert_eq!(found, state);
    }
    assert_eq!(w.ledger.get(claim.task).await.unwrap(), before);
    assert!(w.ledger.journal(claim.task).await.unwrap().is_empty());
}

pub(crate) async fn an_old_claim_is_lost_everywhere(w: World) {
    let old = w.claimed().await;
    w.register("n1").await;
    all_lost(&w, old, State::Ready).await;
    let new = w.ask("n1", 2, &[("t", 1)]).await.claims.pop().unwrap();
    all_lost(&w, old, State::Claimed).await;
    w.ledger.cancel(old.task, w.request_id()).await.unwrap();
    all_lost(&w, old, State::Cancelled).await;
    all_lost(&w, new.reference(), State::Cancelled).await;
    let nobody = ClaimRef {
        task: w.task_id(),
        fence: old.fence,
    };
    let unknown = w.settle(nobody, Settlement::Continue).await;
    assert!(matches!(unknown, Err(LedgerError::NoTask(id)) if id == nobody.task));
    w.check().await;
}

pub(crate) async fn a_gap_in_the_journal_is_refused_whole(w: World) {
    let claim = w.claimed().await;
    w.append(claim, [0, 1]).await.unwrap();
    for (wrong, at, due) in [
        (&[3][..], 3, 2),
        (&[2, 4], 4, 3),
        (&[2, 2], 2, 3),
        (&[0, 2], 2, 1),
    ] {
        let mut commit = appending(claim, wrong.iter().copied());
        commit.settlement = done("x");
        let refused = w.ledger.commit(commit).await;
        let Err(LedgerError::Sequence {
            sequence, expected, ..
        }) = refused
        else {
            panic!("{refused:?} for {wrong:?}");
        };
        assert_eq!((sequence, expected), (at, due), "{wrong:?}");
    }
    let mut other = appending(claim, [0, 1, 2]);
    other.entries[1] = perceived(1, "something else");
    let refused = w.ledger.commit(other).await;
    assert!(matches!(
        refused,
        Err(LedgerError::Conflict { sequence: 1, .. })
    ));
    assert_eq!(w.ledger.journal(claim.task).await.unwrap().len(), 2);
    assert_eq!(w.state(claim.task).await, State::Claimed);

    // Where entries overlap with what is there, the rest is written.
    let mut commit = appending(claim, [1, 2]);
    commit.settlement = done("x");
    w.ledger.commit(commit).await.unwrap();
    let journal = w.ledger.journal(claim.task).await.unwrap();
    assert_eq!(journal, entries([0, 1, 2]));
    w.check().await;
}

pub(crate) async fn a_repeated_commit_is_answered_alike(w: World) {
    for settlement in settlements(&w) {
        let claim = w.claimed().await;
        let mut commit = Commit::settling(claim, settlement);
        commit.entries = entries([0, 1]);
        let first = w.ledger.commit(commit.clone()).await.unwrap();
        let head = w.ledger.get(claim.task).await.unwrap().head;
        let again = w.ledger.commit(commit).await.unwrap();
        assert_eq!(again, first);
        assert_eq!(w.ledger.get(claim.task).await.unwrap().head, head);
        assert_eq!(w.ledger.journal(claim.task).await.unwrap().len(), 2);
        // A claim settles once: another settlement under it is of a lost claim.
        let state = first.state.unwrap();
        if state != State::Claimed {
            let other = if state.is_final() {
                hand_back()
            } else {
                done("x")
            };
            let refused = w.settle(claim, other).await;
            assert!(matches!(refused, Err(LedgerError::Lost { .. })));
        }
        let _ = w.ledger.cancel(claim.task, w.request_id()).await;
    }
    w.check().await;
}

pub(crate) async fn a_release_that_does_not_count_is_no_attempt(w: World) {
    let id = w.submit(spec("t")).await;
    for _ in 0..20 {
        let claim = w.claim("t").await.unwrap();
        assert_eq!(claim.head.failed_attempts, 0);
        w.settle(claim.reference(), hand_back()).await.unwrap();
    }
    let head = w.ledger.get(id).await.unwrap().head;
    assert_eq!((head.state, head.fence.0), (State::Ready, 20));

    let claim = w.claim("t").await.unwrap().reference();
    let delay = Duration::from_secs(7);
    let later = Settlement::Release {
        counts: AttemptCounts::Not,
        delay,
        reason: "its model is away".into(),
    };
    w.settle(claim, later).await.unwrap();
    assert_eq!(w.ask("n1", 1, &[("t", 1)]).await.next_due, Some(delay));
    w.pass(delay);
    assert!(w.claim("t").await.is_some());
    w.check().await;
}

pub(crate) async fn a_failed_attempt_waits_and_the_last_one_kills(w: World) {
    let id = w.submit(spec("t")).await;
    for attempt in 0..5_u32 {
        let claim = w.claim("t").await.unwrap();
        assert_eq!(claim.head.failed_attempts, attempt);
        w.settle(claim.reference(), give_up()).await.unwrap();
        assert!(w.claim("t").await.is_none(), "its back-off has not passed");
        let backoff = Duration::from_millis(100) * 2_u32.pow(attempt);
        w.pass(backoff - Duration::from_micros(1));
        assert!(w.claim("t").await.is_none(), "its back-off has not passed");
        w.pass(Duration::from_micros(1));
    }
    let head = w.ledger.get(id).await.unwrap().head;
    assert_eq!((head.state, head.failed_attempts), (State::Dead, 5));
    assert!(matches!(head.ending, Some(Ending::Failed { reason }) if reason == "it crashed"));
    assert!(w.claim("t").await.is_none());
    w.check().await;
}

pub(crate) async fn deadlines_end_tasks(w: World) {
    let mut urgent = spec("t");
    urgent.deadline = Some(w.now().after(Duration::from_secs(5)));
    let ready = w.submit(urgent.clone()).await;
    let mut sooner = urgent.clone();
    sooner.deadline = Some(w.now().after(Duration::from_secs(4)));
    let claimed = w.submit(sooner).await;
    let waiting = w.submit(urgent.clone()).await;
    let done_before = w.submit(urgent).await;
    let never = w.submit(spec("t")).await;
    let claims = w.claim_all(&[("t", 4)]).await;
    let [back, kept, asking, ending] = [0, 1, 2, 3].map(|n| claims[n].reference());
    assert_eq!(
        [back, kept, asking, ending].map(|c| c.task),
        [ready, claimed, waiting, done_before]
    );
    w.settle(back, hand_back()).await.unwrap();
    let approval = w.wait(asking).await;
    w.settle(ending, done("x")).await.unwrap();

    assert!(w.ledger.expire(9).await.unwrap().is_empty());
    w.pass(Duration::from_secs(5));
    let late = w.claim_all(&[("t", 9)]).await;
    assert_eq!(late.len(), 1, "a task past its deadline is not handed out");
    assert_eq!(late[0].head.id, never);
    assert!(w.ledger.expire(0).await.unwrap().is_empty());
    assert_eq!(
        w.ledger.expire(2).await.unwrap(),
        [claimed, ready],
        "the earliest first"
    );
    assert_eq!(w.ledger.expire(2).await.unwrap(), [waiting]);
    for id in [ready, claimed, waiting] {
        assert_eq!(w.state(id).await, State::Expired);
    }
    assert!(w.settle(kept, done("x")).await.is_err());
    let closed = w.ledger.decide(approval, w.request_id(), accept()).await;
    let Err(LedgerError::Closed { state, .. }) = closed else {
        panic!("{closed:?}");
    };
    assert_eq!(state, State::Expired);
    assert_eq!(w.state(done_before).await, State::Done);
    w.check().await;
}

pub(crate) async fn cancel_ends_a_task_in_each_live_state(w: World) {
    let due = w.claimed().await;
    w.settle(due, give_up()).await.unwrap();
    let waiting = w.claimed().await;
    w.wait(waiting).await;
    let claimed = w.claimed().await;
    let ready = w.submit(spec("t")).await;
    let live = [
        (due.task, State::Ready),
        (waiting.task, State::Waiting),
        (claimed.task, State::Claimed),
        (ready, State::Ready),
    ];
    for (id, state) in live {
        let request = w.request_id();
        assert_eq!(w.ledger.cancel(id, request).await.unwrap(), state);
        let repeat = w.ledger.cancel(id, request).await.unwrap();
        assert_eq!(repeat, State::Cancelled);
        let head = w.ledger.get(id).await.unwrap().head;
        assert_eq!(head.state, State::Cancelled);
        assert!(matches!(head.ending, Some(Ending::Failed { .. })));
        let other = w.ledger.cancel(id, w.request_id()).await;
        let Err(LedgerError::Ended { state, .. }) = other else {
            panic!("{other:?}");
        };
        assert_eq!(state, State::Cancelled);
    }
    assert!(w.settle(claimed, done("x")).await.is_err());
    w.pass(Duration::from_secs(3600));
    let nothing = w.ask("n1", 1, &[("t", 9)]).await;
    assert_eq!(nothing, colony_store::Claimed::default());
    let unknown = w.ledger.cancel(w.task_id(), w.request_id()).await;
    assert!(matches!(unknown, Err(LedgerError::NoTask(_))));
    w.check().await;
}

pub(crate) async fn what_ended_without_a_verdict_is_revived(w: World) {
    let mut urgent = spec("t");
    urgent.deadline = Some(w.now().after(Duration::from_secs(5)));
    let expired = w.submit(urgent).await;
    let claim = w.claim("t").await.unwrap().reference();
    w.append(claim, [0]).await.unwrap();
    let cancelled = w.submit(spec("t")).await;
    w.ledger.cancel(cancelled, w.request_id()).await.unwrap();
    let waiting = w.submit(spec("t")).await;
    w.pass(Duration::from_secs(5));
    w.ledger.expire(9).await.unwrap();
    for id in [expired, cancelled] {
        let before = w.ledger.get(id).await.unwrap().head;
        w.ledger.revive(id, w.request_id()).await.unwrap();
        let head = w.ledger.get(id).await.unwrap().head;
        assert_eq!(
            (head.state, head.ending, head.deadline),
            (State::Ready, None, None)
        );
        assert!(head.fence > before.fence);
        let twice = w.ledger.revive(id, w.request_id()).await;
        assert!(matches!(
            twice,
            Err(LedgerError::NotRevivable {
                state: State::Ready,
                ..
            })
        ));
    }
    // At the end of the line, with its journal.
    let claims = w.claim_all(&[("t", 9)]).await;
    let order: Vec<_> = claims.iter().map(|c| (c.head.id, c.has_journal)).collect();
    assert_eq!(
        order,
        [(waiting, false), (expired, true), (cancelled, false)]
    );
    w.settle(claims[0].reference(), done("x")).await.unwrap();
    let verdict = w.ledger.revive(waiting, w.request_id()).await;
    assert!(matches!(
        verdict,
        Err(LedgerError::NotRevivable {
            state: State::Done,
            ..
        })
    ));
    let unknown = w.ledger.revive(w.task_id(), w.request_id()).await;
    assert!(matches!(unknown, Err(LedgerError::NoTask(_))));
    w.check().await;
}
