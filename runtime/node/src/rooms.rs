//! What the doors may ask of the node: every request from outside ends in one of these.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use colony_agents::TypeSettings;
use colony_core::{
    admission::{Limits, Refusal},
    cycle::{Decision, Ruling},
    id::{ApprovalId, Incarnation, NodeId, TaskId},
    journal::Past,
    port::{self, Clock},
    task::{Spec, State, TraceContext},
    unit::Timestamp,
};
use colony_store::{ApprovalFilter, Ledger, LedgerError, NewTask, Submitted};
use parking_lot::Mutex;
use rand::RngCore;
use tokio::sync::Semaphore;

use crate::{
    field::Field,
    market,
    memory::Memory,
    ports::Membership,
    roster::Roster,
    telemetry::{Telemetry, ago, names},
    view::{AgentView, ModelView, Status},
    workers::Workers,
};

/// When a refused submitter should come back: a few group commits later.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The rooms of one node.
#[derive(Debug)]
pub struct Rooms {
    /// The node's name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// When this life began.
    pub started_at: Timestamp,
    /// The declared agent types, by name.
    pub types: Vec<Arc<TypeSettings>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The book, for reading.
    pub ledger: Arc<dyn Ledger>,
    /// The trails.
    pub field: Field,
    /// What was learned.
    pub memory: Memory,
    /// The models.
    pub workers: Workers,
    /// Spans.
    pub telemetry: Telemetry,
    pub(crate) market: market::Handle,
    pub(crate) roster: Roster,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) admission: Limits,
    pub(crate) submits: Semaphore,
    pub(crate) draining: AtomicBool,
    pub(crate) ids: Ids,
}

/// Where task ids come from.
pub(crate) struct Ids(pub(crate) Mutex<Box<dyn RngCore + Send>>);

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids")
    }
}

/// Why a submission was not accepted; then nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// One of the tasks breaks a rule.
    #[error("task {index}: {refusal}")]
    Refused {
        /// Its place in the batch, from 0.
        index: usize,
        /// The rule.
        refusal: Refusal,
    },
    /// Too many submissions wait for the disk.
    #[error("{in_flight} submissions wait for the disk, the limit")]
    Busy {
        /// How many.
        in_flight: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// The node is stopping.
    #[error("the node is stopping and takes no tasks")]
    Draining,
    /// The book.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why feedback was not learned.
#[derive(Debug, thiserror::Error)]
pub enum FeedbackError {
    /// Nothing can be learned from this task.
    #[error("nothing can be learned from this task: {why}")]
    NotLearnable {
        /// Why.
        why: String,
    },
    /// The book.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl Rooms {
    /// Writes tasks down, all or none; answers in order. `parent` is the caller's trace, if it has one.
    ///
    /// Cancel-safe in the ledger's sense: dropped before it returns, all were written or none; with
    /// deduplication keys the call can be repeated.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(
        &self,
        specs: Vec<Spec>,
        parent: Option<TraceContext>,
    ) -> Result<Vec<Submitted>, SubmitError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let _permit = self.submits.try_acquire().map_err(|_| SubmitError::Busy {
            in_flight: self.admission.submits_in_flight_max,
            retry_after: BUSY_RETRY_AFTER,
        })?;
        self.admission
            .admit_batch(specs.len())
            .map_err(|refusal| SubmitError::Refused { index: 0, refusal })?;
        let now = self.clock.now();
        let mut tasks = Vec::with_capacity(specs.len());
        let mut roots = Vec::new();
        for (index, mut spec) in specs.into_iter().enumerate() {
            let mut root = self.telemetry.root(parent, "submit");
            let mut span = self.telemetry.child(root.context(), "admission");
            let admitted = self.admission.admit(&spec, now, |name| {
                self.types.iter().any(|settings| settings.name == *name)
            });
            if let Err(refusal) = admitted {
                span.fail(&refusal.to_string());
                return Err(SubmitError::Refused { index, refusal });
            }
            drop(span);
            spec.trace = root.context();
            let id = port::task_id(now, &mut **self.ids.0.lock());
            if root.is_recording() {
                root.set(names::TASK_ID, id.to_string());
                root.set(names::AGENT_TYPE, spec.agent_type.to_string());
                root.set(names::TENANT, spec.tenant.to_string());
                // Ends when the task is acknowledged.
                roots.push(root);
            }
            tasks.push(NewTask {
                id,
                spec: Arc::new(spec),
                now,
            });
        }
        let submitted = self.ledger.submit(tasks).await?;
        self.market.poke();
        Ok(submitted)
    }

    /// Ends a task; whoever works on it stops at its next step.
    ///
    /// # Errors
    /// `NoTask`, `Ended`, storage.
    pub async fn cancel(&self, task: TaskId) -> Result<State, LedgerError> {
        let was = self.ledger.cancel(task, self.clock.now()).await?;
        self.market.cancel(task);
        Ok(was)
    }

    /// Decides a question: the task goes on with the ruling.
    ///
    /// # Errors
    /// `NoApproval`, `Closed`, storage.
    pub async fn decide(&self, id: ApprovalId, decision: Decision) -> Result<TaskId, LedgerError> {
        let ruling = match &decision.ruling {
            Ruling::Accept => "accept",
            Ruling::Correct(_) => "correct",
            Ruling::Reject { .. } => "reject",
        };
        let now = self.clock.now();
        let task = self.ledger.decide(id, decision, now).await?;
        self.market.poke();
        self.trace_approval(id, ruling, now).await;
        Ok(task)
    }

    async fn trace_approval(&self, id: ApprovalId, ruling: &'static str, now: Timestamp) {
        if !self.telemetry.is_on() {
            return;
        }
        // Ids sort by time, so the page before this one ends at it: the question itself.
        let filter = ApprovalFilter {
            closed_too: true,
            limit: 1,
            after: before(id),
            ..Default::default()
        };
        let Ok(found) = self.ledger.approvals(filter).await else {
            return;
        };
        let Some(approval) = found.into_iter().find(|a| a.question.id == id) else {
            return;
        };
        let waited = ago(now, approval.asked_at);
        let mut span = self
            .telemetry
            .since(approval.spec.trace, "approval", waited);
        if span.is_recording() {
            span.set(names::TASK_ID, approval.task.to_string());
            span.set(names::DOUBT, approval.question.doubt.as_str());
            span.set(names::RULING, ruling);
        }
    }

    /// Teaches memory the right answer of a task, also after it has ended.
    ///
    /// # Errors
    /// [`FeedbackError`].
    pub async fn feedback(&self, task: TaskId, label: &str) -> Result<(), FeedbackError> {
        let record = self.ledger.get(task).await.map_err(FeedbackError::Ledger)?;
        let journal = self
            .ledger
            .journal(task)
            .await
            .map_err(FeedbackError::Ledger)?;
        let Some(percept) = Past::from_entries(journal).work.percept else {
            let why =
                "its agent has not perceived it yet; give feedback when it is done".to_owned();
            return Err(FeedbackError::NotLearnable { why });
        };
        let spec = &record.spec;
        self.memory
            .teach(&spec.tenant, &spec.agent_type, task, &percept, label)
            .await?;
        Ok(())
    }

    /// Every agent.
    pub async fn agents(&self) -> Vec<AgentView> {
        let held = self.market.observe().await.held;
        let at_work: BTreeMap<_, _> = held
            .into_iter()
            .map(|(task, agent)| (agent, task))
            .collect();
        let types: BTreeMap<_, _> = self.types.iter().map(|s| (&s.name, s)).collect();
        let standings = self.roster.standings().await;
        let views = standings.into_iter().map(|standing| {
            let task = at_work.get(&standing.id).copied();
            let settings = types.get(&standing.id.agent_type);
            AgentView {
                kind: settings.map(|s| s.kind.clone()).unwrap_or_default(),
                version: settings.map_or(0, |s| s.version),
                state: match (task, standing.awake) {
                    (Some(_), _) => "busy",
                    (None, true) => "idle",
                    (None, false) => "asleep",
                },
                task,
                track: standing.track,
                id: standing.id,
            }
        });
        views.collect()
    }

    /// Every model.
    #[must_use]
    pub fn models(&self) -> Vec<ModelView> {
        self.workers.views()
    }

    /// Whether the node takes tasks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire)
    }

    /// How the node stands.
    ///
    /// # Errors
    /// Storage.
    pub async fn status(&self) -> Result<Status, LedgerError> {
        let counts = self.ledger.counts().await?;
        let market = self.market.observe().await;
        let mut agents: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for standing in self.roster.standings().await {
            agents.entry(standing.id.agent_type).or_default().0 += 1;
        }
        for agent in market.held.values() {
            agents.entry(agent.agent_type.clone()).or_default().1 += 1;
        }
        Ok(Status {
            node: self.node.clone(),
            incarnation: self.incarnation,
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started_at,
            uptime: self.clock.now().since(self.started_at),
            counts,
            agents,
            episodes: self.memory.episodes() as u64,
            awarded: market.awarded,
            ready: self.is_ready(),
            members: self.membership.members(),
        })
    }
}

/// The id just below `id`.
fn before(id: ApprovalId) -> Option<ApprovalId> {
    let number = id.0.as_u128().checked_sub(1)?;
    Some(ApprovalId(uuid::Uuid::from_u128(number)))
}
