//! Durable tasks: submitted, claimed and completed on SQLite, each synced to the disk before its answer.
//!
//! Many submitters work at once, as many agents do; each waits for one answer before it asks the next. What
//! waits while the disk syncs goes out with the next sync, so there are fewer syncs than answers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_core::{
    cycle::{Output as StepOutput, Percept},
    id::{Incarnation, NodeId, QueueName, TypeName},
    journal::{Entry, Note},
    port::{self, Clock, RandomSource as _},
    task::{Answer, Ending, Spec},
};
use colony_node::ports::{SystemClock, SystemRandom};
use colony_store::{
    Claim, ClaimRequest, Commit, Ledger, LedgerError, NewTask, Others, Policy, Settlement,
    SqliteLedger, property,
};
use tokio::{task::JoinSet, time::Instant};

use super::figure::Figure;
use crate::{
    errors::{Failure, chain},
    output::Output,
    stats::rate,
};

/// Submitters at work at once; a tenth of the agents of a full node.
const SUBMITTERS: u32 = 128;
/// Length of one run.
const MEASURED: Duration = Duration::from_secs(5);
/// The agent type of the tasks.
const KIND: &str = "bench";

/// What one run found.
#[derive(Debug, Default)]
struct Lap {
    tasks: u64,
    waits: Vec<Duration>,
}

/// Durable tasks a second, and the syncs that it took.
pub(super) async fn measure(runs: u32, out: Output) -> Result<Figure, Failure> {
    let (mut tasks, mut syncs, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        out.note(&format!("ledger: run {run} of {runs}"));
        // Where the user works, because that is a disk; the system's temporary folder may be memory.
        let folder = tempfile::Builder::new()
            .prefix(".colony-bench-")
            .tempdir_in(".")
            .map_err(|error| Failure::failed(format!("cannot make a folder here: {error}")))?;
        let path = folder.path().join("colony.db");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let opened = tokio::task::spawn_blocking(move || {
            SqliteLedger::open(&path, Policy::default(), clock)
        });
        let ledger = match opened.await {
            Ok(opened) => Arc::new(opened.map_err(failed)?),
            Err(panic) => {
                return Err(Failure::failed(format!(
                    "opening the ledger broke off: {panic}"
                )));
            }
        };
        let before = ledger.counts().await.map_err(failed)?;
        let begun = Instant::now();
        let mut lap = lap(&ledger).await?;
        let time = begun.elapsed();
        let counts = ledger.counts().await.map_err(failed)?;
        property::conservation(&counts).map_err(|error| Failure::failed(error.to_string()))?;
        tasks.push(rate(lap.tasks, time));
        syncs.push(rate(counts.syncs - before.syncs, time));
        waits.append(&mut lap.waits);
        ledger.close().await;
    }
    Ok(Figure::new("ledger", "tasks/s", tasks)
        .with_latency("submit to acknowledgement", waits)
        .with_runs("syncs_per_s", &syncs)
        .with("durable_writes_per_task", 3)
        .with("submitters", SUBMITTERS))
}

async fn lap(ledger: &Arc<SqliteLedger>) -> Result<Lap, Failure> {
    let kind = TypeName::new(KIND).map_err(|error| Failure::failed(chain(&error)))?;
    let mut submitters = JoinSet::new();
    for number in 0..SUBMITTERS {
        // A node each: a node has one claim under way at a time.
        let name = format!("bench-{number}");
        let node = NodeId::new(&name).map_err(|error| Failure::failed(chain(&error)))?;
        let registered = ledger
            .register(&node, Others::Nodes)
            .await
            .map_err(failed)?;
        let submitter = Submitter {
            ledger: Arc::clone(ledger),
            number: u64::from(number),
            node,
            incarnation: registered.incarnation,
            spec: Arc::new(Spec::new(kind.clone(), "the printer on floor 3 is on fire")),
        };
        submitters.spawn(submitter.work());
    }
    let mut whole = Lap::default();
    while let Some(ended) = submitters.join_next().await {
        let mut lap = match ended {
            Ok(ended) => ended.map_err(failed)?,
            Err(panic) => return Err(Failure::failed(format!("a submitter broke off: {panic}"))),
        };
        whole.tasks += lap.tasks;
        whole.waits.append(&mut lap.waits);
    }
    Ok(whole)
}

/// One of those who wait.
#[derive(Debug)]
struct Submitter {
    ledger: Arc<SqliteLedger>,
    number: u64,
    node: NodeId,
    incarnation: Incarnation,
    spec: Arc<Spec>,
}

impl Submitter {
    /// Submit, claim, complete; the next only after the answer.
    async fn work(self) -> Result<Lap, LedgerError> {
        let begun = Instant::now();
        let mut rng = SystemRandom.stream("bench", self.number);
        let mut lap = Lap::default();
        let queue = QueueName::from(&self.spec.agent_type);
        for batch in 1.. {
            if begun.elapsed() >= MEASURED {
                break;
            }
            let task = NewTask {
                id: port::task_id(self.ledger.now(), &mut *rng),
                spec: Arc::clone(&self.spec),
                refusal: None,
            };
            let asked = Instant::now();
            self.ledger.submit(vec![task]).await?;
            lap.waits.push(asked.elapsed());
            // Whichever task is first in line: as many are claimed as are submitted.
            let request = ClaimRequest {
                node: self.node.clone(),
                incarnation: self.incarnation,
                batch,
                free: BTreeMap::from([(queue.clone(), 1)]),
                total: 1,
            };
            for claim in self.ledger.claim(request).await?.claims {
                self.ledger.commit(self.complete(&claim)).await?;
                lap.tasks += 1;
            }
        }
        Ok(lap)
    }

    fn complete(&self, claim: &Claim) -> Commit {
        let percept = Percept {
            text: self.spec.input.to_string(),
            vector: None,
        };
        let ending = Ending::Done(Answer::by_rule("facilities", "a bench"));
        let mut commit = Commit::settling(claim.reference(), Settlement::End(ending));
        commit.entries.push(Entry {
            sequence: 0,
            at: self.ledger.now(),
            note: Note::Output(StepOutput::Perceive(percept)),
        });
        commit
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: LedgerError) -> Failure {
    Failure::failed(chain(&error))
}
