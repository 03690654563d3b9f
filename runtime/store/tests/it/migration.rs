//! A file of the first schema, with rows in every table, opened by this version.

use std::{path::Path, sync::Arc, time::Duration};

use colony_core::{
    escalation::Evidence,
    id::{AgentId, ApprovalId, Fence, NodeId, TaskId},
    task::{Ending, State},
    unit::Timestamp,
};
use colony_proto::store::v1;
use colony_store::{
    ApprovalFilter, Episode, EpisodeChange, NewTask, Others, Policy, QuestionState, SnapshotKey,
    SqliteLedger, Submitted, TaskFilter,
};
use prost::Message;
use rusqlite::{Connection, params};

use crate::world::{DAWN, HandClock, World, accept, appending, done, kind, node, perceived, spec};

const FIRST: &str = include_str!("../../src/sqlite/schema/0001_first.sql");
/// "CLNY"
const APPLICATION_ID: i32 = 0x434c_4e59;
const DEADLINE_US: u64 = DAWN.as_micros() + 3_600_000_000;

fn task(number: u8) -> TaskId {
    TaskId::new(DAWN, [number; 10])
}

fn question(number: u8) -> ApprovalId {
    ApprovalId::new(DAWN, [number; 10])
}

fn bytes(id: TaskId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

fn us(at: Timestamp) -> i64 {
    i64::try_from(at.as_micros()).unwrap()
}

fn answer() -> v1::Answer {
    v1::Answer {
        schema: 1,
        text: "yes".into(),
        confidence: 1.0,
        source: v1::Source::Rule.into(),
        reason: "a test".into(),
    }
}

fn vector() -> Option<v1::Vector> {
    let values = vec![0.25, -0.5];
    Some(v1::Vector { values })
}

/// Tasks 1 ready, 2 waiting for its back-off, 3 and 4 claimed, 5 waiting for question 5, 6 done after
/// question 6 was decided, 7 dead with a deadline, 8 cancelled with question 8 closed.
fn first_schema(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.execute_batch(FIRST).unwrap();
    db.pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    for number in 1..=8 {
        let deadline_us = (number == 7).then_some(DEADLINE_US);
        let body = v1::Spec {
            schema: 1,
            tenant: "default".into(),
            agent_type: "t".into(),
            input: "the printer is on fire".into(),
            priority: 5,
            deadline_us,
            dedupe_key: (number == 1).then(|| "key".into()),
            ..v1::Spec::default()
        };
        db.execute(
            "INSERT INTO specs VALUES (?1, ?2)",
            params![bytes(task(number)), body.encode_to_vec()],
        )
        .unwrap();
    }
    live_rows(&db);
    finished_rows(&db);
    question_rows(&db);
    other_rows(&db);
}

struct LiveRow {
    number: u8,
    state: u8,
    due_us: Option<i64>,
    holder: Option<&'static str>,
    deliveries: u32,
}

impl LiveRow {
    const fn new(number: u8, state: u8) -> Self {
        Self {
            number,
            state,
            due_us: None,
            holder: None,
            deliveries: 0,
        }
    }

    fn insert(&self, db: &Connection) {
        db.execute(
            "INSERT INTO live VALUES (?1, 'default', 't', ?2, ?3, ?4, NULL, 3, ?5, ?6, ?7, 't', 9,
             ?3, ?3, 1)",
            params![
                bytes(task(self.number)),
                self.state,
                us(DAWN),
                self.due_us,
                self.deliveries,
                self.holder,
                self.holder.map(|_| 4)
            ],
        )
        .unwrap();
    }
}

fn live_rows(db: &Connection) {
    let rows = [
        LiveRow::new(1, 0),
        LiveRow {
            due_us: Some(us(DAWN) + 60_000_000),
            deliveries: 2,
            ..LiveRow::new(2, 0)
        },
        LiveRow {
            holder: Some("n1"),
            deliveries: 1,
            ..LiveRow::new(3, 1)
        },
        LiveRow {
            holder: Some("n1"),
            ..LiveRow::new(4, 1)
        },
        LiveRow::new(5, 2),
    ];
    for row in &rows {
        row.insert(db);
    }
    let entry = v1::Entry {
        schema: 1,
        note_json: serde_json::to_vec(&perceived(0, "old").note).unwrap(),
        vector: None,
    };
    db.execute(
        "INSERT INTO journal VALUES (?1, 0, ?2, ?3)",
        params![bytes(task(3)), us(DAWN), entry.encode_to_vec()],
    )
    .unwrap();
}

fn finished_rows(db: &Connection) {
    for (number, state) in [(6, 3), (7, 7), (8, 5)] {
        let kind = if number == 6 {
            v1::ending::Kind::Done(answer())
        } else {
            v1::ending::Kind::Failed("so it goes".into())
        };
        let ending = v1::Ending {
            schema: 1,
            kind: Some(kind),
        };
        db.execute(
            "INSERT INTO finished VALUES (?1, 'default', 't', ?2, 3, 5, NULL, NULL, ?3, ?3, ?4)",
            params![bytes(task(number)), state, us(DAWN), ending.encode_to_vec()],
        )
        .unwrap();
    }
}

fn question_rows(db: &Connection) {
    // As it was written before questions had evidence.
    let asked = v1::Question {
        schema: 1,
        escalation_reason: v1::EscalationReason::Risky.into(),
        question: "shall I?".into(),
        proposal: Some(answer()),
        evidence: None,
    };
    let decision = v1::Decision {
        schema: 1,
        kind: Some(v1::decision::Kind::Accept(v1::decision::Accept {})),
        teach: true,
        by: "ann".into(),
    };
    for (number, closed) in [(5, 0), (6, 1), (8, 1)] {
        db.execute(
            "INSERT INTO approvals VALUES (?1, ?2, 'default', ?3, ?4, ?5, ?6)",
            params![
                question(number).0.as_bytes(),
                bytes(task(number)),
                us(DAWN),
                closed,
                asked.encode_to_vec(),
                (number == 6).then(|| decision.encode_to_vec())
            ],
        )
        .unwrap();
    }
}

fn other_rows(db: &Connection) {
    let delivery = v1::Delivery {
        schema: 1,
        payload_json: b"{\"a\":1}".to_vec(),
    };
    let episode = v1::Episode {
        schema: 1,
        text: "printer fire".into(),
        label: "it".into(),
        vector: vector(),
    };
    let snapshot = v1::Snapshot {
        schema: 1,
        body: b"as it was".to_vec(),
    };
    let hash = [7_u8; 32];
    db.execute(
        "INSERT INTO dedupe VALUES ('default', 'key', ?1, ?2, ?3)",
        params![bytes(task(1)), hash, us(DAWN) + 1_000_000_000],
    )
    .unwrap();
    db.execute(
        "INSERT INTO outbox VALUES (7, 'effect', ?1, 'tickets', ?2)",
        params![bytes(task(6)), delivery.encode_to_vec()],
    )
    .unwrap();
    db.execute(
        "INSERT INTO episodes VALUES (9, ?1, 'default', 't', ?2, ?3)",
        params![bytes(task(6)), us(DAWN), episode.encode_to_vec()],
    )
    .unwrap();
    db.execute_batch(
        "INSERT INTO agents VALUES ('t', 9, 2, 10, 8, 1, 1, 5);
         INSERT INTO nodes VALUES ('n1', 4);",
    )
    .unwrap();
    db.execute(
        "INSERT INTO snapshots VALUES ('field', ?1)",
        [snapshot.encode_to_vec()],
    )
    .unwrap();
    db.execute(
        "INSERT INTO changes VALUES (12, ?1, 0, ?2)",
        params![bytes(task(2)), us(DAWN)],
    )
    .unwrap();
    db.execute_batch(
        "UPDATE tally SET accepted = 8, cursor = 12, changes_kept_from = 12, ready = 2,
         claimed = 2, parked = 1, done = 1, cancelled = 1, dead = 1;",
    )
    .unwrap();
}

fn open(path: &Path) -> World {
    let clock = HandClock::at(DAWN);
    let ledger = SqliteLedger::open(path, Policy::default(), clock.clone()).unwrap();
    World::around((Arc::new(ledger), None), clock)
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    first_schema(&path);
    let w = open(&path);
    let verified = w.ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    for (table, rows) in [("specs", 8), ("live", 5), ("finished", 3), ("approvals", 3)] {
        assert_eq!(verified.rows[table], rows, "{table}");
    }
    let counts = w.ledger.counts().await.unwrap();
    assert_eq!(counts.accepted, 8);
    assert_eq!(counts.by_state[&State::Waiting], 1);

    let page = w.ledger.list(TaskFilter::default()).await.unwrap();
    assert_eq!(page.items.len(), 8);
    assert!(
        page.items
            .iter()
            .all(|task| *task.spec.input == *"the printer is on fire")
    );
    let second = w.ledger.get(task(2)).await.unwrap().head;
    assert_eq!(
        (second.failed_attempts, second.node_losses, second.fence),
        (0, 2, Fence(3))
    );
    assert_eq!(second.not_before, Some(DAWN.after(Duration::from_secs(60))));
    let dead = w.ledger.get(task(7)).await.unwrap().head;
    assert_eq!(dead.deadline, Some(Timestamp::from_micros(DEADLINE_US)));
    let reason = "so it goes".to_owned();
    assert_eq!(dead.ending, Some(Ending::Failed { reason }));
    assert_eq!(w.ledger.journal(task(3)).await.unwrap().len(), 1);

    let all = ApprovalFilter {
        closed_too: true,
        ..ApprovalFilter::default()
    };
    let questions = w.ledger.approvals(all).await.unwrap().items;
    let states: Vec<_> = questions.iter().map(|asked| &asked.state).collect();
    assert_eq!(states[0], &QuestionState::Open);
    assert_eq!(questions[0].question.evidence, Evidence::default());
    assert!(matches!(states[1], QuestionState::Taken { decision, .. } if decision.by == "ann"));
    assert_eq!(states[2], &QuestionState::Closed);

    let posted = w.outbox("tickets", 0).await.pop().unwrap();
    assert_eq!((posted.number, posted.message.index), (7, 0));
    assert_eq!(posted.message.payload["a"], 1);
    assert_eq!(posted.acknowledged_at, None);
    let agent = w.ledger.agents().await.unwrap().pop().unwrap();
    assert_eq!((agent.revision, agent.track.successes), (1, 8));
    let key = SnapshotKey {
        node: node("n1"),
        name: "field".into(),
    };
    let snapshot = w.ledger.snapshot(&key).await.unwrap().unwrap();
    assert_eq!(snapshot.body, b"as it was");
    let changes = w.ledger.changes(11, 9).await.unwrap();
    assert_eq!(changes[0].task, task(2));
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    first_schema(&path);
    let w = open(&path);
    let id = w.ledger.id();
    let registered = w
        .ledger
        .register(&node("n1"), Others::Nobody)
        .await
        .unwrap();
    assert_eq!(registered.incarnation.0, 5);
    assert_eq!(registered.lost, [task(3), task(4)]);
    assert_eq!(registered.adopted, Vec::<NodeId>::new());
    let lost = w.ledger.get(task(3)).await.unwrap().head;
    assert_eq!((lost.state, lost.fence), (State::Ready, Fence(4)));
    assert_eq!((lost.failed_attempts, lost.node_losses), (0, 2));

    // The question that was open is answered, and its task goes on.
    let request = w.request_id();
    w.ledger
        .decide(question(5), request, accept())
        .await
        .unwrap();
    let claims = w.ask("n1", 5, &[("t", 10)]).await;
    assert_eq!(claims.claims.len(), 4);
    assert_eq!(claims.next_due, Some(Duration::from_secs(60)));
    let claim = claims
        .claims
        .iter()
        .find(|claim| claim.head.id == task(5))
        .unwrap();
    assert_eq!(claim.inbox[0].question, question(5));
    let mut commit = appending(claim.reference(), [0]);
    commit.taken = vec![question(5)];
    commit.settlement = done("x");
    w.ledger.commit(commit).await.unwrap();
    w.ledger.revive(task(7), w.request_id()).await.unwrap();

    // Numbers go on, keys are known, an episode's successor forgets it.
    let mut repeated = spec("t");
    repeated.dedupe_key = Some("key".into());
    let new = NewTask {
        id: w.task_id(),
        spec: Arc::new(repeated),
        refusal: None,
    };
    let known = w.ledger.submit(vec![new]).await.unwrap();
    let state = State::Claimed;
    assert_eq!(known, [Submitted::Conflict { id: task(1), state }]);
    let numbers = w.ledger.learn(vec![episode(task(6))]).await.unwrap();
    assert_eq!(numbers, [11]);
    let streams = w.ledger.episode_streams().await.unwrap();
    let changes = w.ledger.episodes(&streams[0], 0, 10).await.unwrap().items;
    assert!(matches!(&changes[0], EpisodeChange::Learned(old) if old.label == "it"));
    let number = 10;
    let undone = EpisodeChange::Forgotten { number, episode: 9 };
    assert_eq!(changes[1], undone);
    let mut agent = w.ledger.agents().await.unwrap().pop().unwrap();
    agent.track.tasks += 1;
    let refused = w.ledger.save_agents(vec![agent]).await.unwrap();
    assert_eq!(refused, Vec::<AgentId>::new());
    let verified = w.ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    w.ledger.close().await;

    let again = open(&path);
    assert_eq!(again.ledger.id(), id);
    assert_eq!(again.state(task(5)).await, State::Done);
}

fn episode(task: TaskId) -> Episode {
    Episode {
        number: 0,
        tenant: colony_core::id::Tenant::default(),
        agent_type: kind("t"),
        task,
        text: "printer fire".into(),
        label: "facilities".into(),
        vector: Arc::from([0.25_f32, -0.5]),
        at: DAWN,
    }
}
