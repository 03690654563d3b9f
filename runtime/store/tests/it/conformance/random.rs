//! Random histories on an engine beside the [`Reference`]: every answer and every head must be the same.
//!
//! Any request may be sent a second time: at once, as a client does that heard no answer, or much later,
//! as a copy does that was under way. Both must leave everything as it is.

use std::time::Duration;

use colony_core::{
    id::{ApprovalId, Incarnation, RequestId, TaskId, Tenant},
    ledger::{Refusal, Select},
    property,
    task::{Priority, State},
};
use colony_store::{
    AttemptCounts, ClaimRef, ClaimRequest, Commit, InboxItem, LedgerError, NewTask, Others, Policy,
    Settlement, TaskFilter,
};
use proptest::prelude::*;

use crate::{
    reference::{No, Reference},
    world::{Opened, World, accept, done, entries, failed, node, queue, spec},
};

const TYPES: [&str; 2] = ["a", "b"];
const TENANTS: [&str; 2] = ["acme", "zoo"];
const NODES: [&str; 2] = ["n1", "n2"];

/// Small numbers, so that limits are met: tasks live and die within one history.
fn policy() -> Policy {
    Policy {
        attempts_max: 3,
        suspect_losses: 2,
        live_max: 40,
        dedupe_ttl: Duration::from_secs(2),
        tenant_weights: [(Tenant::new("zoo").unwrap(), 3)].into(),
        ..Policy::default()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Submit {
    kind: usize,
    tenant: usize,
    priority: u8,
    key: Option<u8>,
    deadline_ms: Option<u64>,
}

/// What a holder wants; `claim` is any that was ever given, old ones too.
#[derive(Debug, Clone)]
pub(crate) struct Settle {
    claim: usize,
    /// How far before the end of the journal its entries begin, and how many there are.
    overlap: u32,
    entries: u32,
    /// Entries of another content than those that are there, or with one missing.
    wrong: bool,
    settlement: u8,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Submit(Vec<Submit>),
    Claim {
        node: usize,
        former: bool,
        free: [u32; 2],
        total: u32,
    },
    Commit(Settle),
    Decide {
        question: usize,
    },
    Cancel {
        task: usize,
    },
    Expire {
        limit: u32,
    },
    Revive {
        task: usize,
    },
    Register {
        node: usize,
        alone: bool,
    },
    Pass {
        ms: u64,
    },
    /// Sends a request of long ago once more.
    Again {
        request: usize,
    },
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any_index = 0..1_000_usize;
    let submit = (
        0..2_usize,
        0..2_usize,
        1..=10_u8,
        prop::option::weighted(0.2, 0..4_u8),
        prop::option::weighted(0.3, 1..2_000_u64),
    )
        .prop_map(|(kind, tenant, priority, key, deadline_ms)| Submit {
            kind,
            tenant,
            priority,
            key,
            deadline_ms,
        });
    let claim = (
        0..2_usize,
        prop::bool::weighted(0.1),
        0..4_u32,
        0..4_u32,
        0..6_u32,
    );
    let settle = (
        any_index.clone(),
        0..3_u32,
        0..3_u32,
        prop::bool::weighted(0.1),
        0..8_u8,
    )
        .prop_map(|(claim, overlap, entries, wrong, settlement)| Settle {
            claim,
            overlap,
            entries,
            wrong,
            settlement,
        });
    let op = prop_oneof![
        4 => prop::collection::vec(submit, 1..4).prop_map(Op::Submit),
        5 => claim.prop_map(|(node, former, a, b, total)| Op::Claim {
            node, former, free: [a, b], total
        }),
        10 => settle.prop_map(Op::Commit),
        3 => any_index.clone().prop_map(|question| Op::Decide { question }),
        1 => any_index.clone().prop_map(|task| Op::Cancel { task }),
        1 => (0..4_u32).prop_map(|limit| Op::Expire { limit }),
        2 => any_index.clone().prop_map(|task| Op::Revive { task }),
        1 => (0..2_usize, prop::bool::weighted(0.2))
            .prop_map(|(node, alone)| Op::Register { node, alone }),
        3 => (1..500_u64).prop_map(|ms| Op::Pass { ms }),
        4 => any_index.prop_map(|request| Op::Again { request }),
    ];
    prop::collection::vec(op, 1..100)
}

/// A request that can be sent again as it is.
#[derive(Debug, Clone)]
enum Request {
    Submit(Vec<NewTask>),
    Claim(ClaimRequest),
    Commit(Box<Commit>),
    Decide(ApprovalId, RequestId),
    Cancel(TaskId, RequestId),
    Revive(TaskId, RequestId),
}

struct Run {
    w: World,
    reference: Reference,
    sent: Vec<Request>,
    /// Claims ever given, with what lay in their inbox.
    claims: Vec<(ClaimRef, Vec<InboxItem>)>,
    questions: Vec<ApprovalId>,
    lives: [u64; 2],
}

/// Runs a history on an engine of its own.
pub(crate) fn run(
    open: fn(Policy, std::sync::Arc<dyn colony_core::port::Clock>) -> Opened,
    ops: Vec<Op>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let w = World::begin(|clock| open(policy(), clock)).await;
        let mut run = Run {
            reference: Reference::new(policy()),
            w,
            sent: vec![],
            claims: vec![],
            questions: vec![],
            lives: [1, 0],
        };
        run.reference.now = run.w.now();
        run.reference.register(&node("n1"), Others::Nodes);
        run.register(1, Others::Nodes).await;
        let mut wakes = run.w.ledger.ready_wakes();
        for op in ops {
            let before = run.reference.wakes;
            run.step(op.clone()).await;
            let woken = wakes.has_changed().unwrap();
            assert_eq!(woken, run.reference.wakes > before, "{op:?}");
            wakes.mark_unchanged();
            run.compare().await;
        }
        run.select_all().await;
        run.compare_all().await;
    });
}

/// An engine's refusal in the words of the reference.
fn no(error: LedgerError) -> No {
    let refused = No::Refused;
    match error {
        LedgerError::NoTask(_) | LedgerError::NoApproval(_) => No::Unknown,
        LedgerError::Full { live, limit } => {
            No::Full(colony_core::ledger::submit::Full { live, limit })
        }
        LedgerError::Lost { task, fence, state } => refused(Refusal::Lost { task, fence, state }),
        LedgerError::Sequence {
            task,
            sequence,
            expected,
        } => refused(Refusal::Sequence {
            task,
            sequence,
            expected,
        }),
        LedgerError::Conflict { task, sequence } => refused(Refusal::Conflict { task, sequence }),
        LedgerError::Ended { task, state } => refused(Refusal::Ended { task, state }),
        LedgerError::RequestConflict { task } => refused(Refusal::RequestConflict { task }),
        LedgerError::NotRevivable { task, state } => refused(Refusal::NotRevivable { task, state }),
        LedgerError::Decided {
            id,
            task,
            state,
            by,
        } => refused(Refusal::Decided {
            id,
            task,
            state,
            by,
        }),
        LedgerError::Closed { id, task, state } => refused(Refusal::Closed { id, task, state }),
        LedgerError::Refused { .. }
        | LedgerError::Busy { .. }
        | LedgerError::OutOfRange { .. }
        | LedgerError::Open { .. }
        | LedgerError::Storage { .. }
        | LedgerError::Unknown { .. }
        | LedgerError::Unreadable { .. }
        | LedgerError::Shut => panic!("{error:?}"),
    }
}

impl Run {
    async fn step(&mut self, op: Op) {
        match op {
            Op::Submit(tasks) => {
                let batch = tasks.iter().map(|task| self.new_task(task)).collect();
                self.first(Request::Submit(batch)).await;
            }
            Op::Claim {
                node,
                former,
                free: [a, b],
                total,
            } => {
                let life = self.lives[node] - u64::from(former);
                let free = [(TYPES[0], a), (TYPES[1], b)];
                let mut request = self.w.request(NODES[node], life, &free);
                request.total = total;
                self.first(Request::Claim(request)).await;
            }
            Op::Commit(settle) => {
                if let Some(commit) = self.commit(&settle) {
                    self.first(Request::Commit(Box::new(commit))).await;
                }
            }
            Op::Decide { question } => {
                if let Some(id) = pick(&self.questions, question) {
                    let request = Request::Decide(id, self.w.request_id());
                    self.first(request).await;
                }
            }
            Op::Cancel { task } => {
                if let Some(id) = self.any_task(task) {
                    self.first(Request::Cancel(id, self.w.request_id())).await;
                }
            }
            Op::Expire { limit } => {
                let expired = self.w.ledger.expire(limit).await.unwrap();
                assert_eq!(expired, self.reference.expire(limit));
            }
            Op::Revive { task } => {
                if let Some(id) = self.any_task(task) {
                    self.first(Request::Revive(id, self.w.request_id())).await;
                }
            }
            Op::Register { node, alone } => {
                let others = if alone { Others::Nobody } else { Others::Nodes };
                self.register(node, others).await;
            }
            Op::Pass { ms } => {
                self.w.pass(Duration::from_millis(ms));
                self.reference.now = self.w.now();
            }
            Op::Again { request } => {
                if let Some(request) = pick(&self.sent, request) {
                    self.send(&request).await;
                }
            }
        }
    }

    fn any_task(&self, task: usize) -> Option<TaskId> {
        let tasks = &self.reference.tasks;
        tasks.keys().nth(task % tasks.len().max(1)).copied()
    }

    fn new_task(&self, submit: &Submit) -> NewTask {
        let mut asked = spec(TYPES[submit.kind]);
        asked.tenant = Tenant::new(TENANTS[submit.tenant]).unwrap();
        asked.priority = Priority::new(submit.priority).unwrap();
        asked.dedupe_key = submit.key.map(|key| format!("key {key}"));
        let deadline = submit.deadline_ms.map(Duration::from_millis);
        asked.deadline = deadline.map(|wait| self.w.now().after(wait));
        self.w.new_task(asked)
    }

    fn commit(&self, settle: &Settle) -> Option<Commit> {
        let (claim, inbox) = pick(&self.claims, settle.claim)?;
        let written = self.reference.tasks[&claim.task].journal.len();
        let first = u32::try_from(written)
            .unwrap()
            .saturating_sub(settle.overlap);
        let settlement = match settle.settlement {
            0..=2 => Settlement::Continue,
            3 => Settlement::Wait(Box::new(self.w.question())),
            4 => done("x"),
            5 => failed("cannot"),
            other => Settlement::Release {
                counts: if other == 6 {
                    AttemptCounts::Not
                } else {
                    AttemptCounts::Failed
                },
                delay: Duration::from_millis(u64::from(settle.entries) * 100),
                reason: "it crashed".into(),
            },
        };
        let mut commit = Commit::settling(claim, settlement);
        commit.entries = entries(first..first + settle.entries);
        if settle.wrong && settle.entries > 0 {
            commit.entries[0].sequence += settle.overlap;
        }
        commit.taken = inbox.iter().map(|item| item.question).collect();
        Some(commit)
    }

    /// Sends a new request, and once more at once: the second is answered alike and does nothing.
    async fn first(&mut self, request: Request) {
        self.send(&request).await;
        let before = self.reference.clone();
        self.send(&request).await;
        assert_eq!(
            self.reference, before,
            "a repeat did something: {request:?}"
        );
        self.sent.push(request);
    }

    /// Sends a request to both.
    async fn send(&mut self, request: &Request) {
        let (ledger, reference) = (&self.w.ledger, &mut self.reference);
        match request {
            Request::Submit(batch) => {
                let submitted = ledger.submit(batch.clone()).await.map_err(no);
                assert_eq!(submitted, reference.submit(batch));
            }
            Request::Claim(request) => {
                let claimed = ledger.claim(request.clone()).await.unwrap();
                assert_eq!(claimed, reference.claim(request));
                let claims = claimed.claims.into_iter();
                self.claims
                    .extend(claims.map(|claim| (claim.reference(), claim.inbox)));
            }
            Request::Commit(commit) => {
                let committed = ledger.commit((**commit).clone()).await.map_err(no);
                let state = committed.map(|committed| committed.state.unwrap());
                assert_eq!(state, reference.commit(commit));
                if let Settlement::Wait(question) = &commit.settlement
                    && reference.questions.contains_key(&question.id)
                {
                    self.questions.push(question.id);
                }
            }
            Request::Decide(id, request) => {
                let decided = ledger.decide(*id, *request, accept()).await.map_err(no);
                assert_eq!(decided, reference.decide(*id, *request, &accept()));
            }
            Request::Cancel(id, request) => {
                let cancelled = ledger.cancel(*id, *request).await.map_err(no);
                assert_eq!(cancelled, reference.cancel(*id, *request));
            }
            Request::Revive(id, request) => {
                let revived = ledger.revive(*id, *request).await.map_err(no);
                assert_eq!(revived, reference.revive(*id, *request));
            }
        }
    }

    async fn register(&mut self, name: usize, others: Others) {
        self.lives[name] += 1;
        let name = node(NODES[name]);
        let registered = self.w.ledger.register(&name, others).await.unwrap();
        assert_eq!(registered, self.reference.register(&name, others));
    }

    /// Every head as the rules left it, and the counts.
    async fn compare(&self) {
        let counts = self.w.ledger.counts().await.unwrap();
        property::conserved(self.reference.tasks.len() as u64, &counts.by_state).unwrap();
        let listed = self.w.ledger.list(TaskFilter::default()).await.unwrap();
        assert!(!listed.more);
        let heads = listed.items.iter().map(|record| &record.head);
        let expected = self.reference.tasks.values().rev().map(|task| &task.head);
        assert!(heads.eq(expected), "other heads than the reference has");
        assert_eq!(
            *self.w.ledger.latest().borrow(),
            self.reference.changes.len() as u64
        );
    }

    /// Each selection as the engine's verbs make it, against a full scan with its definition.
    async fn select_all(&mut self) {
        let all = u32::MAX;
        self.w.pass(Duration::from_secs(1));
        self.reference.now = self.w.now();
        let expired = self.reference.select(Select::Expired);
        let (few, rest) = expired.split_at(expired.len().min(2));
        assert_eq!(self.w.ledger.expire(2).await.unwrap(), few);
        assert_eq!(self.w.ledger.expire(all).await.unwrap(), rest);
        self.reference.expire(all);

        // Due and Claimable: what a claim of everything takes.
        let life = self.lives[0];
        let request = self
            .w
            .request(NODES[0], life, &[("a", all / 2), ("b", all / 2)]);
        let ready = self
            .reference
            .tasks
            .values()
            .filter(|t| t.head.state == State::Ready);
        let ready = ready.filter(|t| t.head.not_before.is_none_or(|due| due <= self.w.now()));
        let ready = ready.count();
        self.first(Request::Claim(request.clone())).await;
        let taken = self.reference.select(Select::HeldIn {
            node: &request.node,
            incarnation: Incarnation(life),
            batch: request.batch,
        });
        assert_eq!(
            taken.len(),
            ready,
            "all that is due and claimable, whatever its queue"
        );
        for name in TYPES {
            for tenant in TENANTS {
                let tenant = Tenant::new(tenant).unwrap();
                let queue = queue(name);
                let select = Select::Claimable {
                    tenant: &tenant,
                    queue: &queue,
                };
                assert!(self.reference.select(select).is_empty());
            }
        }

        // HeldBefore, then HeldByOthers.
        self.register(1, Others::Nodes).await;
        self.register(1, Others::Nobody).await;
        assert!(
            self.reference
                .tasks
                .values()
                .all(|task| task.head.holder.is_none())
        );
        self.compare().await;
    }

    /// Task by task, and the stream of changes folded from its beginning.
    async fn compare_all(&self) {
        self.w.check().await;
        let changes = self.w.ledger.changes(0, u32::MAX).await.unwrap();
        let told: Vec<_> = changes
            .iter()
            .map(|change| (change.task, change.state))
            .collect();
        assert_eq!(told, self.reference.changes);
        for (id, task) in &self.reference.tasks {
            let record = self.w.ledger.get(*id).await.unwrap();
            assert_eq!((&record.head, &record.spec), (&task.head, &task.spec));
            let journal = self.w.ledger.journal(*id).await.unwrap();
            property::gapless(&journal).unwrap();
            assert_eq!(journal, task.journal);
            let seen: Vec<_> = told
                .iter()
                .filter(|(t, _)| t == id)
                .map(|(_, s)| *s)
                .collect();
            property::ends_once(&seen).unwrap();
        }
        for (id, asking) in &self.reference.questions {
            let approval = self.w.ledger.approval(*id).await.unwrap();
            assert_eq!(approval.question, asking.question);
            assert_eq!(
                (approval.task, approval.state),
                (asking.task, asking.state.clone())
            );
        }
    }
}

fn pick<T: Clone>(from: &[T], index: usize) -> Option<T> {
    from.get(index % from.len().max(1)).cloned()
}
