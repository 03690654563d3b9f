//! How fast the engines are on this machine:
//! `cargo test --release -p colony-store --test it bench -- --ignored --nocapture --test-threads 1`

#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use colony_core::{id::TaskId, port::Clock};
use colony_store::{
    ClaimRequest, Commit, Ledger, MemoryLedger, NewTask, Others, Policy, SqliteLedger, property,
};

use crate::world::{DAWN, HandClock, done, entries, node, queue, spec};

struct Load {
    writers: u64,
    per_request: u64,
    time: Duration,
}

/// Every writer, a node of its own: submit, claim, complete with a journal entry; the next only after the
/// answer.
async fn drive(ledger: Arc<dyn Ledger>, clock: Arc<HandClock>, load: &Load) -> String {
    let before = ledger.counts().await.unwrap();
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..load.writers {
        let (ledger, clock) = (Arc::clone(&ledger), Arc::clone(&clock));
        let (per_request, time) = (load.per_request, load.time);
        let spec = Arc::new(spec("t"));
        let name = node(&format!("n{writer}"));
        let incarnation = ledger
            .register(&name, Others::Nodes)
            .await
            .unwrap()
            .incarnation;
        writers.spawn(async move {
            let mut waits = Vec::new();
            let mut tasks = 0_u64;
            let mut drawn = 0_u64;
            for batch in 1.. {
                if begun.elapsed() >= time {
                    break;
                }
                clock.pass(Duration::from_micros(1));
                let new = |n: u64| {
                    let mut random = [0; 10];
                    random[2..].copy_from_slice(&(writer << 40 | n).to_be_bytes());
                    let id = TaskId::new(clock.now(), random);
                    let spec = Arc::clone(&spec);
                    NewTask {
                        id,
                        spec,
                        refusal: None,
                    }
                };
                let new = (drawn..drawn + per_request).map(new).collect();
                drawn += per_request;
                let asked = Instant::now();
                ledger.submit(new).await.unwrap();
                waits.push(asked.elapsed());
                let total = u32::try_from(per_request).unwrap();
                let request = ClaimRequest {
                    node: name.clone(),
                    incarnation,
                    batch,
                    free: [(queue("t"), total)].into(),
                    total,
                };
                for claim in ledger.claim(request).await.unwrap().claims {
                    let mut commit = Commit::settling(claim.reference(), done("x"));
                    commit.entries = entries([0]);
                    ledger.commit(commit).await.unwrap();
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
    let counts = ledger.counts().await.unwrap();
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
        let clock = HandClock::at(DAWN);
        let ledger = SqliteLedger::open(&path, Policy::default(), clock.clone()).unwrap();
        let ledger = Arc::new(ledger);
        let load = Load {
            writers,
            per_request: 1,
            time: Duration::from_secs(10),
        };
        println!("sqlite, {}", drive(ledger.clone(), clock, &load).await);
        let begun = Instant::now();
        ledger.close().await;
        println!("  closed in {:?}", begun.elapsed());
    }
}

#[tokio::test]
#[ignore = "a bench"]
async fn in_memory() {
    for finished_max in [usize::MAX, 100_000] {
        let clock = HandClock::at(DAWN);
        let ledger = MemoryLedger::new(Policy::default(), clock.clone()).finished_max(finished_max);
        let ledger = Arc::new(ledger);
        let load = Load {
            writers: 1,
            per_request: 1,
            time: Duration::from_secs(3),
        };
        println!("memory, {}", drive(ledger, clock, &load).await);
    }
}
