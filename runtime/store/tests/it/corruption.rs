//! Bits that flip in a file, and rows that cannot be read.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use colony_core::{
    id::{AgentId, Incarnation, TaskId, Tenant},
    journal::EffectKey,
    task::{Ending, State},
};
use colony_store::{
    Agent, ApprovalFilter, Episode, EpisodeStream, Health, LedgerError, OutboxFilter,
    OutboxMessage, Policy, Quarantined, Snapshot, SnapshotKey, SqliteLedger, TaskFilter, Track,
    property,
};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use rusqlite::Connection;

use crate::world::{DAWN, HandClock, World, accept, appending, done, give_up, kind, node, spec};

const FLIPS: u64 = 300;

fn open(path: &Path) -> Result<World, LedgerError> {
    let clock = HandClock::at(DAWN);
    clock.pass(Duration::from_secs(3_600));
    let ledger = SqliteLedger::open(path, Policy::default(), clock.clone())?;
    Ok(World::around((Arc::new(ledger), None), clock))
}

/// A ledger with rows in every table, closed; the tasks it holds.
async fn written(path: &Path) -> Vec<TaskId> {
    let clock = HandClock::at(DAWN);
    let ledger = SqliteLedger::open(path, Policy::default(), clock.clone()).unwrap();
    let w = World::around((Arc::new(ledger), None), clock);
    w.register("n1").await;
    let mut tasks = Vec::new();
    for number in 0..40 {
        let mut spec = spec("t");
        spec.input = "the printer is on fire, again "
            .repeat(number % 7 + 1)
            .into();
        spec.dedupe_key = (number % 3 == 0).then(|| format!("key {number}"));
        spec.deadline = (number % 5 == 0).then(|| DAWN.after(Duration::from_secs(86_400)));
        tasks.push(w.submit(spec).await);
    }
    let claims = w.claim_all(&[("t", 24)]).await;
    for (number, claim) in claims.iter().enumerate() {
        let mut commit = appending(claim.reference(), [0, 1]);
        let key = EffectKey::from(format!("effect {number}"));
        let task = claim.head.id;
        commit.outbox = vec![OutboxMessage {
            key,
            index: 0,
            task,
            destination: "tickets".into(),
            payload: serde_json::json!({"number": number}),
        }];
        w.ledger.commit(commit).await.unwrap();
        match number % 4 {
            0 => drop(w.settle(claim.reference(), done("x")).await.unwrap()),
            1 => drop(w.wait(claim.reference()).await),
            2 => drop(w.settle(claim.reference(), give_up()).await.unwrap()),
            _ => {}
        }
        w.ledger.learn(vec![episode(task, "it")]).await.unwrap();
    }
    let open = w.ledger.approvals(ApprovalFilter::default()).await.unwrap();
    for question in open.items.iter().take(3) {
        let (id, request) = (question.question.id, w.request_id());
        w.ledger.decide(id, request, accept()).await.unwrap();
    }
    let again = episode(claims[0].head.id, "facilities");
    w.ledger.learn(vec![again]).await.unwrap();
    w.ledger.cancel(tasks[30], w.request_id()).await.unwrap();
    w.ledger
        .save_agents(vec![agent(1), agent(2)])
        .await
        .unwrap();
    let snapshot = Snapshot {
        version: 1,
        body: b"as it is".repeat(50),
    };
    w.ledger.save_snapshot(key(), snapshot).await.unwrap();
    w.ledger.close().await;
    tasks
}

fn episode(task: TaskId, label: &str) -> Episode {
    Episode {
        number: 0,
        tenant: Tenant::default(),
        agent_type: kind("t"),
        task,
        text: "printer fire".into(),
        label: label.into(),
        vector: Arc::from([0.25_f32, -0.5]),
        at: DAWN,
    }
}

fn stream() -> EpisodeStream {
    EpisodeStream {
        tenant: Tenant::default(),
        agent_type: kind("t"),
    }
}

fn agent(ordinal: u32) -> Agent {
    Agent {
        id: AgentId {
            agent_type: kind("t"),
            ordinal,
        },
        revision: 0,
        version: 1,
        track: Track::default(),
        updated_at: DAWN,
    }
}

fn key() -> SnapshotKey {
    SnapshotKey {
        node: node("n1"),
        name: "field".into(),
    }
}

/// Everything that can be asked, by question; errors are answers too.
async fn answers(w: &World, tasks: &[TaskId]) -> BTreeMap<String, String> {
    let ledger = &w.ledger;
    let mut answers = BTreeMap::new();
    let mut say = |what: String, answer: String| answers.insert(what, answer);
    for task in tasks {
        say(
            format!("get {task}"),
            format!("{:?}", ledger.get(*task).await),
        );
        let journal = ledger.journal(*task).await;
        say(format!("journal {task}"), format!("{journal:?}"));
    }
    let page = ledger.list(TaskFilter::default()).await;
    say("list".into(), format!("{page:?}"));
    for state in State::ALL {
        let filter = TaskFilter {
            states: vec![state],
            agent_type: Some(kind("t")),
            ..TaskFilter::default()
        };
        say(
            format!("list {state}"),
            format!("{:?}", ledger.list(filter).await),
        );
    }
    for closed_too in [true, false] {
        let filter = ApprovalFilter {
            closed_too,
            ..ApprovalFilter::default()
        };
        let page = ledger.approvals(filter).await;
        say(format!("approvals {closed_too}"), format!("{page:?}"));
    }
    say(
        "changes".into(),
        format!("{:?}", ledger.changes(0, 1_000).await),
    );
    say(
        "outbox".into(),
        format!("{:?}", ledger.outbox(OutboxFilter::default()).await),
    );
    for after in [0, 20] {
        let changes = ledger.episodes(&stream(), after, 100).await;
        say(format!("episodes {after}"), format!("{changes:?}"));
    }
    say("agents".into(), format!("{:?}", ledger.agents().await));
    say(
        "snapshot".into(),
        format!("{:?}", ledger.snapshot(&key()).await),
    );
    let counts = ledger
        .counts()
        .await
        .map(|counts| (counts.accepted, counts.by_state));
    say("counts".into(), format!("{counts:?}"));
    answers
}

/// C19: each flipped bit is named when the ledger is opened, read or verified, or changes nothing.
#[tokio::test]
async fn no_flipped_bit_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.db");
    let tasks = written(&whole).await;
    let content = std::fs::read(&whole).unwrap();
    let w = open(&whole).unwrap();
    let expected = answers(&w, &tasks).await;
    assert!(w.ledger.verify().await.unwrap().is_whole());
    drop(w);

    let (mut refused, mut named) = (0, 0);
    for seed in 0..FLIPS {
        let mut rng = SmallRng::seed_from_u64(seed);
        let bit = usize::try_from(rng.next_u64()).unwrap() % (content.len() * 8);
        let mut flipped = content.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let path = folder.path().join(format!("flipped-{seed}.db"));
        std::fs::write(&path, flipped).unwrap();
        // A log that is there is not written full of zeros: 300 times 16 MiB.
        std::fs::write(format!("{}-wal", path.display()), []).unwrap();
        let Ok(w) = open(&path) else {
            refused += 1;
            continue;
        };
        let found = answers(&w, &tasks).await;
        let verified = w.ledger.verify().await;
        assert_eq!(*w.ledger.health().borrow(), Health::Working);
        match verified {
            Ok(verified) if verified.is_whole() => {
                for (question, answer) in &expected {
                    assert_eq!(
                        &found[question], answer,
                        "{question}, seed {seed}, bit {bit}"
                    );
                }
            }
            Ok(_) | Err(_) => named += 1,
        }
    }
    assert!(
        named > FLIPS / 10 && refused > 0,
        "{refused} refused, {named} named"
    );
}

/// Changes rows behind the ledger's back, as a broken disk would.
fn damage(path: &Path, sql: &str) {
    let db = Connection::open(path).unwrap();
    let changed = db.execute(sql, []).unwrap();
    assert!(changed > 0, "{sql}");
}

async fn quarantined(w: &World) -> Vec<Quarantined> {
    let counts = w.ledger.counts().await.unwrap();
    property::conservation(&counts).unwrap();
    let verified = w.ledger.verify().await.unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    let counts = w.ledger.counts().await.unwrap();
    assert_eq!(counts.quarantined, verified.quarantined.len() as u64);
    property::conservation(&counts).unwrap();
    verified.quarantined
}

async fn dead(w: &World, task: TaskId, because: &str) {
    let head = w.ledger.get(task).await.unwrap().head;
    assert_eq!(head.state, State::Dead);
    let Some(Ending::Failed { reason }) = &head.ending else {
        panic!("{head:?}");
    };
    assert!(reason.contains(because), "{reason}");
}

/// A ledger of three ready tasks, the second of which had `sql` done to it.
async fn of_three(folder: &Path, sql: &str) -> (World, [TaskId; 3]) {
    let path = folder.join("ledger.db");
    let w = open(&path).unwrap();
    w.register("n1").await;
    let tasks = [
        w.submit(spec("t")).await,
        w.submit(spec("t")).await,
        w.submit(spec("t")).await,
    ];
    w.ledger.close().await;
    damage(&path, &sql.replace("?1", &hex(tasks[1])));
    (open(&path).unwrap(), tasks)
}

fn hex(task: TaskId) -> String {
    format!("x'{}'", task.0.simple())
}

/// C5.
#[tokio::test]
async fn a_head_that_cannot_be_read_stops_no_claim() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "UPDATE live SET fence = 7 WHERE id = ?1";
    let (w, tasks) = of_three(folder.path(), sql).await;
    assert_eq!(w.register("n1").await, Incarnation(2));
    let claims = w.ask("n1", 2, &[("t", 3)]).await.claims;
    let claimed: Vec<_> = claims.iter().map(|claim| claim.head.id).collect();
    assert_eq!(claimed, [tasks[0], tasks[2]]);
    dead(&w, tasks[1], "live cannot be read").await;
    let found = quarantined(&w).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].table, "live");
    assert_eq!(found[0].key, tasks[1].to_string());
    assert_eq!(found[0].reason, "the checksum does not fit the row");

    // What is left of the task can be revived, under a fence that nobody has had.
    w.ledger.revive(tasks[1], w.request_id()).await.unwrap();
    let claim = w.ask("n1", 2, &[("t", 1)]).await.claims.pop().unwrap();
    assert!(claim.head.fence.0 > 7);
    w.settle(claim.reference(), done("x")).await.unwrap();
    assert_eq!(quarantined(&w).await.len(), 1);
}

#[tokio::test]
async fn what_is_asked_cannot_be_read_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "UPDATE specs SET body = x'ff' WHERE id = ?1";
    let (w, tasks) = of_three(folder.path(), sql).await;
    w.register("n1").await;
    let page = w.ledger.list(TaskFilter::default()).await.unwrap();
    let listed: Vec<_> = page.items.iter().map(|task| task.head.id).collect();
    assert_eq!(listed, [tasks[2], tasks[0]]);
    let claims = w.ask("n1", 2, &[("t", 3)]).await.claims;
    assert_eq!(claims.len(), 2);
    let unreadable = w.ledger.get(tasks[1]).await;
    assert!(matches!(unreadable, Err(LedgerError::Unreadable { .. })));
    let counts = w.ledger.counts().await.unwrap();
    assert_eq!(counts.by_state[&State::Dead], 1);
    assert_eq!(quarantined(&w).await.len(), 1);
}

/// Its index was made anew from the damaged row, and so nobody ever read the task: it was ready for ever in a queue that is none.
#[tokio::test]
async fn a_task_whose_queue_has_a_flipped_bit_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let w = open(&path).unwrap();
    w.submit(spec("queue-of-it")).await;
    w.ledger.close().await;
    let whole = std::fs::read(&path).unwrap();
    let name = b"queue-of-it";
    let places = (0..whole.len()).filter(|at| whole[*at..].starts_with(name));
    let places: Vec<usize> = places.collect();
    assert!(places.len() >= 2, "a row and an index: {places:?}");
    for place in places {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        // It knows of the writes of the round before.
        std::fs::remove_file(folder.path().join("ledger.db.mark")).unwrap();
        let w = open(&path).unwrap();
        w.register("n1").await;
        let claimed = w.ask("n1", 1, &[("queue-of-it", 1)]).await.claims.len();
        let counts = w.ledger.counts().await.unwrap();
        let ready = counts.by_state[&State::Ready];
        assert!(claimed == 1 || ready == 0, "{place}: {counts:?}");
        w.ledger.close().await;
    }
}

#[tokio::test]
async fn a_head_that_is_gone_ends_its_task() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "DELETE FROM live WHERE id = ?1";
    let (w, tasks) = of_three(folder.path(), sql).await;
    let verified = w.ledger.verify().await.unwrap();
    assert_eq!(verified.quarantined.len(), 1, "{verified:?}");
    dead(&w, tasks[1], "the row is missing").await;
    assert_eq!(w.ledger.counts().await.unwrap().accepted, 3);
    quarantined(&w).await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_ends_its_task() {
    for sql in [
        "UPDATE journal SET body = x'ff' WHERE sequence = 0",
        "DELETE FROM journal WHERE sequence = 0",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let w = open(&path).unwrap();
        w.register("n1").await;
        let claim = w.claimed().await;
        w.append(claim, [0, 1]).await.unwrap();
        w.ledger.close().await;
        damage(&path, sql);
        let w = open(&path).unwrap();
        let unreadable = w.ledger.journal(claim.task).await;
        assert!(matches!(unreadable, Err(LedgerError::Unreadable { .. })));
        dead(&w, claim.task, "journal cannot be read").await;
        let late = w.append(claim, [2]).await;
        assert!(matches!(
            late,
            Err(LedgerError::Lost {
                state: State::Dead,
                ..
            })
        ));
        assert_eq!(quarantined(&w).await.len(), 1);
    }
}

#[tokio::test]
async fn a_question_that_cannot_be_read_ends_the_task_that_waits_for_it() {
    for answered in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let w = open(&path).unwrap();
        w.register("n1").await;
        let claim = w.claimed().await;
        let question = w.wait(claim).await;
        if answered {
            let request = w.request_id();
            w.ledger.decide(question, request, accept()).await.unwrap();
        }
        w.ledger.close().await;
        damage(&path, "UPDATE approvals SET asked_us = 1");
        let w = open(&path).unwrap();
        w.register("n1").await;
        let filter = ApprovalFilter {
            closed_too: true,
            ..ApprovalFilter::default()
        };
        assert!(w.ledger.approvals(filter).await.unwrap().items.is_empty());
        assert!(w.ask("n1", 2, &[("t", 1)]).await.claims.is_empty());
        dead(&w, claim.task, "approvals cannot be read").await;
        assert_eq!(quarantined(&w).await.len(), 1);
    }
}

#[tokio::test]
async fn rows_of_no_task_are_left_out_and_the_others_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let tasks = written(&path).await;
    let w = open(&path).unwrap();
    let episodes = async |w: &World| {
        let page = w.ledger.episodes(&stream(), 0, 100).await.unwrap();
        page.items.len()
    };
    let (before, messages) = (episodes(&w).await, w.outbox("tickets", 0).await.len());
    w.ledger.close().await;
    damage(&path, "UPDATE episodes SET at_us = 1 WHERE number = 2");
    damage(&path, "UPDATE outbox SET place = 9 WHERE number = 2");
    damage(&path, "UPDATE agents SET tasks = 9 WHERE ordinal = 1");
    damage(&path, "UPDATE snapshots SET version = 9");
    damage(&path, "UPDATE nodes SET incarnation = 9");
    damage(&path, "UPDATE changes SET at_us = 1 WHERE cursor = 5");
    damage(&path, "UPDATE dedupe SET task = x'00' WHERE key = 'key 0'");

    let w = open(&path).unwrap();
    // A node whose row is unreadable begins a life above any it can have had.
    let incarnation = w.register("n1").await;
    assert!(incarnation.0 > 9);
    let held = TaskFilter {
        states: vec![State::Claimed],
        ..TaskFilter::default()
    };
    assert!(w.ledger.list(held).await.unwrap().items.is_empty());
    assert_eq!(episodes(&w).await, before - 1);
    assert_eq!(w.outbox("tickets", 0).await.len(), messages - 1);
    let agents = w.ledger.agents().await.unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].id.ordinal, 2);
    assert_eq!(w.ledger.snapshot(&key()).await.unwrap(), None);
    // It is saved anew, as one that was never there.
    assert!(
        w.ledger
            .save_agents(vec![agent(1)])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(w.ledger.agents().await.unwrap().len(), 2);
    // A watcher is told to begin after the change that is lost.
    assert_eq!(w.ledger.changes(0, 100).await.unwrap().len(), 4);
    let Err(LedgerError::OutOfRange { oldest, .. }) = w.ledger.changes(4, 100).await else {
        panic!("the change is believed");
    };
    assert_eq!(oldest, 6);
    assert!(!w.ledger.changes(5, 100).await.unwrap().is_empty());
    // A key that may have been used is not used again.
    let mut repeat = spec("t");
    repeat.dedupe_key = Some("key 0".into());
    let refused = w.try_submit(repeat).await;
    assert!(matches!(refused, Err(LedgerError::Unreadable { .. })));
    let found = quarantined(&w).await;
    let tables: Vec<_> = found.iter().map(|row| row.table.as_str()).collect();
    let all = [
        "agents",
        "changes",
        "dedupe",
        "episodes",
        "nodes",
        "outbox",
        "snapshots",
    ];
    assert_eq!(tables, all);
    assert_eq!(
        w.ledger.counts().await.unwrap().accepted,
        tasks.len() as u64
    );
}

#[tokio::test]
async fn wrong_counters_are_counted_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let tasks = written(&path).await;
    let w = open(&path).unwrap();
    let expected = w.ledger.counts().await.unwrap();
    let latest = *w.ledger.latest().borrow();
    w.ledger.close().await;
    for sql in [
        "UPDATE counters SET done = 700, cursor = 1",
        "DELETE FROM counters",
    ] {
        damage(&path, sql);
        let w = open(&path).unwrap();
        let counts = w.ledger.counts().await.unwrap();
        assert_eq!(counts.by_state, expected.by_state);
        assert_eq!(counts.accepted, tasks.len() as u64);
        assert_eq!(*w.ledger.latest().borrow(), latest);
        assert_eq!(quarantined(&w).await, []);
        let task = episode(tasks[0], "new");
        let number = w.ledger.learn(vec![task]).await.unwrap()[0];
        assert!(number > 24, "{number}");
        w.ledger.close().await;
    }
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_not_a_wrong_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let tasks = written(&path).await;
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(2) {
        page.fill(0xa5);
    }
    std::fs::write(&path, bytes).unwrap();
    // The first page is whole, so the damage may be found only when the page is read.
    match open(&path) {
        Err(error) => assert!(matches!(error, LedgerError::Open { .. }), "{error:?}"),
        Ok(w) => {
            let error = w.ledger.get(tasks[0]).await.unwrap_err();
            assert!(matches!(error, LedgerError::Unreadable { .. }), "{error:?}");
        }
    }
}

/// A file that was deleted beside its log was made anew, and all that the log had was gone without a word.
#[tokio::test]
async fn a_log_without_its_file_is_not_taken_for_a_new_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(written(&path).await);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("ledger.db-wal"), [1; 64]).unwrap();
    let Err(error) = open(&path) else {
        panic!("it was made anew")
    };
    let said = error.to_string();
    assert!(
        said.contains("is missing") && said.contains("ledger.db-wal"),
        "{said}"
    );
    assert!(!path.exists());
}

/// One bit of an index stopped every claim, or left a ready task alone for ever.
#[tokio::test]
async fn a_damaged_index_of_live_tasks_is_made_anew() {
    for byte in [3, 40, 90, 150] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let w = open(&path).unwrap();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            tasks.push(w.submit(spec("t")).await);
        }
        w.ledger.close().await;
        drop(w);
        let page: i64 = {
            let db = Connection::open(&path).unwrap();
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'live_claimable'";
            db.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let mut file = std::fs::read(&path).unwrap();
        // The entries lie at the end of the page.
        let at = usize::try_from(page * 4_096 - byte).unwrap();
        file[at] ^= 1;
        std::fs::write(&path, file).unwrap();
        let w = open(&path).unwrap();
        w.register("n1").await;
        let claims = w.claim_all(&[("t", 100)]).await;
        let mut claimed: Vec<TaskId> = claims.iter().map(|claim| claim.head.id).collect();
        claimed.sort_unstable();
        tasks.sort_unstable();
        assert_eq!(claimed, tasks, "byte {byte} from the end of the index");
        w.ledger.close().await;
    }
}
