//! One run: a workload and a seed in, a history and its hash out.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use colony_core::{
    journal::Entry,
    property,
    task::{Record, State},
};
use colony_store::{Counts, Ledger, LedgerError, Policy, TaskFilter, memory::MemoryLedger};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    client::{self, History, Score, Scores},
    host::{self, Disk},
    workload::{Fault, FaultKind, Workload},
};

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// SHA-256 over the history, in hexadecimal: equal for equal seeds.
    pub history_hash: String,
    /// Lines of the history.
    pub events: usize,
    /// Tasks acknowledged.
    pub acknowledged: u64,
    /// Tasks that ended, each seen by its client.
    pub ended: u64,
    /// Submissions that had to be repeated.
    pub retries: u64,
    /// Faults that were injected.
    pub faults: usize,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// The history itself, a line an event, for stepping through a failure.
    #[serde(skip)]
    pub history: Vec<String>,
}

/// Why a run failed. The seed and the workload repeat it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The simulated time is used up and not everything has ended: liveness.
    #[error("after {seconds} simulated seconds {ended} of {total} tasks have ended")]
    NotLive {
        /// Simulated time.
        seconds: u64,
        /// Tasks that ended.
        ended: u64,
        /// Tasks in all.
        total: u64,
    },
    /// A property does not hold: safety.
    #[error("unsafe: {what}")]
    Unsafe {
        /// Which, and how.
        what: String,
    },
    /// The world itself failed.
    #[error("the simulation failed: {what}")]
    World {
        /// Its words.
        what: String,
    },
}

/// Runs a workload with a seed.
///
/// # Errors
/// [`RunError`]; the same seed gives the same one again.
///
/// # Panics
/// When the node or a client of the simulated world panics: a bug, which the same seed shows again.
pub fn run(workload: &Workload, seed: u64) -> Result<Report, RunError> {
    let workload = Arc::new(workload.clone());
    let policy = Policy {
        backoff_base: Duration::from_millis(20),
        ..Policy::default()
    };
    let sync = Duration::from_millis(workload.sync_ms);
    let disk: Disk = Arc::new(Mutex::new(MemoryLedger::with_sync_delay(policy, sync)));
    let (history, scores) = (History::default(), Scores::default());
    let total = u64::from(workload.clients.count) * u64::from(workload.clients.tasks);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .simulation_duration(Duration::from_secs(workload.seconds_max))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(workload.network.latency_ms_min))
        .max_message_latency(Duration::from_millis(workload.network.latency_ms_max))
        .tcp_capacity(1 << 16)
        .build();
    {
        let (workload, disk) = (Arc::clone(&workload), Arc::clone(&disk));
        sim.host("node", move || {
            host::live(Arc::clone(&workload), seed, Arc::clone(&disk))
        });
    }
    for number in 0..workload.clients.count {
        let client = client::submit_all(
            number,
            seed,
            Arc::clone(&workload),
            history.clone(),
            Arc::clone(&scores),
        );
        sim.client(format!("client{number}"), client);
    }
    sim.client(
        "reviewer",
        client::review(total, history.clone(), Arc::clone(&scores)),
    );

    let mut schedule = Schedule::new(&workload.faults);
    loop {
        schedule.apply(&mut sim, &history);
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let ended = scores.lock().expect("no panics while it is held").ended;
                if sim.elapsed() >= Duration::from_secs(workload.seconds_max) {
                    let seconds = workload.seconds_max;
                    return Err(RunError::NotLive {
                        seconds,
                        ended,
                        total,
                    });
                }
                return Err(RunError::World {
                    what: error.to_string(),
                });
            }
        }
    }
    let simulated_ms = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
    drop(sim);
    let score = std::mem::take(&mut *scores.lock().expect("no panics while it is held"));
    check(&disk, &score, total)?;
    let lines = history.lines();
    Ok(Report {
        history_hash: hash(&lines),
        events: lines.len(),
        acknowledged: score.acknowledged.len() as u64,
        ended: score.ended,
        retries: score.retries,
        faults: workload.faults.len(),
        simulated_ms,
        history: lines,
    })
}

/// The faults still to come and still to heal.
struct Schedule {
    /// (when, fault, whether it begins) in order of time.
    moments: std::collections::VecDeque<(u64, Fault, bool)>,
}

impl Schedule {
    fn new(faults: &[Fault]) -> Self {
        let begin = faults.iter().map(|fault| (fault.at_ms, *fault, true));
        let heal = faults
            .iter()
            .map(|fault| (fault.at_ms + fault.for_ms, *fault, false));
        let mut moments: Vec<_> = begin.chain(heal).collect();
        moments.sort_by_key(|(at, ..)| *at);
        Self {
            moments: moments.into(),
        }
    }

    fn apply(&mut self, sim: &mut turmoil::Sim<'_>, history: &History) {
        let now = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        while let Some((_, fault, begins)) = self.moments.pop_front_if(|(at, ..)| *at <= now) {
            match (fault.kind, begins) {
                (FaultKind::Cut, true) => sim.partition("client0", "node"),
                (FaultKind::Cut, false) => sim.repair("client0", "node"),
                (FaultKind::Crash, true) => sim.crash("node"),
                (FaultKind::Crash, false) => sim.bounce("node"),
            }
            let what = if begins { "begins" } else { "heals" };
            history.note_at(sim.elapsed(), &format!("{:?} {what}", fault.kind));
        }
    }
}

/// What must hold at the end: everything acknowledged is in the book, has ended, and is counted once; every
/// journal is without gaps and in the order of the cycle. It only reads, and leaves no line in the history.
fn check(disk: &Disk, score: &Score, total: u64) -> Result<(), RunError> {
    let wrong = |what: String| Err(RunError::Unsafe { what });
    let ledger = disk.lock().expect("no panics while it is held").crash();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| RunError::World {
            what: error.to_string(),
        })?;
    let book = runtime
        .block_on(read(&ledger))
        .map_err(|error| RunError::World {
            what: error.to_string(),
        })?;
    let accepted = book.counts.accepted;
    if let Err(broken) = property::conserved(accepted, &book.counts.by_state) {
        return wrong(broken.to_string());
    }
    if accepted != total {
        return wrong(format!("{total} submitted once each, {accepted} accepted"));
    }
    let listed = book.tasks.len() as u64;
    if listed != accepted {
        return wrong(format!("{accepted} accepted, {listed} listed"));
    }
    let ids: BTreeSet<String> = book
        .tasks
        .iter()
        .map(|(record, _)| record.id.to_string())
        .collect();
    if let Some(lost) = score.acknowledged.iter().find(|id| !ids.contains(*id)) {
        return wrong(format!(
            "task {lost} was acknowledged and is not in the book"
        ));
    }
    for (record, journal) in &book.tasks {
        let kept = property::gapless(journal).and_then(|()| property::cycle_kept(journal));
        if let Err(broken) = kept {
            return wrong(format!("task {}: {broken}", record.id));
        }
        if !record.state.is_final() {
            return wrong(format!("task {} is {} at the end", record.id, record.state));
        }
        if record.state == State::Dead {
            return wrong(format!("task {} is dead after one crash", record.id));
        }
    }
    Ok(())
}

/// What the book says at the end.
struct Book {
    counts: Counts,
    /// Every task with its journal, newest first.
    tasks: Vec<(Record, Vec<Entry>)>,
}

/// Reads the whole book, page by page.
async fn read(ledger: &MemoryLedger) -> Result<Book, LedgerError> {
    let counts = ledger.counts().await?;
    let mut tasks = Vec::new();
    let mut filter = TaskFilter::default();
    loop {
        let page = ledger.list(filter.clone()).await?;
        let Some(last) = page.last() else {
            return Ok(Book { counts, tasks });
        };
        filter.before = Some(last.id);
        for record in page {
            let journal = ledger.journal(record.id).await?;
            tasks.push((record, journal));
        }
    }
}

fn hash(lines: &[String]) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
