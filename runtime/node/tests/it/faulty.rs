//! A book that fails now and then, as disks do, and what becomes of tasks meanwhile.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use colony_agents::{Call, Kinds, Manner, PortError, Tool, ToolOutcome, Tools};
use colony_core::{
    cycle::{Decision, Ruling, Teaching},
    id::{ApprovalId, Incarnation, NodeId, TaskId},
    journal::{EffectKey, Entry, Note},
    task::{Record, Spec, State},
    unit::Timestamp,
};
use colony_node::Colony;
use colony_store::{
    Agent, Approval, ApprovalFilter, Change, Claim, ClaimRequest, Commit, Counts, Cursor, Episode,
    Ledger, LedgerError, MemoryLedger, NewTask, OutboxRecord, Policy, Submitted, TaskFilter,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    effects::{Caller, call},
    walk::{agent_type, config, submit, until, world},
};

/// Calls that fail, by their number, counted from 0.
#[derive(Debug, Default)]
struct Faults {
    calls: AtomicUsize,
    failing: BTreeSet<usize>,
}

impl Faults {
    fn at(failing: impl IntoIterator<Item = usize>) -> Self {
        Self {
            failing: failing.into_iter().collect(),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct Faulty {
    book: MemoryLedger,
    commits: Faults,
    journals: Faults,
}

impl Faulty {
    fn fault(&self, faults: &Faults) -> Option<LedgerError> {
        let number = faults.calls.fetch_add(1, Ordering::Relaxed);
        let what = "the disk is away".to_owned();
        faults
            .failing
            .contains(&number)
            .then_some(LedgerError::Storage { what })
    }
}

#[async_trait]
impl Ledger for Faulty {
    async fn begin(&self, node: &NodeId, now: Timestamp) -> Result<Incarnation, LedgerError> {
        self.book.begin(node, now).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.book.submit(tasks).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, LedgerError> {
        self.book.claim(request).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        if let Some(error) = self.fault(&self.commits) {
            return Err(error);
        }
        self.book.commit(commit).await
    }

    async fn decide(
        &self,
        id: ApprovalId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<TaskId, LedgerError> {
        self.book.decide(id, decision, now).await
    }

    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<State, LedgerError> {
        self.book.cancel(task, now).await
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<TaskId>, LedgerError> {
        self.book.expire(now).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        self.book.get(task).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Record>, LedgerError> {
        self.book.list(filter).await
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        if let Some(error) = self.fault(&self.journals) {
            return Err(error);
        }
        self.book.journal(task).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<Approval>, LedgerError> {
        self.book.approvals(filter).await
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        self.book.counts().await
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.book.changes(after, limit).await
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.book.latest()
    }

    async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        self.book.next_due(now).await
    }

    async fn outbox(
        &self,
        queue: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, OutboxRecord)>, LedgerError> {
        self.book.outbox(queue, after, limit).await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.book.learn(episodes).await
    }

    async fn episodes(&self, after: u64, limit: u32) -> Result<Vec<Episode>, LedgerError> {
        self.book.episodes(after, limit).await
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<(), LedgerError> {
        self.book.save_agents(agents).await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.book.agents().await
    }

    async fn save_snapshot(&self, name: &str, body: Vec<u8>) -> Result<(), LedgerError> {
        self.book.save_snapshot(name, body).await
    }

    async fn snapshot(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        self.book.snapshot(name).await
    }

    async fn close(&self) {
        self.book.close().await
    }
}

/// Answers at once; knows whether the intent was durable when it was called.
#[derive(Debug)]
struct Line {
    book: MemoryLedger,
    announced: Mutex<Vec<bool>>,
}

#[async_trait]
impl Tool for Line {
    fn name(&self) -> &'static str {
        "call"
    }

    fn manner(&self) -> Manner {
        Manner::External
    }

    async fn call(
        &self,
        _: &Value,
        key: &EffectKey,
        call: &Call,
    ) -> Result<ToolOutcome, PortError> {
        let journal = self.book.journal(call.task).await.expect("readable");
        let announced = journal
            .iter()
            .any(|entry| matches!(&entry.note, Note::Intent { key: known, .. } if known == key));
        self.announced.lock().expect("no panic").push(announced);
        Ok(ToolOutcome {
            value: Value::Null,
            posts: vec![],
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_leaves_only_when_its_intent_is_durable_and_the_task_ends() {
    let book = MemoryLedger::new(Policy::default());
    // The first commit is the intent's.
    let ledger = Faulty {
        book: book.clone(),
        commits: Faults::at([0, 1, 3]),
        journals: Faults::default(),
    };
    let line = Arc::new(Line {
        book,
        announced: Mutex::default(),
    });
    let mut world = world(Arc::new(ledger));
    world.kinds = Kinds::builtin().with(Arc::new(Caller(vec![call()])));
    world.tools = Tools::builtin().with(Arc::clone(&line) as _);
    let colony = Colony::start(&config(&[("caller", 1)]), world)
        .await
        .expect("starts");
    let rooms = colony.rooms();
    let ids = submit(&rooms, vec![Spec::new(agent_type("caller"), "help")]).await;
    until(&rooms, &ids, &[State::Done]).await;
    assert_eq!(*line.announced.lock().expect("no panic"), [true]);
    assert_eq!(rooms.ledger.get(ids[0]).await.expect("known").deliveries, 0);
    colony.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_journal_cannot_be_read_at_first_is_resumed_all_the_same() {
    let book = MemoryLedger::new(Policy::default());
    let ledger = Faulty {
        book,
        commits: Faults::default(),
        journals: Faults::at([0, 1]),
    };
    let colony = Colony::start(&config(&[("triage", 1)]), world(Arc::new(ledger)))
        .await
        .expect("starts");
    let rooms = colony.rooms();
    let ids = submit(&rooms, vec![Spec::new(agent_type("triage"), "help")]).await;
    until(&rooms, &ids, &[State::Parked]).await;
    let open = rooms
        .ledger
        .approvals(ApprovalFilter {
            limit: 1,
            ..ApprovalFilter::default()
        })
        .await
        .expect("readable");
    let (ruling, teaching) = (Ruling::Correct("it".to_owned()), Teaching::Keep);
    let decision = Decision {
        ruling,
        teaching,
        by: "ann".to_owned(),
    };
    // The ruling makes a new delivery, which begins with the journal of the former one.
    rooms
        .decide(open[0].question.id, decision)
        .await
        .expect("open");
    until(&rooms, &ids, &[State::Done]).await;
    let record = rooms.ledger.get(ids[0]).await.expect("known");
    assert_eq!(record.deliveries, 0);
    let journal = rooms.ledger.journal(ids[0]).await.expect("readable");
    assert!(
        journal
            .iter()
            .zip(0..)
            .all(|(entry, number)| entry.sequence == number),
        "{journal:?}"
    );
    colony.stop().await;
}
