//! Random operations on an engine beside a model that is too simple to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use colony_core::{
    id::{ApprovalId, Incarnation, TaskId},
    task::{Ending, Priority, State},
    unit::Timestamp,
};
use colony_store::{
    ClaimRef, Ledger, LedgerError, MemoryLedger, Policy, SqliteLedger, Submitted, Then,
};
use proptest::prelude::*;

use crate::world::{World, accept, done, node, perceived, retry, spec};

const TYPES: [&str; 2] = ["a", "b"];
const NODES: [&str; 2] = ["n1", "n2"];

#[derive(Debug, Clone)]
enum Op {
    Submit {
        kind: usize,
        priority: u8,
        key: Option<u8>,
        deadline_ms: Option<u64>,
    },
    Claim {
        node: usize,
        former: bool,
        a: u32,
        b: u32,
    },
    /// On any claim that was ever given, old ones too.
    Commit {
        claim: usize,
        entry: bool,
        then: u8,
    },
    Decide {
        question: usize,
    },
    Cancel {
        task: usize,
    },
    Expire,
    Begin {
        node: usize,
    },
    Pass {
        ms: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any_index = 0..1_000_usize;
    let op = prop_oneof![
        4 => (0..2_usize, 1..=10_u8, prop::option::weighted(0.2, 0..4_u8),
              prop::option::weighted(0.2, 1..2_000_u64))
            .prop_map(|(kind, priority, key, deadline_ms)| Op::Submit {
                kind, priority, key, deadline_ms
            }),
        4 => (0..2_usize, prop::bool::weighted(0.1), 0..3_u32, 0..3_u32)
            .prop_map(|(node, former, a, b)| Op::Claim { node, former, a, b }),
        6 => (any_index.clone(), any::<bool>(), 0..6_u8)
            .prop_map(|(claim, entry, then)| Op::Commit { claim, entry, then }),
        2 => any_index.clone().prop_map(|question| Op::Decide { question }),
        1 => any_index.prop_map(|task| Op::Cancel { task }),
        1 => Just(Op::Expire),
        1 => (0..2_usize).prop_map(|node| Op::Begin { node }),
        2 => (1..500_u64).prop_map(|ms| Op::Pass { ms }),
    ];
    prop::collection::vec(op, 1..120)
}

#[derive(Debug)]
struct Task {
    kind: usize,
    sort: (i64, TaskId),
    deadline: Option<Timestamp>,
    state: State,
    fence: u64,
    deliveries: u32,
    due: Timestamp,
    entries: u32,
    holder: Option<(usize, u64)>,
    question: Option<ApprovalId>,
}

struct Model {
    w: World,
    tasks: BTreeMap<TaskId, Task>,
    keys: BTreeMap<u8, (TaskId, usize, u8)>,
    claims: Vec<ClaimRef>,
    questions: Vec<(ApprovalId, TaskId)>,
    lives: [u64; 2],
    states: BTreeSet<State>,
}

impl Model {
    async fn run(book: Arc<dyn Ledger>, ops: Vec<Op>) {
        let mut model = Self {
            w: World::new(book),
            tasks: BTreeMap::new(),
            keys: BTreeMap::new(),
            claims: vec![],
            questions: vec![],
            lives: [0; 2],
            states: State::ALL.into(),
        };
        for name in 0..2 {
            model.begin(name).await;
        }
        for op in ops {
            model.step(op).await;
            model.compare().await;
        }
        model.compare_all().await;
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Submit {
                kind,
                priority,
                key,
                deadline_ms,
            } => self.submit(kind, priority, key, deadline_ms).await,
            Op::Claim { node, former, a, b } => self.claim(node, former, [a, b]).await,
            Op::Commit { claim, entry, then } => self.commit(claim, entry, then).await,
            Op::Decide { question } => self.decide(question).await,
            Op::Cancel { task } => self.cancel(task).await,
            Op::Expire => self.expire().await,
            Op::Begin { node } => self.begin(node).await,
            Op::Pass { ms } => self.w.pass(Duration::from_millis(ms)),
        }
    }

    async fn submit(&mut self, kind: usize, priority: u8, key: Option<u8>, deadline: Option<u64>) {
        let mut asked = spec(TYPES[kind]);
        asked.priority = Priority::new(priority).unwrap();
        asked.dedupe_key = key.map(|k| format!("key {k}"));
        asked.deadline = deadline.map(|ms| self.w.now.after(Duration::from_millis(ms)));
        let deadline = asked.deadline;
        let answer = self.w.try_submit(asked).await.unwrap();
        if let Some((id, old_kind, old_priority)) = key.and_then(|k| self.keys.get(&k)) {
            let same = (*old_kind, *old_priority) == (kind, priority);
            let expected = if same {
                Submitted::Duplicate(*id)
            } else {
                Submitted::Conflict(*id)
            };
            assert_eq!(answer, expected);
            return;
        }
        let Submitted::Accepted(id) = answer else {
            panic!("{answer:?} for a new task");
        };
        if let Some(key) = key {
            self.keys.insert(key, (id, kind, priority));
        }
        let ahead = i64::from(priority) * 60_000_000;
        let task = Task {
            kind,
            sort: (i64::try_from(self.w.now.as_micros()).unwrap() - ahead, id),
            deadline,
            state: State::Ready,
            fence: 0,
            deliveries: 0,
            due: self.w.now,
            entries: 0,
            holder: None,
            question: None,
        };
        assert!(self.tasks.insert(id, task).is_none());
    }

    async fn claim(&mut self, node: usize, former: bool, wanted: [u32; 2]) {
        let life = self.lives[node] - u64::from(former);
        let asked = [(TYPES[0], wanted[0]), (TYPES[1], wanted[1])];
        let claims = self.w.claim_as(NODES[node], life, &asked).await;
        let mut expected = Vec::new();
        for (kind, wanted) in wanted.into_iter().enumerate() {
            let now = self.w.now;
            let mut ready: Vec<_> = self
                .tasks
                .values()
                .filter(|t| t.kind == kind && t.state == State::Ready && t.due <= now)
                .filter(|t| t.deadline.is_none_or(|d| d > now))
                .map(|t| t.sort)
                .collect();
            ready.sort_unstable();
            ready.truncate(if former { 0 } else { wanted as usize });
            expected.extend(ready.into_iter().map(|(_, id)| id));
        }
        let got: Vec<_> = claims.iter().map(|c| c.reference.task).collect();
        assert_eq!(got, expected);
        for claim in claims {
            let task = self.tasks.get_mut(&claim.reference.task).unwrap();
            task.state = State::Claimed;
            task.fence += 1;
            task.holder = Some((node, life));
            assert_eq!(claim.reference.fence.0, task.fence);
            assert_eq!(claim.deliveries, task.deliveries);
            assert_eq!(claim.has_journal, task.entries > 0);
            self.claims.push(claim.reference);
        }
    }

    async fn commit(&mut self, claim: usize, entry: bool, then: u8) {
        if self.claims.is_empty() {
            return;
        }
        let claim = self.claims[claim % self.claims.len()];
        let question = self.w.question();
        let asked = question.id;
        let then = match then {
            0 => Then::Continue,
            1 => Then::HandBack,
            2 => retry(),
            3 => Then::Park(Box::new(question)),
            4 => Then::End(Ending::Failed {
                reason: "no".into(),
            }),
            _ => done("yes"),
        };
        let now = self.w.now;
        let task = self.tasks.get_mut(&claim.task).unwrap();
        let mut commit = self.w.bare(claim, then.clone());
        if entry {
            commit.entries = vec![perceived(task.entries, now)];
        }
        let answer = self.w.book.commit(commit).await;
        if task.state != State::Claimed || task.fence != claim.fence.0 {
            let Err(LedgerError::Lost { state, .. }) = answer else {
                panic!("{answer:?} for a lost claim");
            };
            assert_eq!(state, task.state);
            return;
        }
        answer.unwrap();
        task.entries += u32::from(entry);
        match then {
            Then::Continue => {}
            Then::HandBack => task.leave(State::Ready),
            Then::Retry { .. } => task.lose(now),
            Then::Park(_) => {
                task.leave(State::Parked);
                task.question = Some(asked);
                self.questions.push((asked, claim.task));
            }
            Then::End(Ending::Done(_)) => task.leave(State::Done),
            Then::End(Ending::Failed { .. }) => task.leave(State::Failed),
        }
    }

    async fn decide(&mut self, question: usize) {
        if self.questions.is_empty() {
            return;
        }
        let (id, task_id) = self.questions[question % self.questions.len()];
        let answer = self.w.book.decide(id, accept(), self.w.now).await;
        let task = self.tasks.get_mut(&task_id).unwrap();
        if task.question == Some(id) && task.state == State::Parked {
            assert_eq!(answer.unwrap(), task_id);
            task.entries += 1;
            task.leave(State::Ready);
        } else {
            let Err(LedgerError::Closed { state, .. }) = answer else {
                panic!("{answer:?} for a closed question");
            };
            assert_eq!(state, task.state);
        }
    }

    async fn cancel(&mut self, task: usize) {
        let Some(id) = self
            .tasks
            .keys()
            .nth(task % self.tasks.len().max(1))
            .copied()
        else {
            return;
        };
        let answer = self.w.book.cancel(id, self.w.now).await;
        let task = self.tasks.get_mut(&id).unwrap();
        if task.state.is_final() {
            assert!(matches!(answer, Err(LedgerError::Ended { state, .. }) if state == task.state));
        } else {
            assert_eq!(answer.unwrap(), task.state);
            task.leave(State::Cancelled);
        }
    }

    async fn expire(&mut self) {
        let expired = self.w.book.expire(self.w.now).await.unwrap();
        let mut expected = BTreeSet::new();
        for (id, task) in &mut self.tasks {
            if !task.state.is_final() && task.deadline.is_some_and(|d| d <= self.w.now) {
                task.leave(State::Expired);
                expected.insert(*id);
            }
        }
        assert_eq!(expired.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    async fn begin(&mut self, name: usize) {
        let life = self.w.book.begin(&node(NODES[name]), self.w.now).await;
        self.lives[name] += 1;
        assert_eq!(life.unwrap(), Incarnation(self.lives[name]));
        for task in self.tasks.values_mut() {
            if task.holder.is_some_and(|(n, _)| n == name) {
                task.lose(self.w.now);
            }
        }
    }

    async fn compare(&self) {
        let counts = self.w.book.counts().await.unwrap();
        assert_eq!(counts.accepted, self.tasks.len() as u64);
        for state in &self.states {
            let expected = self.tasks.values().filter(|t| t.state == *state).count();
            assert_eq!(counts.by_state[state], expected as u64, "{state}");
        }
    }

    /// Task by task, and the stream of changes folded from its beginning.
    async fn compare_all(&self) {
        self.w.check().await;
        let mut folded = BTreeMap::new();
        for change in self.w.book.changes(0, u32::MAX).await.unwrap() {
            let before = folded.insert(change.task, change.state);
            assert!(
                before.is_none_or(|s: State| !s.is_final()),
                "changed after its end"
            );
        }
        for (id, task) in &self.tasks {
            let record = self.w.book.get(*id).await.unwrap();
            assert_eq!(record.state, task.state);
            assert_eq!(record.fence.0, task.fence);
            assert_eq!(record.deliveries, task.deliveries);
            assert_eq!(record.ending.is_some(), task.state.is_final());
            assert_eq!(folded[id], task.state);
            let journal = self.w.book.journal(*id).await.unwrap();
            assert_eq!(journal.len(), task.entries as usize);
            assert!((0..).zip(&journal).all(|(n, e)| e.sequence == n));
        }
    }
}

impl Task {
    fn leave(&mut self, to: State) {
        self.state = to;
        self.holder = None;
    }

    fn lose(&mut self, now: Timestamp) {
        self.deliveries += 1;
        if self.deliveries == 5 {
            self.leave(State::Dead);
        } else {
            self.leave(State::Ready);
            self.due = now.after(Duration::from_millis(100 << (self.deliveries - 1)));
        }
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_in_memory_does_as_the_model(ops in ops()) {
        block_on(Model::run(Arc::new(MemoryLedger::new(Policy::default())), ops));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_in_a_file_does_as_the_model(ops in ops()) {
        let folder = tempfile::tempdir().unwrap();
        let book = SqliteLedger::open(&folder.path().join("ledger.db"), Policy::default()).unwrap();
        block_on(Model::run(Arc::new(book), ops));
    }
}
