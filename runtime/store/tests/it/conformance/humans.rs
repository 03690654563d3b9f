use colony_core::{
    cycle::DecisionKind,
    id::ApprovalId,
    task::{Ending, State},
};
use colony_store::{
    ApprovalFilter, Commit, Decided, InboxItem, LedgerError, QuestionState, Settlement,
};

use crate::world::{World, accept, done, entries};

async fn open(w: &World) -> Vec<ApprovalId> {
    let page = w.ledger.approvals(ApprovalFilter::default()).await.unwrap();
    page.items
        .iter()
        .map(|approval| approval.question.id)
        .collect()
}

pub(crate) async fn a_waiting_task_goes_on_after_the_decision(w: World) {
    let claim = w.claimed().await;
    let question = w.question();
    let mut commit = Commit::settling(claim, Settlement::Wait(Box::new(question.clone())));
    commit.entries = entries([0]);
    let committed = w.ledger.commit(commit).await.unwrap();
    assert_eq!(committed.state, Some(State::Waiting));
    assert!(w.claim("t").await.is_none(), "nobody claims a waiting task");

    let asked = w.ledger.approval(question.id).await.unwrap();
    assert_eq!(asked.question, question);
    assert_eq!((asked.task, asked.asked_at), (claim.task, w.now()));
    assert_eq!(*asked.spec, crate::world::spec("t"));
    assert_eq!(asked.state, QuestionState::Open);
    let page = w.ledger.approvals(ApprovalFilter::default()).await.unwrap();
    assert_eq!((page.items, page.more), (vec![asked], false));

    let mut decision = accept();
    decision.kind = DecisionKind::Correct("no".into());
    let request = w.request_id();
    let decided = w
        .ledger
        .decide(question.id, request, decision.clone())
        .await;
    let ready = Decided {
        task: claim.task,
        state: State::Ready,
    };
    assert_eq!(decided.unwrap(), ready);
    assert_eq!(open(&w).await, []);
    let journal = w.ledger.journal(claim.task).await.unwrap();
    assert_eq!(journal, entries([0]), "only a holder writes a journal");

    // The answer lies in the inbox until a holder takes it.
    let item = InboxItem {
        question: question.id,
        decision: decision.clone(),
    };
    let resumed = w.claim("t").await.unwrap();
    assert!(resumed.has_journal);
    assert_eq!(resumed.head.failed_attempts, 0, "to wait is no attempt");
    assert_eq!(resumed.inbox, std::slice::from_ref(&item));
    let back = w
        .settle(resumed.reference(), crate::world::hand_back())
        .await;
    back.unwrap();
    let resumed = w.claim("t").await.unwrap();
    assert_eq!(resumed.inbox, [item]);
    let mut commit = Commit::settling(resumed.reference(), Settlement::Continue);
    commit.entries = entries([1]);
    commit.taken = vec![question.id];
    w.ledger.commit(commit).await.unwrap();
    let state = w.ledger.approval(question.id).await.unwrap().state;
    assert_eq!(state, QuestionState::Taken { decision, request });
    w.settle(resumed.reference(), crate::world::hand_back())
        .await
        .unwrap();
    assert!(w.claim("t").await.unwrap().inbox.is_empty());
    w.check().await;
}

pub(crate) async fn a_question_is_decided_once(w: World) {
    let claim = w.claimed().await;
    let first = w.wait(claim).await;
    let request = w.request_id();
    let decided = w.ledger.decide(first, request, accept()).await.unwrap();
    let repeat = w.ledger.decide(first, request, accept()).await.unwrap();
    assert_eq!(repeat, decided);
    let another = async || w.ledger.decide(first, w.request_id(), accept()).await;
    let too_late = another().await;
    let Err(LedgerError::Decided { by, state, .. }) = too_late else {
        panic!("{too_late:?}");
    };
    assert_eq!((by.as_str(), state), ("ann", State::Ready));
    let unknown = w.ledger.decide(w.question().id, request, accept()).await;
    assert!(matches!(unknown, Err(LedgerError::NoApproval(_))));
    let unknown = w.ledger.approval(w.question().id).await;
    assert!(matches!(unknown, Err(LedgerError::NoApproval(_))));

    // Waiting for a second question, the task does not mind the first.
    let second = w.wait(w.claim("t").await.unwrap().reference()).await;
    let repeat = w.ledger.decide(first, request, accept()).await.unwrap();
    assert_eq!(repeat.state, State::Waiting);
    assert!(matches!(another().await, Err(LedgerError::Decided { .. })));
    let changed = colony_core::cycle::Decision {
        by: "somebody else".into(),
        ..accept()
    };
    let changed = w.ledger.decide(first, request, changed).await;
    assert!(matches!(changed, Err(LedgerError::RequestConflict { .. })));
    assert_eq!(open(&w).await, [second]);
    w.ledger
        .decide(second, w.request_id(), accept())
        .await
        .unwrap();
    let claim = w.claim("t").await.unwrap();
    let inbox: Vec<_> = claim.inbox.iter().map(|item| item.question).collect();
    assert_eq!(inbox, [first, second]);
    w.check().await;
}

pub(crate) async fn an_end_closes_the_question(w: World) {
    let claim = w.claimed().await;
    let approval = w.wait(claim).await;
    let cancelled = w.ledger.cancel(claim.task, w.request_id()).await.unwrap();
    assert_eq!(cancelled, State::Waiting);
    assert_eq!(open(&w).await, []);
    let state = w.ledger.approval(approval).await.unwrap().state;
    assert_eq!(state, QuestionState::Closed);
    let late = async || w.ledger.decide(approval, w.request_id(), accept()).await;
    let refused = late().await;
    assert!(matches!(
        refused,
        Err(LedgerError::Closed {
            state: State::Cancelled,
            ..
        })
    ));

    // Revived, the task asks anew; the old question stays closed.
    w.ledger.revive(claim.task, w.request_id()).await.unwrap();
    let refused = late().await;
    assert!(matches!(
        refused,
        Err(LedgerError::Closed {
            state: State::Ready,
            ..
        })
    ));
    let claim = w.claim("t").await.unwrap();
    assert!(claim.inbox.is_empty());
    let anew = w.wait(claim.reference()).await;
    assert_eq!(open(&w).await, [anew]);
    w.check().await;
}

pub(crate) async fn an_answer_survives_the_end_of_its_task(w: World) {
    let claim = w.claimed().await;
    let approval = w.wait(claim).await;
    w.ledger
        .decide(approval, w.request_id(), accept())
        .await
        .unwrap();
    w.ledger.cancel(claim.task, w.request_id()).await.unwrap();
    w.ledger.revive(claim.task, w.request_id()).await.unwrap();
    let claim = w.claim("t").await.unwrap();
    assert_eq!(claim.inbox.len(), 1, "nobody is asked twice");
    w.settle(claim.reference(), done("x")).await.unwrap();
    let all = ApprovalFilter {
        closed_too: true,
        ..ApprovalFilter::default()
    };
    let all = w.ledger.approvals(all).await.unwrap();
    assert_eq!(all.items.len(), 1);
    assert_eq!(all.items[0].state.decision(), Some(&accept()));
    let ending = w.ledger.get(claim.head.id).await.unwrap().head.ending;
    assert!(matches!(ending, Some(Ending::Done(_))));
    w.check().await;
}
