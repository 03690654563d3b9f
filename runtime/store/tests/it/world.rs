//! Shorthands for the tests: a clock that is set by hand, ids that count up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use colony_core::{
    cycle::{Decision, DecisionKind, EscalationReason, Neighbour, Output, Percept, Teaching},
    escalation::{Evidence, Finding},
    id::{AgentId, ApprovalId, Incarnation, NodeId, QueueName, RequestId, TaskId, TypeName},
    journal::{Entry, Note},
    memory::Candidate,
    port::Clock,
    task::{Answer, Ending, Spec, State},
    unit::Timestamp,
};
use colony_store::{
    AttemptCounts, Claim, ClaimRef, ClaimRequest, Claimed, Commit, Committed, Ledger, LedgerError,
    NewTask, Others, OutboxFilter, Posted, Question, Settlement, Submitted, property,
};
use tempfile::TempDir;

/// The clock port, set by hand.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now.as_micros())))
    }

    pub(crate) fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// When a world begins.
pub(crate) const DAWN: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A ledger, and the folder that must outlive it.
pub(crate) type Opened = (Arc<dyn Ledger>, Option<TempDir>);

/// A ledger with a clock and one registered node, `n1`.
pub(crate) struct World {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<HandClock>,
    drawn: AtomicU64,
    batches: AtomicU64,
    _folder: Option<TempDir>,
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn kind(name: &str) -> TypeName {
    TypeName::new(name).unwrap()
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(crate) fn agent(name: &str, ordinal: u32) -> AgentId {
    AgentId {
        agent_type: kind(name),
        ordinal,
    }
}

pub(crate) fn spec(agent_type: &str) -> Spec {
    Spec::new(kind(agent_type), "the printer is on fire")
}

pub(crate) fn perceived(sequence: u32, text: &str) -> Entry {
    Entry {
        sequence,
        at: DAWN,
        note: Note::Output(Output::Perceive(Percept {
            text: text.into(),
            vector: Some(Arc::from([0.25_f32, -0.5])),
        })),
    }
}

pub(crate) fn entries(sequences: impl IntoIterator<Item = u32>) -> Vec<Entry> {
    let numbered = |sequence| perceived(sequence, &format!("entry {sequence}"));
    sequences.into_iter().map(numbered).collect()
}

pub(crate) fn done(text: &str) -> Settlement {
    Settlement::End(Ending::Done(Answer::by_rule(text, "a test")))
}

pub(crate) fn failed(reason: &str) -> Settlement {
    let reason = reason.into();
    Settlement::End(Ending::Failed { reason })
}

/// The attempt failed.
pub(crate) fn give_up() -> Settlement {
    Settlement::Release {
        counts: AttemptCounts::Failed,
        delay: Duration::ZERO,
        reason: "it crashed".into(),
    }
}

/// Something was in the way.
pub(crate) fn hand_back() -> Settlement {
    Settlement::Release {
        counts: AttemptCounts::Not,
        delay: Duration::ZERO,
        reason: "the node stops".into(),
    }
}

pub(crate) fn accept() -> Decision {
    Decision {
        kind: DecisionKind::Accept,
        teaching: Teaching::Teach,
        by: "ann".into(),
    }
}

impl World {
    /// A world around a new ledger.
    pub(crate) async fn begin(open: impl FnOnce(Arc<dyn Clock>) -> Opened) -> Self {
        let clock = HandClock::at(DAWN);
        let world = Self::around(open(clock.clone()), clock);
        assert_eq!(world.register("n1").await, Incarnation(1));
        world
    }

    /// A world around a ledger whose clock is set by hand.
    pub(crate) fn around((ledger, folder): Opened, clock: Arc<HandClock>) -> Self {
        Self {
            ledger,
            clock,
            drawn: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            _folder: folder,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    fn draw<const N: usize>(&self) -> [u8; N] {
        let mut random = [0; N];
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        random[N - 8..].copy_from_slice(&number.to_be_bytes());
        random
    }

    pub(crate) fn task_id(&self) -> TaskId {
        TaskId::new(self.now(), self.draw())
    }

    pub(crate) fn request_id(&self) -> RequestId {
        RequestId::new(self.draw())
    }

    pub(crate) fn new_task(&self, spec: Spec) -> NewTask {
        NewTask {
            id: self.task_id(),
            spec: Arc::new(spec),
            refusal: None,
        }
    }

    pub(crate) async fn register(&self, name: &str) -> Incarnation {
        let registered = self.ledger.register(&node(name), Others::Nodes).await;
        registered.unwrap().incarnation
    }

    pub(crate) async fn submit(&self, spec: Spec) -> TaskId {
        match self.try_submit(spec).await.unwrap() {
            Submitted::Accepted(id) => id,
            other @ (Submitted::Duplicate { .. } | Submitted::Conflict { .. }) => {
                panic!("not accepted: {other:?}")
            }
        }
    }

    pub(crate) async fn try_submit(&self, spec: Spec) -> Result<Submitted, LedgerError> {
        let mut answers = self.ledger.submit(vec![self.new_task(spec)]).await?;
        Ok(answers.pop().unwrap())
    }

    /// A new claim request for all that is free.
    pub(crate) fn request(&self, who: &str, life: u64, free: &[(&str, u32)]) -> ClaimRequest {
        let free: BTreeMap<_, _> = free.iter().map(|(name, n)| (queue(name), *n)).collect();
        ClaimRequest {
            node: node(who),
            incarnation: Incarnation(life),
            batch: self.batches.fetch_add(1, Ordering::Relaxed) + 1,
            total: free.values().sum(),
            free,
        }
    }

    pub(crate) async fn ask(&self, who: &str, life: u64, free: &[(&str, u32)]) -> Claimed {
        let request = self.request(who, life, free);
        self.ledger.claim(request).await.unwrap()
    }

    pub(crate) async fn claim_all(&self, free: &[(&str, u32)]) -> Vec<Claim> {
        self.ask("n1", 1, free).await.claims
    }

    pub(crate) async fn claim(&self, queue: &str) -> Option<Claim> {
        self.claim_all(&[(queue, 1)]).await.pop()
    }

    /// Submits a task and claims it.
    pub(crate) async fn claimed(&self) -> ClaimRef {
        let id = self.submit(spec("t")).await;
        let claim = self.claim("t").await.unwrap();
        assert_eq!(claim.head.id, id);
        claim.reference()
    }

    pub(crate) async fn settle(
        &self,
        claim: ClaimRef,
        settlement: Settlement,
    ) -> Result<Committed, LedgerError> {
        let commit = Commit::settling(claim, settlement);
        self.ledger.commit(commit).await
    }

    /// Appends entries that are made of their numbers.
    pub(crate) async fn append(
        &self,
        claim: ClaimRef,
        sequences: impl IntoIterator<Item = u32>,
    ) -> Result<Committed, LedgerError> {
        self.ledger.commit(appending(claim, sequences)).await
    }

    pub(crate) fn question(&self) -> Question {
        Question {
            id: ApprovalId::new(self.now(), self.draw()),
            escalation_reason: EscalationReason::Risky,
            question: "shall I?".into(),
            proposal: Answer::by_rule("yes", "a test"),
            evidence: Evidence {
                findings: vec![Finding {
                    why: "it burns".into(),
                    words: "on fire".into(),
                }],
                candidates: vec![Candidate {
                    label: "printing".into(),
                    share: 0.75,
                }],
                neighbours: vec![Neighbour {
                    episode: 3,
                    label: "printing".into(),
                    similarity: 0.5,
                    text: "the printer smokes".into(),
                }],
            },
        }
    }

    /// Lets the task wait for a human.
    pub(crate) async fn wait(&self, claim: ClaimRef) -> ApprovalId {
        let question = self.question();
        let id = question.id;
        self.settle(claim, Settlement::Wait(Box::new(question)))
            .await
            .unwrap();
        id
    }

    /// All messages to a destination after a number, acknowledged or not.
    pub(crate) async fn outbox(&self, destination: &str, after: u64) -> Vec<Posted> {
        let filter = OutboxFilter {
            destination: Some(destination.to_owned()),
            acknowledged_too: true,
            after,
            limit: 0,
        };
        let page = self.ledger.outbox(filter).await.unwrap();
        assert!(!page.more);
        page.items
    }

    pub(crate) async fn state(&self, task: TaskId) -> State {
        self.ledger.get(task).await.unwrap().head.state
    }

    /// Holds what must hold at any moment.
    pub(crate) async fn check(&self) {
        property::conservation(&self.ledger.counts().await.unwrap()).unwrap();
        let latest = *self.ledger.latest().borrow();
        let changes = self.ledger.changes(0, u32::MAX).await.unwrap();
        assert_eq!(changes.last().map_or(0, |c| c.cursor), latest);
        property::gapless(0, &changes).unwrap();
        let verified = self.ledger.verify().await.unwrap();
        assert!(verified.is_whole(), "{verified:?}");
    }
}

/// A commit that appends entries that are made of their numbers.
pub(crate) fn appending(claim: ClaimRef, sequences: impl IntoIterator<Item = u32>) -> Commit {
    let mut commit = Commit::settling(claim, Settlement::Continue);
    commit.entries = entries(sequences);
    commit
}
