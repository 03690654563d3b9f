//! `kill -9` at random moments: what was answered is there.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use colony_core::{
    id::{Incarnation, TaskId},
    task::State,
    unit::Timestamp,
};
use colony_store::{ClaimRequest, Commit, Ledger, NewTask, Policy, SqliteLedger, property};

use crate::world::{done, kind, node, perceived, spec};

const FOLDER: &str = "COLONY_CRASH_TEST_FOLDER";
const LIFE: &str = "COLONY_CRASH_TEST_LIFE";
const ROUNDS: u64 = 10;
const WRITERS: u64 = 16;

fn open(folder: &Path) -> SqliteLedger {
    SqliteLedger::open(&folder.join("ledger.db"), Policy::default()).unwrap()
}

/// The process that is killed. Writes a line for each answer, after it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let life: u64 = env::var(LIFE).unwrap().parse().unwrap();
    let book = Arc::new(open(Path::new(&folder)));
    // A clock that moves past every backoff of the life before.
    let clock = Arc::new(AtomicU64::new(1_000_000_000_000 + life * 3_600_000_000));
    let now = Timestamp::from_micros(clock.load(Ordering::Relaxed));
    let incarnation = book.begin(&node("victim"), now).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (book, clock) = (Arc::clone(&book), Arc::clone(&clock));
        writers.spawn(async move { write(&*book, &clock, incarnation, writer).await });
    }
    writers.join_all().await;
}

async fn write(book: &dyn Ledger, clock: &AtomicU64, incarnation: Incarnation, writer: u64) {
    let say = |what: &str, id: TaskId| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{what} {id}").unwrap();
    };
    for count in 0_u64.. {
        let now = Timestamp::from_micros(clock.fetch_add(1, Ordering::Relaxed));
        let mut chance = [0; 10];
        chance[2..].copy_from_slice(&(writer << 48 | count).to_be_bytes());
        let id = TaskId::new(now, chance);
        let task = NewTask {
            id,
            spec: Arc::new(spec("t")),
            now,
        };
        book.submit(vec![task]).await.unwrap();
        say("submitted", id);
        let request = ClaimRequest {
            node: node("victim"),
            incarnation,
            wanted: [(kind("t"), 2)].into(),
            now,
        };
        for claim in book.claim(request).await.unwrap() {
            if (count + writer).is_multiple_of(7) {
                continue;
            }
            let mut commit = Commit {
                claim: claim.reference,
                agent: None,
                entries: vec![],
                outbox: vec![],
                then: done("x"),
                now,
            };
            if !claim.has_journal {
                commit.entries = vec![perceived(0, now)];
            }
            book.commit(commit).await.unwrap();
            say("done", claim.reference.task);
        }
    }
}

#[tokio::test]
async fn what_was_answered_survives_kill_nine() {
    let folder = tempfile::tempdir().unwrap();
    let mut submitted = BTreeSet::new();
    let mut ended = BTreeSet::new();
    for round in 0..ROUNDS {
        // After a few answers or a few thousand, in no order.
        let patience = 1 + (round * 7_919 + 13) % 1_500;
        for line in kill_after(folder.path(), round, patience) {
            match line.split_once(' ') {
                Some(("submitted", id)) => {
                    submitted.insert(TaskId::parse(id).unwrap());
                }
                Some(("done", id)) => {
                    let new = ended.insert(TaskId::parse(id).unwrap());
                    assert!(new, "{id} ended twice");
                }
                _ => {}
            }
        }
        let book = open(folder.path());
        for id in &submitted {
            book.get(*id).await.unwrap();
        }
        for id in &ended {
            assert_eq!(book.get(*id).await.unwrap().state, State::Done);
            assert_eq!(book.journal(*id).await.unwrap().len(), 1);
        }
        let counts = book.counts().await.unwrap();
        property::conservation(&counts).unwrap();
        assert!(counts.accepted >= submitted.len() as u64);
        assert!(counts.by_state[&State::Done] >= ended.len() as u64);
        let changes = book.changes(0, u32::MAX).await.unwrap();
        property::gapless(changes[0].cursor - 1, &changes).unwrap();
        assert_eq!(changes.last().unwrap().cursor, *book.latest().borrow());
    }
    assert!(ended.len() > 100, "only {} tasks ended", ended.len());
}

/// Runs the victim until it has said `patience` lines, kills it, and returns all it said.
fn kill_after(folder: &Path, life: u64, patience: u64) -> Vec<String> {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["crash::the_victim", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut answers = 0;
    let mut killed = false;
    let mut out = BufReader::new(victim.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        // A line that the kill cut off says nothing.
        if line.ends_with('\n') {
            let whole = line.trim().to_owned();
            answers += u64::from(whole.starts_with("submitted") || whole.starts_with("done"));
            said.push(whole);
        }
        line.clear();
        if answers >= patience && !killed {
            victim.kill().unwrap();
            killed = true;
        }
    }
    victim.wait().unwrap();
    assert!(killed, "it ended by itself: {said:?}");
    said
}
