use colony_core::{
    cycle::Ruling,
    journal::Note,
    task::{Ending, State},
};
use colony_store::{ApprovalFilter, LedgerError, Then};

use crate::world::{World, accept, done, perceived, retry, spec};

pub(crate) async fn a_parked_task_goes_on_after_the_decision(w: World) {
    let id = w.submit(spec("t")).await;
    let claim = w.claim("t").await.unwrap().reference;
    let question = w.question();
    let mut commit = w.bare(claim, Then::Park(Box::new(question.clone())));
    commit.entries = vec![perceived(0, w.now)];
    w.book.commit(commit).await.unwrap();
    assert_eq!(w.state(id).await, State::Parked);
    assert!(w.claim("t").await.is_none(), "nobody claims a parked task");

    let open = w.book.approvals(ApprovalFilter::default()).await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].question, question);
    assert_eq!(open[0].task, id);
    assert_eq!(open[0].asked_at, w.now);
    assert_eq!(*open[0].spec, spec("t"));
    assert_eq!(open[0].decision, None);

    let mut decision = accept();
    decision.ruling = Ruling::Correct("no".into());
    let decided = w.book.decide(question.id, decision.clone(), w.now).await;
    assert_eq!(decided.unwrap(), id);
    let journal = w.book.journal(id).await.unwrap();
    assert_eq!(journal.len(), 2);
    assert_eq!(journal[1].sequence, 1);
    assert_eq!(journal[1].note, Note::Decided(decision.clone()));

    let resumed = w.claim("t").await.unwrap();
    assert!(resumed.has_journal);
    assert_eq!(resumed.deliveries, 0, "parking is not a delivery");
    assert!(resumed.reference.fence > claim.fence);
    assert!(w.commit(claim, done("old")).await.is_err());
    let mut commit = w.bare(resumed.reference, done("no"));
    commit.entries = vec![perceived(2, w.now)];
    w.book.commit(commit).await.unwrap();

    assert!(
        w.book
            .approvals(ApprovalFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let all = ApprovalFilter {
        closed_too: true,
        ..ApprovalFilter::default()
    };
    let all = w.book.approvals(all).await.unwrap();
    assert_eq!(
        (all[0].decision.as_ref(), all[0].closed),
        (Some(&decision), true)
    );
    w.check().await;
}

pub(crate) async fn a_question_is_decided_once(w: World) {
    w.submit(spec("t")).await;
    let approval = w.park(w.claim("t").await.unwrap().reference).await;
    w.book.decide(approval, accept(), w.now).await.unwrap();
    let again = w.book.decide(approval, accept(), w.now).await;
    assert!(matches!(
        again,
        Err(LedgerError::Closed {
            state: State::Ready,
            ..
        })
    ));
    let unknown = w.book.decide(w.question().id, accept(), w.now).await;
    assert!(matches!(unknown, Err(LedgerError::NoApproval(_))));

    // Parked again with a second question, the first stays closed.
    let second = w.park(w.claim("t").await.unwrap().reference).await;
    let again = w.book.decide(approval, accept(), w.now).await;
    assert!(matches!(
        again,
        Err(LedgerError::Closed {
            state: State::Parked,
            ..
        })
    ));
    w.book.decide(second, accept(), w.now).await.unwrap();
    w.check().await;
}

pub(crate) async fn cancel_closes_the_question(w: World) {
    let id = w.submit(spec("t")).await;
    let approval = w.park(w.claim("t").await.unwrap().reference).await;
    assert_eq!(w.book.cancel(id, w.now).await.unwrap(), State::Parked);
    assert!(
        w.book
            .approvals(ApprovalFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let late = w.book.decide(approval, accept(), w.now).await;
    assert!(matches!(
        late,
        Err(LedgerError::Closed {
            state: State::Cancelled,
            ..
        })
    ));
    assert_eq!(w.state(id).await, State::Cancelled);
    w.check().await;
}

pub(crate) async fn cancel_ends_a_task_in_each_live_state(w: World) {
    let ready = w.submit(spec("ready")).await;
    let waiting = w.submit(spec("waiting")).await;
    let claimed = w.submit(spec("claimed")).await;
    let claim = w.claim("waiting").await.unwrap().reference;
    w.commit(claim, retry()).await.unwrap();
    let claim = w.claim("claimed").await.unwrap().reference;

    assert_eq!(w.book.cancel(ready, w.now).await.unwrap(), State::Ready);
    assert_eq!(w.book.cancel(waiting, w.now).await.unwrap(), State::Ready);
    assert_eq!(w.book.cancel(claimed, w.now).await.unwrap(), State::Claimed);
    let lost = w.commit(claim, done("x")).await;
    assert!(matches!(
        lost,
        Err(LedgerError::Lost {
            state: State::Cancelled,
            ..
        })
    ));
    for id in [ready, waiting, claimed] {
        let record = w.book.get(id).await.unwrap();
        assert_eq!(record.state, State::Cancelled);
        assert!(matches!(record.ending, Some(Ending::Failed { .. })));
        let again = w.book.cancel(id, w.now).await;
        assert!(matches!(
            again,
            Err(LedgerError::Ended {
                state: State::Cancelled,
                ..
            })
        ));
    }
    let later = w.now.after(std::time::Duration::from_secs(3600));
    assert_eq!(w.book.next_due(w.now).await.unwrap(), None);
    assert!(w.book.expire(later).await.unwrap().is_empty());
    assert!(w.claim("ready").await.is_none());
    let unknown = w.book.cancel(w.task_id(), w.now).await;
    assert!(matches!(unknown, Err(LedgerError::NoTask(_))));
    w.check().await;
}
