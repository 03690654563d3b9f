//! The way into the node: every request from outside ends in one of these verbs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use colony_agents::TypeSettings;
use colony_core::{
    admission::Limits,
    cycle::Decision,
    escalation::known_label,
    field::{Cell, Location},
    id::{ApprovalId, Incarnation, NodeId, RequestId, TaskId, Tenant},
    journal::{Entry, Past},
    port,
    task::{Spec, State, TraceContext},
    unit::{Ratio, Timestamp},
};
use colony_store::{
    Approval, ApprovalFilter, Change, Counts, Cursor, Decided, Ledger, LedgerError, MessageId,
    NewTask, OutboxFilter, PAGE_MAX, Page, Posted, Record, Submitted, TaskFilter, Verification,
};
use parking_lot::Mutex;
use rand::RngCore;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::{
    approvals::Approvals,
    breakers::Breakers,
    field::Field,
    market,
    memory::{Memory, TeachError},
    ports::Membership,
    problem::Problem,
    root::{self, Health},
    roster::{AgentStatus, Roster},
    telemetry::{Telemetry, names},
    view::{AgentView, ApprovalTotals, ModelTest, ModelView, Status},
    workers::Workers,
};

/// When a refused submitter should come back: a few group commits later.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A task as a client hands it in.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Made by the client, so that a repeat is known for one; none: drawn here.
    pub id: Option<TaskId>,
    /// What is asked.
    pub spec: Spec,
}

impl From<Spec> for Submission {
    fn from(spec: Spec) -> Self {
        Self { id: None, spec }
    }
}

/// The way into one node; clones are handles on the same one.
///
/// Every verb is cancel-safe in the ledger's sense: dropped before it returns, it was done whole or not at
/// all, and with the same ids it can be repeated. What follows from a durable write happens also when the
/// caller has left.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    inner: Arc<Inner>,
}

/// The components of one node.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) started_at: Timestamp,
    pub(crate) types: Vec<Arc<TypeSettings>>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) approvals: Approvals,
    pub(crate) field: Field,
    pub(crate) memory: Memory,
    pub(crate) workers: Workers,
    pub(crate) telemetry: Telemetry,
    pub(crate) breakers: Breakers,
    pub(crate) market: market::Handle,
    pub(crate) roster: Roster,
    pub(crate) root: root::Handle,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) admission: Limits,
    pub(crate) submits: Arc<Semaphore>,
    pub(crate) ids: Ids,
}

/// Where ids come from that no client has made.
pub(crate) struct Ids(pub(crate) Mutex<Box<dyn RngCore + Send>>);

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids")
    }
}

impl NodeHandle {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    // Tasks.

    /// Writes tasks down, all or none; answers in order. `parent` is the caller's trace, if it has one.
    ///
    /// # Errors
    /// `Draining`, `Failed`, `Busy`, or the ledger's.
    pub async fn submit(
        &self,
        submissions: Vec<Submission>,
        parent: Option<TraceContext>,
    ) -> Result<Vec<Submitted>, Problem> {
        let node = &*self.inner;
        self.takes_work()?;
        let submits = Arc::clone(&node.submits);
        let permit = submits.try_acquire_owned().map_err(|_| Problem::Busy {
            in_flight: node.admission.submits_in_flight_max,
            retry_after: BUSY_RETRY_AFTER,
        })?;
        node.admission
            .admit_batch(submissions.len())
            .map_err(|refusal| LedgerError::Refused { index: 0, refusal })?;
        let now = node.ledger.now();
        let mut tasks = Vec::with_capacity(submissions.len());
        let mut roots = Vec::new();
        for Submission { id, mut spec } in submissions {
            let mut root = node.telemetry.root(parent, "submit");
            let mut span = node.telemetry.child(root.context(), "admission");
            let admitted = node.admission.admit(&spec, now, |name| {
                node.types.iter().any(|settings| settings.name == *name)
            });
            // The ledger refuses it, unless it is the repeat of a task that was let in.
            let refusal = admitted.err();
            if let Some(refusal) = &refusal {
                span.fail("refused", &refusal.to_string());
            }
            drop(span);
            spec.trace = root.context();
            let id = id.unwrap_or_else(|| port::task_id(now, &mut **node.ids.0.lock()));
            if root.is_recording() {
                root.set(names::TASK_ID, id.to_string());
                root.set(names::GEN_AI_AGENT_NAME, spec.agent_type.to_string());
                root.set(names::TENANT, spec.tenant.to_string());
                // Ends when the task is acknowledged.
                roots.push(root);
            }
            tasks.push(NewTask {
                id,
                spec: Arc::new(spec),
                refusal,
            });
        }
        let ledger = Arc::clone(&node.ledger);
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the write it waits for"
        )]
        let written = tokio::spawn(async move {
            let submitted = ledger.submit(tasks).await;
            // A caller who leaves does not take his write out of the queue: it counts until it is answered.
            drop((permit, roots));
            submitted
        });
        Ok(written.await.unwrap_or(Err(LedgerError::Shut))?)
    }

    /// Ends a task; whoever works on it stops at its next step. Returns the state it was in; the repeat of
    /// a request is answered `Cancelled`.
    ///
    /// # Errors
    /// `NoTask`, `Ended`, `RequestConflict`, storage.
    pub async fn cancel(&self, task: TaskId, request: RequestId) -> Result<State, Problem> {
        let was = self.inner.ledger.cancel(task, request).await?;
        self.inner.market.cancel(task);
        Ok(was)
    }

    /// Makes a dead, cancelled or expired task ready again. Returns the state it was in; the repeat of a request
    /// is answered `Ready`.
    ///
    /// # Errors
    /// `NoTask`, `NotRevivable`, `Full`, `RequestConflict`, storage.
    pub async fn revive(&self, task: TaskId, request: RequestId) -> Result<State, Problem> {
        self.takes_work()?;
        Ok(self.inner.ledger.revive(task, request).await?)
    }

    /// One task, live or ended.
    ///
    /// # Errors
    /// `NoTask`, storage.
    pub async fn task(&self, task: TaskId) -> Result<Record, Problem> {
        Ok(self.inner.ledger.get(task).await?)
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// Storage.
    pub async fn tasks(&self, filter: TaskFilter) -> Result<Page<Record>, Problem> {
        Ok(self.inner.ledger.list(filter).await?)
    }

    /// A task's journal, in order.
    ///
    /// # Errors
    /// `NoTask`, storage.
    pub async fn journal(&self, task: TaskId) -> Result<Vec<Entry>, Problem> {
        Ok(self.inner.ledger.journal(task).await?)
    }

    /// Teaches memory the right answer of a task, also after it has ended.
    ///
    /// # Errors
    /// `NotLearnable`, `NoTask`, storage.
    pub async fn feedback(&self, task: TaskId, label: &str) -> Result<(), Problem> {
        let node = &*self.inner;
        let record = node.ledger.get(task).await?;
        let journal = node.ledger.journal(task).await?;
        let Some(percept) = Past::from_entries(journal).work.percept else {
            let why =
                "its agent has not perceived it yet; give feedback when it is done".to_owned();
            return Err(Problem::NotLearnable { why });
        };
        let spec = &record.spec;
        let taught = node
            .memory
            .teach(&spec.tenant, &spec.agent_type, task, &percept, label)
            .await;
        taught.map_err(|error| match error {
            TeachError::Ledger(error) => Problem::Ledger(error),
            error @ (TeachError::NoVector | TeachError::WrongLength { .. }) => {
                let why = error.to_string();
                Problem::NotLearnable { why }
            }
        })
    }

    // Questions.

    /// Decides a question: the task goes on with the answer.
    ///
    /// # Errors
    /// `NoApproval`, `Decided`, `Closed`, `RequestConflict`, storage.
    pub async fn decide(
        &self,
        id: ApprovalId,
        request: RequestId,
        decision: Decision,
    ) -> Result<Decided, Problem> {
        Ok(self.inner.approvals.decide(id, request, decision).await?)
    }

    /// When the answer to a question is due; none: it is never late.
    #[must_use]
    pub fn due_at(&self, approval: &Approval) -> Option<Timestamp> {
        let asked_by = |settings: &&Arc<TypeSettings>| settings.name == approval.spec.agent_type;
        let settings = self.inner.types.iter().find(asked_by)?;
        settings.approvals.at(approval.asked_at)
    }

    /// One question.
    ///
    /// # Errors
    /// `NoApproval`, storage.
    pub async fn approval(&self, id: ApprovalId) -> Result<Approval, Problem> {
        Ok(self.inner.ledger.approval(id).await?)
    }

    /// How many questions a filter finds, whatever page it asks for.
    ///
    /// # Errors
    /// Storage.
    pub async fn count_approvals(
        &self,
        mut filter: ApprovalFilter,
    ) -> Result<ApprovalTotals, Problem> {
        let mut totals = ApprovalTotals::default();
        (filter.after, filter.limit) = (None, PAGE_MAX);
        loop {
            let page = self.inner.ledger.approvals(filter.clone()).await?;
            for approval in &page.items {
                *totals
                    .by_escalation_reason
                    .entry(approval.question.escalation_reason)
                    .or_default() += 1;
                totals.oldest = totals.oldest.or(Some(approval.asked_at));
            }
            match page.items.last() {
                Some(last) if page.more => filter.after = Some(last.question.id),
                Some(_) | None => return Ok(totals),
            }
        }
    }

    /// The labels that the memory of a task's agent type knows, in order.
    #[must_use]
    pub fn known_labels(&self, spec: &Spec) -> Vec<String> {
        self.inner.memory.labels(&spec.tenant, &spec.agent_type)
    }

    /// Refuses a label that the memory of a task's agent type does not know.
    ///
    /// # Errors
    /// `UnknownLabel`.
    pub fn check_label(&self, spec: &Spec, label: &str) -> Result<(), Problem> {
        Ok(known_label(label, &self.known_labels(spec))?)
    }

    /// A page of questions, oldest first.
    ///
    /// # Errors
    /// Storage.
    pub async fn approvals(&self, filter: ApprovalFilter) -> Result<Page<Approval>, Problem> {
        Ok(self.inner.ledger.approvals(filter).await?)
    }

    // The ledger as a whole.

    /// Names the ledger among all others: cursors are good for one ledger only.
    #[must_use]
    pub fn ledger_id(&self) -> Uuid {
        self.inner.ledger.id()
    }

    /// Draws an id for a request that came without one.
    #[must_use]
    pub fn draw_request(&self) -> RequestId {
        let mut random = [0; 16];
        self.inner.ids.0.lock().fill_bytes(&mut random);
        RequestId::new(random)
    }

    /// Changes after a cursor, oldest first.
    ///
    /// # Errors
    /// `OutOfRange`, storage.
    pub async fn changes(&self, after: Cursor, limit: u32) -> Result<Vec<Change>, Problem> {
        Ok(self.inner.ledger.changes(after, limit).await?)
    }

    /// The highest cursor made durable; wakes watchers.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Cursor> {
        self.inner.ledger.latest()
    }

    /// A page of the outbox, oldest first.
    ///
    /// # Errors
    /// Storage.
    pub async fn outbox(&self, filter: OutboxFilter) -> Result<Page<Posted>, Problem> {
        Ok(self.inner.ledger.outbox(filter).await?)
    }

    /// The highest number of a message of the outbox made durable; wakes who delivers them.
    #[must_use]
    pub fn posted(&self) -> watch::Receiver<u64> {
        self.inner.ledger.posted()
    }

    /// Notes that messages were delivered; returns those that are not there.
    ///
    /// # Errors
    /// Storage.
    pub async fn acknowledge(&self, messages: Vec<MessageId>) -> Result<Vec<MessageId>, Problem> {
        Ok(self.inner.ledger.acknowledge(messages).await?)
    }

    /// How many tasks are in each state.
    ///
    /// # Errors
    /// Storage.
    pub async fn counts(&self) -> Result<Counts, Problem> {
        Ok(self.inner.ledger.counts().await?)
    }

    /// Reads the whole ledger and compares it with its checksums and counters.
    ///
    /// # Errors
    /// Storage.
    pub async fn verify(&self) -> Result<Verification, Problem> {
        Ok(self.inner.ledger.verify().await?)
    }

    /// The ledger's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.ledger.now()
    }

    // Agents, models, field.

    /// The declared agent types, by name.
    #[must_use]
    pub fn types(&self) -> &[Arc<TypeSettings>] {
        &self.inner.types
    }

    /// Every agent.
    ///
    /// # Errors
    /// `Silent`.
    pub async fn agents(&self) -> Result<Vec<AgentView>, Problem> {
        let node = &*self.inner;
        let held = self.observe_market().await?.held;
        let at_work: BTreeMap<_, _> = held
            .into_iter()
            .map(|(task, agent)| (agent, task))
            .collect();
        let types: BTreeMap<_, _> = node.types.iter().map(|s| (&s.name, s)).collect();
        let states = node.roster.states().await;
        let views = states.into_iter().map(|agent| {
            let task = at_work.get(&agent.id).copied();
            let settings = types.get(&agent.id.agent_type);
            AgentView {
                kind: settings.map(|s| s.kind.clone()).unwrap_or_default(),
                version: settings.map_or(0, |s| s.version),
                state: match (task, agent.status) {
                    (Some(_), _) => "busy",
                    (None, AgentStatus::Active) => "idle",
                    (None, AgentStatus::Row) => "asleep",
                    (None, AgentStatus::Down) => "down",
                },
                task,
                track: agent.track,
                id: agent.id,
            }
        });
        Ok(views.collect())
    }

    /// Every model.
    #[must_use]
    pub fn models(&self) -> Vec<ModelView> {
        self.inner.workers.views()
    }

    /// Runs one request through a model.
    ///
    /// # Errors
    /// The model's refusal; there is none of this name.
    pub async fn test_model(&self, name: &str, text: &str) -> Result<ModelTest, Problem> {
        Ok(self.inner.workers.test(name, text).await?)
    }

    /// The readings of a tenant's cells at `location` and below it, in order.
    #[must_use]
    pub fn sense_within(&self, tenant: &Tenant, location: &Location) -> Vec<(Cell, Ratio)> {
        self.inner.field.sense_within(tenant, location)
    }

    /// Episodes in memory.
    #[must_use]
    pub fn episodes(&self) -> usize {
        self.inner.memory.episodes()
    }

    // The node.

    /// How the node is; the channel closes when nothing watches over it any more, which is a failure too.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.root.health()
    }

    /// Whether the node takes tasks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !matches!(*self.health().borrow(), Health::Stalled(_)) && self.takes_work().is_ok()
    }

    fn takes_work(&self) -> Result<(), Problem> {
        let health = self.inner.root.health();
        if health.has_changed().is_err() {
            let reason = "its root supervisor has ended".to_owned();
            return Err(Problem::Failed { reason });
        }
        let now = health.borrow().clone();
        match now {
            Health::Starting | Health::Serving | Health::Stalled(_) => Ok(()),
            Health::Draining => Err(Problem::Draining),
            Health::Failed(reason) => Err(Problem::Failed { reason }),
        }
    }

    /// How the node stands.
    ///
    /// # Errors
    /// `Silent`, storage.
    pub async fn status(&self) -> Result<Status, Problem> {
        let node = &*self.inner;
        let counts = node.ledger.counts().await?;
        let market = self.observe_market().await?;
        let mut agents: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        let mut down = 0;
        for agent in node.roster.states().await {
            down += u64::from(agent.status == AgentStatus::Down);
            agents.entry(agent.id.agent_type).or_default().0 += 1;
        }
        for agent in market.held.values() {
            agents.entry(agent.agent_type.clone()).or_default().1 += 1;
        }
        Ok(Status {
            node: node.node.clone(),
            incarnation: node.incarnation,
            version: env!("CARGO_PKG_VERSION"),
            started_at: node.started_at,
            uptime: node.ledger.now().since(node.started_at),
            counts,
            agents,
            down,
            open_ports: node.breakers.open(),
            episodes: node.memory.episodes() as u64,
            awarded: market.awarded,
            ready: self.is_ready(),
            members: node.membership.members(),
        })
    }

    async fn observe_market(&self) -> Result<market::Observation, Problem> {
        let observed = self.inner.market.observe().await;
        observed.map_err(|market::Silent| Problem::Silent {
            component: "the market",
        })
    }
}
