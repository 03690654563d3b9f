//! A ledger that fails now and then, as disks do, and what becomes of tasks meanwhile.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use colony_agents::{CallContext, EffectKind, Kinds, PortError, Tool, ToolOutcome, Tools};
use colony_core::{
    cycle::{Decision, DecisionKind, Teaching},
    id::{AgentId, ApprovalId, NodeId, RequestId, TaskId},
    journal::{EffectKey, Entry, Note},
    task::{Spec, State},
    unit::Timestamp,
};
use colony_node::{Health as NodeHealth, Node, Problem};
use colony_store::{
    Agent, Approval, ApprovalFilter, Change, ClaimRequest, Claimed, Commit, Committed, Counts,
    Cursor, Decided, Episode, EpisodeChange, EpisodeStream, Health, Ledger, LedgerError,
    MemoryLedger, MessageId, NewTask, Others, OutboxFilter, Page, Policy, Posted, Record,
    Registered, Snapshot, SnapshotKey, Submitted, TaskFilter, Verification,
};
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    effects::{Caller, call},
    walk::{agent_type, clock, config, dependencies, request, submit, until},
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
pub(crate) struct Faulty {
    inner: MemoryLedger,
    claims: Faults,
    commits: Faults,
    journals: Faults,
    health: watch::Sender<Health>,
    /// Whether writes hang, as with a disk that is away.
    hangs: watch::Sender<bool>,
    /// Whether so much hangs that the next one is refused.
    full: AtomicBool,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryLedger::new(Policy::default(), clock()),
            claims: Faults::default(),
            commits: Faults::default(),
            journals: Faults::default(),
            health: watch::Sender::default(),
            hangs: watch::Sender::default(),
            full: AtomicBool::default(),
        }
    }

    /// Stops for good.
    pub(crate) fn fail(&self, why: &str) {
        self.health.send_replace(Health::Failed(why.to_owned()));
    }

    /// Whether its queue is full from now on.
    pub(crate) fn fill(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Whether its writes hang from now on.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    async fn moving(&self) {
        let mut hangs = self.hangs.subscribe();
        hangs.wait_for(|hangs| !hangs).await.expect("it lives");
    }

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
    fn id(&self) -> Uuid {
        self.inner.id()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn ready_wakes(&self) -> watch::Receiver<u64> {
        self.inner.ready_wakes()
    }

    fn latest(&self) -> watch::Receiver<Cursor> {
        self.inner.latest()
    }

    fn posted(&self) -> watch::Receiver<u64> {
        self.inner.posted()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    async fn register(&self, node: &NodeId, others: Others) -> Result<Registered, LedgerError> {
        self.inner.register(node, others).await
    }

    async fn submit(&self, tasks: Vec<NewTask>) -> Result<Vec<Submitted>, LedgerError> {
        self.moving().await;
        self.inner.submit(tasks).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, LedgerError> {
        if let Some(error) = self.fault(&self.claims) {
            return Err(error);
        }
        self.inner.claim(request).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, LedgerError> {
        if let Some(error) = self.fault(&self.commits) {
            return Err(error);
        }
        self.inner.commit(commit).await
    }

    async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, LedgerError> {
        self.inner.decide(id, request, decision).await
    }

    async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.inner.cancel(task, request).await
    }

    async fn expire(&self, limit: u32) -> Result<Vec<TaskId>, LedgerError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(LedgerError::Busy { waiting: 4_096 });
        }
        self.moving().await;
        self.inner.expire(limit).await
    }

    async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, LedgerError> {
        self.inner.revive(task, request).await
    }

    async fn get(&self, task: TaskId) -> Result<Record, LedgerError> {
        self.inner.get(task).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Page<Record>, LedgerError> {
        self.inner.list(filter).await
    }

    async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, LedgerError> {
        if let Some(error) = self.fault(&self.journals) {
            return Err(error);
        }
        self.inner.journal(task).await
    }

    async fn approval(&self, id: ApprovalId) -> Result<Approval, LedgerError> {
        self.inner.approval(id).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, LedgerError> {
        self.inner.approvals(filter).await
    }

    async fn counts(&self) -> Result<Counts, LedgerError> {
        self.inner.counts().await
    }

    async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.inner.changes(after, limit).await
    }

    async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, LedgerError> {
        self.inner.outbox(filter).await
    }

    async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, LedgerError> {
        self.inner.acknowledge(messages).await
    }

    async fn learn(&self, episodes: Vec<Episode>) -> Result<Vec<u64>, LedgerError> {
        self.inner.learn(episodes).await
    }

    async fn episode_streams(&self) -> Result<Vec<EpisodeStream>, LedgerError> {
        self.inner.episode_streams().await
    }

    async fn episodes(
        &self,
        stream: &EpisodeStream,
        after: u64,
        limit: u32,
    ) -> Result<Page<EpisodeChange>, LedgerError> {
        self.inner.episodes(stream, after, limit).await
    }

    async fn episodes_floor(&self, stream: &EpisodeStream, live: u32) -> Result<u64, LedgerError> {
        self.inner.episodes_floor(stream, live).await
    }

    async fn save_agents(&self, agents: Vec<Agent>) -> Result<Vec<AgentId>, LedgerError> {
        self.inner.save_agents(agents).await
    }

    async fn agents(&self) -> Result<Vec<Agent>, LedgerError> {
        self.inner.agents().await
    }

    async fn save_snapshot(&self, key: SnapshotKey, snapshot: Snapshot) -> Result<(), LedgerError> {
        self.inner.save_snapshot(key, snapshot).await
    }

    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>, LedgerError> {
        self.inner.snapshot(key).await
    }

    async fn verify(&self) -> Result<Verification, LedgerError> {
        self.inner.verify().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Answers at once; knows whether the intent was durable when it was called.
#[derive(Debug)]
struct Line {
    inner: MemoryLedger,
    announced: Mutex<Vec<bool>>,
}

#[async_trait]
impl Tool for Line {
    fn name(&self) -> &'static str {
        "call"
    }

    fn effect_kind(&self) -> EffectKind {
        EffectKind::AtLeastOnce
    }

    async fn call(
        &self,
        _: &Value,
        key: &EffectKey,
        call: &CallContext,
    ) -> Result<ToolOutcome, PortError> {
        let journal = self.inner.journal(call.task).await.expect("readable");
        let announced = journal
            .iter()
            .any(|entry| matches!(&entry.note, Note::Intent { key: known, .. } if known == key));
        self.announced.lock().expect("no panic").push(announced);
        Ok(ToolOutcome {
            value: Value::Null,
            messages: vec![],
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_leaves_only_when_its_intent_is_durable_and_the_task_ends() {
    // The first commit is the intent's.
    let ledger = Faulty {
        commits: Faults::at([0, 1, 3]),
        ..Faulty::new()
    };
    let inner = ledger.inner.clone();
    let line = Arc::new(Line {
        inner,
        announced: Mutex::default(),
    });
    let mut dependencies = dependencies(Arc::new(ledger));
    dependencies.kinds = Kinds::builtin().with(Arc::new(Caller(vec![call()])));
    dependencies.tools = Tools::builtin().with(Arc::clone(&line) as _);
    let node = Node::start(&config(&[("caller", 1)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("caller"), "help")]).await;
    until(&handle, &ids, &[State::Done]).await;
    assert_eq!(*line.announced.lock().expect("no panic"), [true]);
    assert_eq!(
        handle
            .task(ids[0])
            .await
            .expect("known")
            .head
            .failed_attempts,
        0
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_journal_cannot_be_read_at_first_is_resumed_all_the_same() {
    let ledger = Faulty {
        journals: Faults::at([0, 1]),
        ..Faulty::new()
    };
    let node = Node::start(&config(&[("triage", 1)]), dependencies(Arc::new(ledger)))
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("triage"), "help")]).await;
    until(&handle, &ids, &[State::Waiting]).await;
    let open = handle
        .approvals(ApprovalFilter {
            limit: 1,
            ..ApprovalFilter::default()
        })
        .await
        .expect("readable");
    let (kind, teaching) = (DecisionKind::Correct("it".to_owned()), Teaching::Keep);
    let decision = Decision {
        kind,
        teaching,
        by: "ann".to_owned(),
    };
    // The decision makes a new delivery, which begins with the journal of the former one.
    handle
        .decide(open.items[0].question.id, request(), decision)
        .await
        .expect("open");
    until(&handle, &ids, &[State::Done]).await;
    let record = handle.task(ids[0]).await.expect("known");
    assert_eq!(record.head.failed_attempts, 0);
    let journal = handle.journal(ids[0]).await.expect("readable");
    assert!(
        journal
            .iter()
            .zip(0..)
            .all(|(entry, number)| entry.sequence == number),
        "{journal:?}"
    );
    node.stop().await;
}

/// C3: the retry of a claim that failed was forgotten, and the task waited for somebody else's call.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_fails_is_made_again() {
    let ledger = Faulty {
        claims: Faults::at(0..5),
        ..Faulty::new()
    };
    let mut config = config(&[("echo", 1)]);
    config.market.recheck_every = std::time::Duration::ZERO;
    let node = Node::start(&config, dependencies(Arc::new(ledger)))
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("echo"), "help")]).await;
    until(&handle, &ids, &[State::Done]).await;
    node.stop().await;
}

/// A node with one agent on a ledger that the test holds on to.
async fn started(ledger: &Arc<Faulty>) -> Node {
    let config = config(&[("echo", 1)]);
    let started = Node::start(&config, dependencies(Arc::clone(ledger) as _)).await;
    started.expect("starts")
}

/// C15: a node whose ledger is gone said that it was ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_ledger_has_failed_takes_no_more_work_and_says_why() {
    let ledger = Arc::new(Faulty::new());
    let node = started(&ledger).await;
    let handle = node.handle();
    assert!(handle.is_ready());
    ledger.fail("fsync failed");
    let reason = node.failed().await;
    assert_eq!(reason, "the ledger: fsync failed");
    assert!(matches!(&*handle.health().borrow(), NodeHealth::Failed(r) if *r == reason));
    let spec = Spec::new(agent_type("echo"), "help");
    let refused = handle.submit(vec![spec.into()], None).await;
    assert!(
        matches!(refused, Err(Problem::Failed { .. })),
        "{refused:?}"
    );
    node.stop().await;
}

/// A disk that hangs is not one that has failed: the node says that it waits, and goes on when it can.
#[tokio::test(start_paused = true)]
async fn a_node_whose_ledger_hangs_says_so_until_it_answers() {
    let ledger = Arc::new(Faulty::new());
    let node = started(&ledger).await;
    let handle = node.handle();
    let mut health = handle.health();
    ledger.hang(true);
    let stalled = health.wait_for(|health| matches!(health, NodeHealth::Stalled(_)));
    let reason = "the ledger has not answered for 10 s".to_owned();
    assert_eq!(
        *stalled.await.expect("it lives"),
        NodeHealth::Stalled(reason)
    );
    assert!(!handle.is_ready());
    // What is asked of it meanwhile is done when it can be.
    let specs = vec![Spec::new(agent_type("echo"), "help")];
    let (ids, ()) = tokio::join!(submit(&handle, specs), async { ledger.hang(false) });
    let serving = health.wait_for(|health| *health == NodeHealth::Serving);
    serving.await.expect("it lives");
    until(&handle, &ids, &[State::Done]).await;
    // A queue that is full answers at once, and says nothing of the disk.
    ledger.fill(true);
    let stalled = health.wait_for(|health| matches!(health, NodeHealth::Stalled(_)));
    stalled.await.expect("it lives");
    ledger.fill(false);
    let serving = health.wait_for(|health| *health == NodeHealth::Serving);
    serving.await.expect("it lives");
    // Nor does a stall keep a node from being stopped.
    ledger.hang(true);
    let stalled = health.wait_for(|health| matches!(health, NodeHealth::Stalled(_)));
    stalled.await.expect("it lives");
    node.draining().await;
    assert_eq!(*health.borrow(), NodeHealth::Draining);
    ledger.hang(false);
    node.stop().await;
}

/// A stop on a full disk was said to be a clean one, though the task in hand stayed claimed.
#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_give_everything_back_is_no_clean_one() {
    let ledger = Faulty {
        commits: Faults::at(0..100_000),
        ..Faulty::new()
    };
    let node = Node::start(&config(&[("echo", 1)]), dependencies(Arc::new(ledger)))
        .await
        .expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("echo"), "help")]).await;
    until(&handle, &ids, &[State::Claimed]).await;
    assert!(!node.stop().await, "the task is claimed still");
}
