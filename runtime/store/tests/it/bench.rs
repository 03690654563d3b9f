//! How fast the engines are on this machine:
//! `cargo test --release -p colony-store --test it bench -- --ignored --nocapture --test-threads 1`

#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use colony_core::{
    id::{Incarnation, TaskId},
    unit::Timestamp,
};
use colony_store::{
    ClaimRequest, Commit, Ledger, MemoryLedger, NewTask, Policy, SqliteLedger, property,
};

use crate::world::{done, kind, node, perceived, spec};

struct Load {
    writers: u64,
    per_request: u64,
    time: Duration,
}

/// Every writer: submit, claim, complete with a journal entry; the next only after the answer.
async fn drive(book: Arc<dyn Ledger>, load: &Load) -> String {
    let clock = Arc::new(AtomicU64::new(1_000_000_000_000));
    let before = book.counts().await.unwrap();
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..load.writers {
        let (book, clock) = (Arc::clone(&book), Arc::clone(&clock));
        let (per_request, time) = (load.per_request, load.time);
        let spec = Arc::new(spec("t"));
        writers.spawn(async move {
            let mut waits = Vec::new();
            let mut tasks = 0_u64;
            let mut drawn = 0_u64;
            while begun.elapsed() < time {
                let now = Timestamp::from_micros(clock.fetch_add(1, Ordering::Relaxed));
                let new = |n: u64| {
                    let mut chance = [0; 10];
                    chance[2..].copy_from_slice(&(writer << 40 | n).to_be_bytes());
                    let id = TaskId::new(now, chance);
                    let spec = Arc::clone(&spec);
                    NewTask { id, spec, now }
                };
                let batch = (drawn..drawn + per_request).map(new).collect();
                drawn += per_request;
                let asked = Instant::now();
                book.submit(batch).await.unwrap();
                waits.push(asked.elapsed());
                let request = ClaimRequest {
                    node: node("n"),
                    incarnation: Incarnation(1),
                    wanted: [(kind("t"), u32::try_from(per_request).unwrap())].into(),
                    now,
                };
                for claim in book.claim(request).await.unwrap() {
                    let commit = Commit {
                        claim: claim.reference,
                        agent: None,
                        entries: vec![perceived(0, now)],
                        outbox: vec![],
                        then: done("x"),
                        now,
                    };
                    book.commit(commit).await.unwrap();
                    tasks += 1;
                }
            }
            (tasks, waits)
        });
    }
    let mut tasks = 0;
    let mut waits = Vec::new();
    for (ended, waited) in writers.join_all().await {
        tasks += ended;
        waits.extend(waited);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let counts = book.counts().await.unwrap();
    property::conservation(&counts).unwrap();
    waits.sort_unstable();
    let wait = |share: usize| waits[(waits.len() - 1) * share / 1000].as_secs_f64() * 1e3;
    let syncs = (counts.syncs - before.syncs) as f64 / seconds;
    format!(
        "{} writers: {:.0} tasks/s, {syncs:.0} syncs/s, submit p50 {:.2} ms p99 {:.2} ms p99.9 {:.2} ms",
        load.writers,
        f64::from(u32::try_from(tasks).unwrap()) / seconds,
        wait(500),
        wait(990),
        wait(999),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bench"]
async fn in_a_file() {
    for writers in [1, 64, 256] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("ledger.db");
        let book = Arc::new(SqliteLedger::open(&path, Policy::default()).unwrap());
        let load = Load {
            writers,
            per_request: 1,
            time: Duration::from_secs(10),
        };
        println!("sqlite, {}", drive(book.clone(), &load).await);
        let begun = Instant::now();
        book.close().await;
        println!("  closed in {:?}", begun.elapsed());
    }
}

#[tokio::test]
#[ignore = "a bench"]
async fn in_memory() {
    for finished_max in [usize::MAX, 100_000] {
        let book = Arc::new(MemoryLedger::new(Policy::default()).finished_max(finished_max));
        let load = Load {
            writers: 1,
            per_request: 1,
            time: Duration::from_secs(3),
        };
        println!("memory, {}", drive(book, &load).await);
    }
}
