//! Two requests that do not know of each other, in either order and at once. Each row has a test here.
//!
//! | race | the first one wins, and the other |
//! |---|---|
//! | cancel × commit | cancel finds the task ended; commit finds its claim lost |
//! | expire × commit | expire passes the task over; commit finds its claim lost |
//! | lose × commit | the new life finds nothing to lose; commit finds its claim lost |
//! | decide × cancel | cancel ends a ready task, the answer stays; decide finds the question closed |
//! | decide × expire | as with cancel |
//! | decide × decide | hears who was first |
//! | revive × late commit | a copy under the fence before changes nothing, claimed again or not |
//! | revive × late cancel | a copy of the cancel that was revived from changes nothing |
//! | register × late claim | a copy of a former life's claim takes nothing |
//! | claim × repeat | both carry the same tasks under the same fences |
//! | settle × repeat | a copy of a settlement changes nothing, also after another claim |
//! | submit × submit | is a duplicate |
//!
//! Not here: award × crash is the node's; submit × retention comes with retention.

use std::time::Duration;

use colony_core::{id::Incarnation, task::State};
use colony_store::{ClaimRef, Commit, Committed, LedgerError, Others, Settlement, Submitted};

use crate::world::{World, accept, appending, done, entries, give_up, hand_back, node, spec};

/// Who comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    One,
    Other,
    /// Both are sent at once.
    Either,
}

const ORDERS: [First; 3] = [First::One, First::Other, First::Either];

async fn race<A, B>(
    first: First,
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> (A, B) {
    match first {
        First::One => {
            let one = one.await;
            (one, other.await)
        }
        First::Other => {
            let other = other.await;
            (one.await, other)
        }
        First::Either => tokio::join!(one, other),
    }
}

/// The end of a claim, with an entry.
fn ending(claim: ClaimRef) -> Commit {
    let mut commit = Commit::settling(claim, done("x"));
    commit.entries = entries([0]);
    commit
}

fn is_lost(committed: &Result<Committed, LedgerError>, found: State) -> bool {
    matches!(committed, Err(LedgerError::Lost { state, .. }) if *state == found)
}

/// Where the task stands, with so many entries in its journal.
async fn stands(w: &World, claim: ClaimRef) -> (State, usize) {
    let journal = w.ledger.journal(claim.task).await.unwrap();
    (w.state(claim.task).await, journal.len())
}

pub(crate) async fn cancel_beside_commit(w: World) {
    for first in ORDERS {
        let claim = w.claimed().await;
        let cancel = w.ledger.cancel(claim.task, w.request_id());
        let (cancelled, committed) = race(first, cancel, w.ledger.commit(ending(claim))).await;
        match &cancelled {
            Ok(before) => {
                assert_ne!(first, First::Other);
                assert_eq!(*before, State::Claimed);
                assert!(is_lost(&committed, State::Cancelled), "{committed:?}");
                assert_eq!(stands(&w, claim).await, (State::Cancelled, 0));
            }
            Err(LedgerError::Ended { state, .. }) => {
                assert_ne!(first, First::One);
                assert_eq!(*state, State::Done);
                committed.unwrap();
                assert_eq!(stands(&w, claim).await, (State::Done, 1));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    w.check().await;
}

pub(crate) async fn expire_beside_commit(w: World) {
    for first in ORDERS {
        let mut urgent = spec("t");
        urgent.deadline = Some(w.now().after(Duration::from_secs(1)));
        let id = w.submit(urgent).await;
        let claim = w.claim("t").await.unwrap().reference();
        w.pass(Duration::from_secs(1));
        let (expired, committed) =
            race(first, w.ledger.expire(9), w.ledger.commit(ending(claim))).await;
        let expired = expired.unwrap();
        if expired.is_empty() {
            assert_ne!(first, First::One);
            committed.unwrap();
            assert_eq!(stands(&w, claim).await, (State::Done, 1));
        } else {
            assert_ne!(first, First::Other);
            assert_eq!(expired, [id]);
            assert!(is_lost(&committed, State::Expired), "{committed:?}");
            assert_eq!(stands(&w, claim).await, (State::Expired, 0));
        }
    }
    w.check().await;
}

pub(crate) async fn lose_beside_commit(w: World) {
    let me = node("n1");
    for (life, first) in (1..).zip(ORDERS) {
        w.submit(spec("t")).await;
        let claim = w.ask("n1", life, &[("t", 1)]).await.claims.pop().unwrap();
        let claim = claim.reference();
        let register = w.ledger.register(&me, Others::Nodes);
        let (registered, committed) = race(first, register, w.ledger.commit(ending(claim))).await;
        let lost = registered.unwrap().lost;
        if lost.is_empty() {
            assert_ne!(first, First::One);
            committed.unwrap();
            assert_eq!(stands(&w, claim).await, (State::Done, 1));
        } else {
            assert_ne!(first, First::Other);
            assert_eq!(lost, [claim.task]);
            assert!(is_lost(&committed, State::Ready), "{committed:?}");
            assert_eq!(stands(&w, claim).await, (State::Ready, 0));
            w.ledger.cancel(claim.task, w.request_id()).await.unwrap();
        }
    }
    w.check().await;
}

pub(crate) async fn decide_beside_cancel(w: World) {
    for first in ORDERS {
        let claim = w.claimed().await;
        let approval = w.wait(claim).await;
        let decide = w.ledger.decide(approval, w.request_id(), accept());
        let cancel = w.ledger.cancel(claim.task, w.request_id());
        let (decided, cancelled) = race(first, decide, cancel).await;
        let state = w.ledger.approval(approval).await.unwrap().state;
        match decided {
            Ok(decided) => {
                assert_ne!(first, First::Other);
                assert_eq!(decided.state, State::Ready);
                assert_eq!(cancelled.unwrap(), State::Ready);
                assert_eq!(state.decision(), Some(&accept()));
            }
            Err(LedgerError::Closed { state: found, .. }) => {
                assert_ne!(first, First::One);
                assert_eq!(found, State::Cancelled);
                assert_eq!(cancelled.unwrap(), State::Waiting);
                assert_eq!(state.decision(), None);
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(w.state(claim.task).await, State::Cancelled);
    }
    w.check().await;
}

pub(crate) async fn decide_beside_expire(w: World) {
    for first in ORDERS {
        let mut urgent = spec("t");
        urgent.deadline = Some(w.now().after(Duration::from_secs(1)));
        let id = w.submit(urgent).await;
        let approval = w.wait(w.claim("t").await.unwrap().reference()).await;
        w.pass(Duration::from_secs(1));
        let decide = w.ledger.decide(approval, w.request_id(), accept());
        let (decided, expired) = race(first, decide, w.ledger.expire(9)).await;
        assert_eq!(expired.unwrap(), [id], "decided or not");
        match decided {
            Ok(decided) => {
                assert_ne!(first, First::Other);
                assert_eq!(decided.state, State::Ready);
            }
            Err(LedgerError::Closed { state, .. }) => {
                assert_ne!(first, First::One);
                assert_eq!(state, State::Expired);
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(w.state(id).await, State::Expired);
    }
    w.check().await;
}

pub(crate) async fn decide_beside_decide(w: World) {
    for first in ORDERS {
        let claim = w.claimed().await;
        let approval = w.wait(claim).await;
        let mut bob = accept();
        bob.by = "bob".into();
        let one = w.ledger.decide(approval, w.request_id(), accept());
        let other = w.ledger.decide(approval, w.request_id(), bob);
        let (one, other) = race(first, one, other).await;
        let (winner, loser) = if one.is_ok() {
            assert!(other.is_err() && first != First::Other);
            ("ann", other)
        } else {
            assert!(other.is_ok() && first != First::One);
            ("bob", one)
        };
        let Err(LedgerError::Decided { by, state, .. }) = loser else {
            panic!("{loser:?}");
        };
        assert_eq!((by.as_str(), state), (winner, State::Ready));
        let inbox = w.claim("t").await.unwrap().inbox;
        assert_eq!(inbox.len(), 1);
        assert_eq!(inbox[0].decision.by, winner);
        w.ledger.cancel(claim.task, w.request_id()).await.unwrap();
    }
    w.check().await;
}

pub(crate) async fn revive_beside_late_commit(w: World) {
    // Exhausted, by the very commit of which copies are under way.
    let id = w.submit(spec("t")).await;
    let mut last = None;
    for _ in 0..5 {
        w.pass(Duration::from_secs(60));
        let claim = w.claim("t").await.unwrap().reference();
        last = Some(claim);
        w.settle(claim, give_up()).await.unwrap();
    }
    let old = last.unwrap();
    assert_eq!(w.state(id).await, State::Dead);
    w.ledger.revive(id, w.request_id()).await.unwrap();

    let late = async |found: State| {
        let before = w.ledger.get(id).await.unwrap();
        let repeat = w.settle(old, give_up()).await.unwrap();
        assert_eq!(repeat.state, Some(found));
        for commit in [ending(old), appending(old, [0])] {
            let refused = w.ledger.commit(commit).await;
            assert!(is_lost(&refused, found), "{refused:?}");
        }
        assert_eq!(w.ledger.get(id).await.unwrap(), before);
        assert_eq!(stands(&w, old).await, (found, 0));
    };
    late(State::Ready).await;
    let claim = w.claim("t").await.unwrap();
    late(State::Claimed).await;
    w.ledger.commit(ending(claim.reference())).await.unwrap();
    w.check().await;
}

pub(crate) async fn revive_beside_late_cancel(w: World) {
    let id = w.submit(spec("t")).await;
    let request = w.request_id();
    w.ledger.cancel(id, request).await.unwrap();
    w.ledger.revive(id, w.request_id()).await.unwrap();
    let late = async || {
        let before = w.ledger.get(id).await.unwrap();
        let answer = w.ledger.cancel(id, request).await.unwrap();
        assert_eq!(
            answer,
            State::Cancelled,
            "as it was answered to a repeat before"
        );
        assert_eq!(w.ledger.get(id).await.unwrap(), before);
    };
    late().await;
    let claim = w.claim("t").await.unwrap().reference();
    late().await;
    // Settled, cancelled and revived by others since.
    w.settle(claim, hand_back()).await.unwrap();
    late().await;
    w.ledger.cancel(id, w.request_id()).await.unwrap();
    w.ledger.revive(id, w.request_id()).await.unwrap();
    late().await;
    w.claim("t").await.unwrap();
    let cancelled = w.ledger.cancel(id, w.request_id()).await.unwrap();
    assert_eq!(
        cancelled,
        State::Claimed,
        "another request is another cancel"
    );
    w.check().await;
}

pub(crate) async fn cancel_beside_late_revive(w: World) {
    let id = w.submit(spec("t")).await;
    w.ledger.cancel(id, w.request_id()).await.unwrap();
    let request = w.request_id();
    let was = w.ledger.revive(id, request).await.unwrap();
    assert_eq!(was, State::Cancelled);
    let late = async || {
        let before = w.ledger.get(id).await.unwrap();
        let answer = w.ledger.revive(id, request).await.unwrap();
        assert_eq!(answer, State::Ready, "as a repeat is answered");
        assert_eq!(w.ledger.get(id).await.unwrap(), before);
    };
    late().await;
    let cancel = w.request_id();
    w.ledger.cancel(id, cancel).await.unwrap();
    late().await;
    // One id, one request.
    for refused in [
        w.ledger.cancel(id, request).await,
        w.ledger.revive(id, cancel).await,
    ] {
        let conflict = matches!(refused, Err(LedgerError::RequestConflict { task }) if task == id);
        assert!(conflict, "{refused:?}");
    }
    // Of another task, the id is another request.
    let other = w.submit(spec("t")).await;
    w.ledger.cancel(other, request).await.unwrap();
    w.check().await;
}

pub(crate) async fn register_beside_late_claim(w: World) {
    let me = node("n1");
    for (life, first) in (1..).zip(ORDERS) {
        let id = w.submit(spec("t")).await;
        let request = w.request("n1", life, &[("t", 9)]);
        let claim = w.ledger.claim(request.clone());
        let (registered, claimed) = race(first, w.ledger.register(&me, Others::Nodes), claim).await;
        let (registered, claimed) = (registered.unwrap(), claimed.unwrap());
        assert_eq!(registered.incarnation, Incarnation(life + 1));
        if claimed.claims.is_empty() {
            assert_ne!(first, First::Other);
            assert!(registered.lost.is_empty());
        } else {
            assert_ne!(first, First::One);
            assert_eq!(registered.lost, [id]);
        }
        assert_eq!(w.state(id).await, State::Ready, "whoever was first");
        let copy = w.ledger.claim(request).await.unwrap();
        assert!(copy.claims.is_empty());
        assert_eq!(w.state(id).await, State::Ready);
        w.ledger.cancel(id, w.request_id()).await.unwrap();
    }
    w.check().await;
}

pub(crate) async fn claim_beside_repeat(w: World) {
    for first in ORDERS {
        let ids = [w.submit(spec("t")).await, w.submit(spec("t")).await];
        let request = w.request("n1", 1, &[("t", 2)]);
        let repeat = w.ledger.claim(request.clone());
        let (one, other) = race(first, w.ledger.claim(request), repeat).await;
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one, other);
        assert_eq!(one.claims.len(), 2);
        for (claim, id) in one.claims.iter().zip(ids) {
            assert_eq!((claim.head.id, claim.head.fence.0), (id, 1));
            w.settle(claim.reference(), done("x")).await.unwrap();
        }
    }
    w.check().await;
}

pub(crate) async fn settle_repeated_after_another_claim(w: World) {
    let claim = w.claimed().await;
    let mut commit = Commit::settling(claim, hand_back());
    commit.entries = entries([0]);
    w.ledger.commit(commit.clone()).await.unwrap();
    let next = w.claim("t").await.unwrap();
    assert!(next.head.fence > claim.fence);
    let copy = async || {
        let before = w.ledger.get(claim.task).await.unwrap();
        let answer = w.ledger.commit(commit.clone()).await;
        assert_eq!(w.ledger.get(claim.task).await.unwrap(), before);
        answer
    };
    let repeat = copy().await.unwrap();
    assert_eq!(repeat.state, Some(State::Claimed));
    w.append(next.reference(), [1]).await.unwrap();
    copy().await.unwrap();

    // Once the next claim has settled too, the first is forgotten: its copy is of a lost claim.
    w.settle(next.reference(), hand_back()).await.unwrap();
    let forgotten = copy().await;
    assert!(is_lost(&forgotten, State::Ready), "{forgotten:?}");
    let last = w.claim("t").await.unwrap();
    let forgotten = copy().await;
    assert!(is_lost(&forgotten, State::Claimed), "{forgotten:?}");
    assert_eq!(stands(&w, claim).await, (State::Claimed, 2));
    w.settle(last.reference(), Settlement::Continue)
        .await
        .unwrap();
    w.check().await;
}

pub(crate) async fn submit_beside_submit(w: World) {
    for first in ORDERS {
        let task = w.new_task(spec("t"));
        let one = w.ledger.submit(vec![task.clone()]);
        let other = w.ledger.submit(vec![task.clone()]);
        let (one, other) = race(first, one, other).await;
        let mut answers = [one.unwrap(), other.unwrap()].concat();
        answers.sort_by_key(|answer| *answer != Submitted::Accepted(task.id));
        let (id, state) = (task.id, State::Ready);
        assert_eq!(
            answers,
            [Submitted::Accepted(id), Submitted::Duplicate { id, state }]
        );
    }
    assert_eq!(w.ledger.counts().await.unwrap().accepted, 3);
    w.check().await;
}
