//! Shorthands for the tests: a clock that is set by hand, ids that count up.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use colony_core::{
    cycle::{Decision, Doubt, Output, Percept, Ruling, Teaching},
    id::{ApprovalId, Incarnation, NodeId, TaskId, TypeName},
    journal::{Entry, Note},
    task::{Answer, Ending, Spec, State},
    unit::Timestamp,
};
use colony_store::{
    Claim, ClaimRef, ClaimRequest, Commit, Ledger, LedgerError, NewTask, Question, Submitted, Then,
    property,
};

pub(crate) struct World {
    pub(crate) book: Arc<dyn Ledger>,
    pub(crate) now: Timestamp,
    ids: AtomicU64,
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn kind(name: &str) -> TypeName {
    TypeName::new(name).unwrap()
}

pub(crate) fn spec(agent_type: &str) -> Spec {
    Spec::new(kind(agent_type), "the printer is on fire")
}

pub(crate) fn perceived(sequence: u32, now: Timestamp) -> Entry {
    Entry {
        sequence,
        at: now,
        note: Note::Output(Output::Perceive(Percept {
            text: "printer fire".into(),
            vector: Some(Arc::from([0.25_f32, -0.5])),
        })),
    }
}

pub(crate) fn done(text: &str) -> Then {
    Then::End(Ending::Done(Answer::by_rule(text, "a test")))
}

pub(crate) fn accept() -> Decision {
    Decision {
        ruling: Ruling::Accept,
        teaching: Teaching::Teach,
        by: "ann".into(),
    }
}

pub(crate) fn retry() -> Then {
    Then::Retry {
        reason: "it crashed".into(),
    }
}

impl World {
    pub(crate) fn new(book: Arc<dyn Ledger>) -> Self {
        Self {
            book,
            now: Timestamp::from_micros(1_700_000_000_000_000),
            ids: AtomicU64::new(0),
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn chance(&self) -> [u8; 10] {
        let mut chance = [0; 10];
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        chance[2..].copy_from_slice(&id.to_be_bytes());
        chance
    }

    pub(crate) fn task_id(&self) -> TaskId {
        TaskId::new(self.now, self.chance())
    }

    pub(crate) fn new_task(&self, spec: Spec) -> NewTask {
        NewTask {
            id: self.task_id(),
            spec: Arc::new(spec),
            now: self.now,
        }
    }

    pub(crate) async fn submit(&self, spec: Spec) -> TaskId {
        match self.try_submit(spec).await.unwrap() {
            Submitted::Accepted(id) => id,
            other @ (Submitted::Duplicate(_) | Submitted::Conflict(_)) => {
                panic!("not accepted: {other:?}")
            }
        }
    }

    pub(crate) async fn try_submit(&self, spec: Spec) -> Result<Submitted, LedgerError> {
        let mut answers = self.book.submit(vec![self.new_task(spec)]).await?;
        Ok(answers.pop().unwrap())
    }

    pub(crate) async fn claim_as(
        &self,
        who: &str,
        life: u64,
        wanted: &[(&str, u32)],
    ) -> Vec<Claim> {
        let wanted: BTreeMap<_, _> = wanted.iter().map(|(t, n)| (kind(t), *n)).collect();
        let request = ClaimRequest {
            node: node(who),
            incarnation: Incarnation(life),
            wanted,
            now: self.now,
        };
        self.book.claim(request).await.unwrap()
    }

    pub(crate) async fn claim(&self, agent_type: &str) -> Option<Claim> {
        self.claim_as("n1", 1, &[(agent_type, 1)]).await.pop()
    }

    pub(crate) fn bare(&self, claim: ClaimRef, then: Then) -> Commit {
        Commit {
            claim,
            agent: None,
            entries: vec![],
            outbox: vec![],
            then,
            now: self.now,
        }
    }

    pub(crate) async fn commit(&self, claim: ClaimRef, then: Then) -> Result<(), LedgerError> {
        self.book.commit(self.bare(claim, then)).await
    }

    pub(crate) fn question(&self) -> Question {
        Question {
            id: ApprovalId::new(self.now, self.chance()),
            doubt: Doubt::Risky,
            question: "shall I?".into(),
            proposal: Answer::by_rule("yes", "a test"),
        }
    }

    pub(crate) async fn park(&self, claim: ClaimRef) -> ApprovalId {
        let question = self.question();
        let id = question.id;
        self.commit(claim, Then::Park(Box::new(question)))
            .await
            .unwrap();
        id
    }

    pub(crate) async fn state(&self, task: TaskId) -> State {
        self.book.get(task).await.unwrap().state
    }

    /// Holds what must hold at any moment.
    pub(crate) async fn check(&self) {
        property::conservation(&self.book.counts().await.unwrap()).unwrap();
        let latest = *self.book.latest().borrow();
        let changes = self.book.changes(0, u32::MAX).await.unwrap();
        assert_eq!(changes.last().map_or(0, |c| c.cursor), latest);
        let after = changes.first().map_or(0, |c| c.cursor - 1);
        property::gapless(after, &changes).unwrap();
    }
}
