//! A whole node at full load: tasks that do nothing, by the path that every task takes.
//!
//! ```text
//!   feeder ── Rooms::submit ──► admission ► ledger ► market ► agent: six steps ► commit ► market
//! ```
//! The node is [`Node`] as `colony node` starts it, with the default limits; its ledger is in memory, its
//! agents are of kind `echo`. Every task is admitted under a permit, written down, claimed, auctioned,
//! journalled step by step and committed under its fence. Left out: the gRPC API and the disk, which have
//! figures of their own. Each run measures with sampling off and then with 1 % of the tasks traced, whose
//! spans go through a batch processor to an exporter that drops them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use colony_core::{id::TypeName, port::Clock, task::Spec, task::State};
use colony_node::{
    Config, Dependencies, Node, NodeHandle, Problem,
    config::{AgentType, StoreEngine},
    ports::{SystemClock, SystemRandom},
    telemetry::Telemetry,
};
use colony_store::{Counts, MemoryLedger, TaskFilter, property};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::{task::JoinSet, time::Instant};

use super::{AGENTS, cpu_time, figure::Figure};
use crate::{
    errors::{Failure, chain},
    output::Output,
    stats::rate,
};

/// The declared type, and its kind.
const KIND: &str = "echo";
/// Tasks under way at once: enough that no agent waits for work, few enough that none waits long.
const WINDOW: u64 = 4_000;
/// Tasks of one submission.
const BATCH: u64 = 250;
/// Pause of the feeder when the window is full; some 50 tasks end meanwhile.
const PAUSE: Duration = Duration::from_millis(1);
/// Before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// Length of one measurement.
const MEASURED: Duration = Duration::from_secs(5);
/// Finished tasks that the ledger keeps in detail, so that a run of any length fits into memory.
const KEPT: usize = 20_000;
/// Longest wait for the last tasks.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The share of tasks that is traced in the second half of a run.
const SAMPLED: f64 = 0.01;

/// Counts spans and drops them.
#[derive(Debug, Clone, Default)]
struct Discard(Arc<AtomicU64>);

impl SpanExporter for Discard {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// One measurement.
#[derive(Debug, Default)]
struct Lap {
    rate: f64,
    /// Processor time of one task, over all threads.
    cpu_us: f64,
    waits: Vec<Duration>,
    spans: u64,
}

/// Tasks a second, untraced and with 1 % traced.
pub(super) async fn measure(runs: u32, out: Output) -> Result<Figure, Failure> {
    let (mut plain, mut sampled) = (Vec::new(), Vec::new());
    let (mut waits, mut cpu, mut spans) = (Vec::new(), Vec::new(), 0);
    for run in 1..=runs {
        out.note(&format!("market: run {run} of {runs}"));
        let mut lap = lap(0.0).await?;
        plain.push(lap.rate);
        cpu.push(lap.cpu_us);
        waits.append(&mut lap.waits);
        let lap = self::lap(SAMPLED).await?;
        sampled.push(lap.rate);
        spans += lap.spans;
    }
    Ok(Figure::new("market", "tasks/s", plain)
        .with_latency("submit to done", waits)
        .with_runs("sampled_1_percent", &sampled)
        .with("spans_exported", spans)
        .with_runs("cpu_us_per_task", &cpu)
        .with("agents", AGENTS)
        .with("steps_per_task", 6)
        .with("tasks_under_way", WINDOW))
}

/// Starts a node, loads it, stops it.
async fn lap(sample_ratio: f64) -> Result<Lap, Failure> {
    let exporter = Discard::default();
    let spans = Arc::clone(&exporter.0);
    let provider = (sample_ratio > 0.0).then(|| {
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .build()
    });
    let config = config();
    let random = Arc::new(SystemRandom);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let ledger = MemoryLedger::new(config.ledger.clone(), Arc::clone(&clock)).finished_max(KEPT);
    let telemetry = Telemetry::new(provider.as_ref(), sample_ratio, &*random);
    let mut dependencies = Dependencies::new(clock, random, Arc::new(ledger));
    dependencies.telemetry = telemetry;
    let node = Node::start(&config, dependencies)
        .await
        .map_err(|error| Failure::failed(chain(&error)))?;
    let handle = node.handle();
    // Beside the agents, on a worker thread like any API of the node.
    let mut feeder = JoinSet::new();
    feeder.spawn(async move { load(&handle).await });
    let mut lap = match feeder.join_next().await {
        Some(Ok(loaded)) => loaded?,
        Some(Err(panic)) => return Err(Failure::failed(format!("the load broke off: {panic}"))),
        None => return Err(Failure::failed("the load did not begin")),
    };
    if !node.stop().await {
        return Err(Failure::failed("not all agents left in time"));
    }
    if let Some(provider) = provider {
        let shut = provider.shutdown();
        shut.map_err(|error| Failure::failed(chain(&error)))?;
    }
    lap.spans = spans.load(Ordering::Relaxed);
    Ok(lap)
}

fn config() -> Config {
    let declared = AgentType {
        kind: KIND.to_owned(),
        count: AGENTS,
        ..AgentType::default()
    };
    let mut config = Config {
        agents: BTreeMap::from([(KIND.to_owned(), declared)]),
        ..Config::default()
    };
    config.store.engine = StoreEngine::Memory;
    config
}

/// Keeps the window full, counts what ends, and sees to it that everything ends once.
async fn load(node: &NodeHandle) -> Result<Lap, Failure> {
    let kind = TypeName::new(KIND).map_err(|error| Failure::failed(chain(&error)))?;
    let begun = Instant::now();
    let mut submitted = 0;
    let mut first: Option<(Instant, Duration, u64)> = None;
    let (rate, cpu_us) = loop {
        let counts = counts(node).await?;
        let (now, done) = (Instant::now(), done(&counts));
        match first {
            None if now - begun >= WARM_UP => {
                first = Some((now, cpu_time(), done));
            }
            Some((since, cpu, before)) if now - since >= MEASURED => {
                let tasks = done - before;
                let a_second = rate(tasks, cpu_time().saturating_sub(cpu));
                break (rate(tasks, now - since), 1e6 / a_second.max(1.0));
            }
            None | Some(_) => {}
        }
        let mut free = WINDOW.saturating_sub(submitted - done);
        while free >= BATCH {
            let specs = (submitted..submitted + BATCH)
                .map(|number| Spec::new(kind.clone(), format!("task {number}")).into())
                .collect();
            node.submit(specs, None).await.map_err(refused)?;
            submitted += BATCH;
            free -= BATCH;
        }
        tokio::time::sleep(PAUSE).await;
    };
    while done(&counts(node).await?) < submitted {
        if begun.elapsed() > WARM_UP + MEASURED + WAIT_MAX {
            return Err(Failure::failed("some tasks have not ended"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let counts = counts(node).await?;
    property::conservation(&counts).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Lap {
        rate,
        cpu_us,
        waits: waits(node).await?,
        spans: 0,
    })
}

async fn counts(node: &NodeHandle) -> Result<Counts, Failure> {
    let counts = node.counts().await;
    counts.map_err(|error| Failure::failed(chain(&error)))
}

fn done(counts: &Counts) -> u64 {
    counts.by_state.get(&State::Done).copied().unwrap_or(0)
}

/// From acknowledgement to end, of the tasks that the ledger still knows.
async fn waits(node: &NodeHandle) -> Result<Vec<Duration>, Failure> {
    let mut waits = Vec::new();
    let mut filter = TaskFilter::default();
    loop {
        let page = node.tasks(filter.clone()).await;
        let page = page.map_err(|error| Failure::failed(chain(&error)))?;
        let Some(last) = page.items.last() else {
            return Ok(waits);
        };
        filter.before = Some(last.head.id);
        let took = page
            .items
            .iter()
            .map(|task| task.head.updated_at.since(task.head.submitted_at));
        waits.extend(took);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: Problem) -> Failure {
    Failure::failed(chain(&error))
}
