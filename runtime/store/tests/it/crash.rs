//! `kill -9` at random moments: what was answered is there.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use colony_core::{id::TaskId, port::Clock, task::State};
use colony_store::{ClaimRequest, Commit, Ledger, NewTask, Others, Policy, SqliteLedger, property};

use crate::world::{DAWN, HandClock, done, entries, node, queue, spec};

const FOLDER: &str = "COLONY_CRASH_TEST_FOLDER";
const LIFE: &str = "COLONY_CRASH_TEST_LIFE";
const ROUNDS: u64 = 10;
const WRITERS: u64 = 16;

fn open(folder: &Path, clock: Arc<HandClock>) -> SqliteLedger {
    SqliteLedger::open(&folder.join("ledger.db"), Policy::default(), clock).unwrap()
}

/// The process that is killed. Writes a line for each answer, after it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let life: u64 = env::var(LIFE).unwrap().parse().unwrap();
    let clock = HandClock::at(DAWN.after(Duration::from_secs(life * 3_600)));
    let ledger = Arc::new(open(Path::new(&folder), clock.clone()));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (ledger, clock) = (Arc::clone(&ledger), Arc::clone(&clock));
        writers.spawn(async move { write(&*ledger, &clock, writer).await });
    }
    writers.join_all().await;
}

async fn write(ledger: &dyn Ledger, clock: &HandClock, writer: u64) {
    let say = |what: &str, id: TaskId| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{what} {id}").unwrap();
    };
    let name = node(&format!("victim-{writer}"));
    let registered = ledger.register(&name, Others::Nodes).await.unwrap();
    for count in 0_u64.. {
        clock.pass(Duration::from_micros(1));
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(writer << 48 | count).to_be_bytes());
        let id = TaskId::new(clock.now(), random);
        let task = NewTask {
            id,
            spec: Arc::new(spec("t")),
            refusal: None,
        };
        ledger.submit(vec![task]).await.unwrap();
        say("submitted", id);
        let request = ClaimRequest {
            node: name.clone(),
            incarnation: registered.incarnation,
            batch: count + 1,
            free: [(queue("t"), 2)].into(),
            total: 2,
        };
        for claim in ledger.claim(request).await.unwrap().claims {
            if (count + writer).is_multiple_of(7) {
                continue;
            }
            let mut commit = Commit::settling(claim.reference(), done("x"));
            if !claim.has_journal {
                commit.entries = entries([0]);
            }
            ledger.commit(commit).await.unwrap();
            say("done", claim.head.id);
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
        let ledger = open(folder.path(), HandClock::at(DAWN));
        for id in &submitted {
            ledger.get(*id).await.unwrap();
        }
        for id in &ended {
            assert_eq!(ledger.get(*id).await.unwrap().head.state, State::Done);
            assert_eq!(ledger.journal(*id).await.unwrap().len(), 1);
        }
        let counts = ledger.counts().await.unwrap();
        property::conservation(&counts).unwrap();
        assert!(counts.accepted >= submitted.len() as u64);
        assert!(counts.by_state[&State::Done] >= ended.len() as u64);
        let changes = ledger.changes(0, u32::MAX).await.unwrap();
        property::gapless(0, &changes).unwrap();
        assert_eq!(changes.last().unwrap().cursor, *ledger.latest().borrow());
        let verified = ledger.verify().await.unwrap();
        assert!(verified.is_whole(), "{verified:?}");
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
