//! One assignment on an agent's desk: the task, the work so far, and what is under way.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use colony_agents::{Call, Desk, Effects, Kind, Ports, StepError, Tools, TypeSettings};
use colony_core::{
    cycle::{Output, Step, Work},
    escalation::risk::Policy as RiskPolicy,
    id::AgentId,
    port::Clock,
};
use colony_store::{Claim, Commit, Ledger};
use futures_util::FutureExt as _;
use tokio::{task::AbortHandle, time::timeout};

use super::{messages::Assignment, notebook::Notebook};
use crate::{
    market,
    telemetry::{Span, Telemetry, names},
};

/// What every agent of a type shares: its declaration and its ways to other rooms.
#[derive(Debug, Clone)]
pub(crate) struct Hands {
    /// The code of the six steps.
    pub(crate) kind: Arc<dyn Kind>,
    /// The declaration of the type.
    pub(crate) settings: Arc<TypeSettings>,
    /// The ports of the type.
    pub(crate) ports: Arc<Ports>,
    /// The node's tools.
    pub(crate) tools: Arc<Tools>,
    /// What counts as risky.
    pub(crate) risk: Arc<RiskPolicy>,
    /// The book.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// The market, told when the agent is free.
    pub(crate) market: market::Handle,
    /// The field, where success and danger are marked.
    pub(crate) field: crate::field::Field,
    /// Time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Spans.
    pub(crate) telemetry: Telemetry,
    /// Longest time of one step.
    pub(crate) step_timeout: Duration,
}

/// Why a step gave nothing.
#[derive(Debug, Clone)]
pub(crate) enum StepFailure {
    /// The step said so.
    Step(StepError),
    /// It panicked.
    Panicked(String),
    /// It took longer than allowed.
    TimedOut(Duration),
}

/// One assignment.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) claim: Claim,
    pub(crate) work: Arc<Work>,
    pub(crate) notebook: Arc<Notebook>,
    /// The step under way and its span.
    pub(crate) span: Option<Span>,
    /// Stops what is under way when the job is dropped.
    pub(crate) running: Option<AbortHandle>,
    /// The commit under way, kept for another try when the disk fails.
    pub(crate) commit: Option<Commit>,
    /// Tries of the present step or commit that failed in a way that may pass.
    pub(crate) tries: u32,
    /// A step of it panicked or hung.
    pub(crate) crashed: bool,
    agent: AgentId,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

impl Job {
    pub(crate) fn new(assignment: Assignment, agent: AgentId, hands: &Hands) -> Self {
        let notebook = Notebook::new(
            assignment.claim.reference,
            agent.clone(),
            Arc::clone(&hands.ledger),
            Arc::clone(&hands.clock),
            Arc::clone(&hands.tools),
            hands.telemetry.clone(),
        );
        Self {
            claim: assignment.claim,
            work: Arc::default(),
            notebook: Arc::new(notebook),
            span: None,
            running: None,
            commit: None,
            tries: 0,
            crashed: false,
            agent,
        }
    }

    /// Lays the desk out and begins `step`. The future owns everything it needs.
    pub(crate) fn begin(
        &mut self,
        step: Step,
        hands: &Hands,
    ) -> impl Future<Output = Result<Box<Output>, StepFailure>> + Send + use<> {
        self.notebook.rewind();
        let spec = &self.claim.spec;
        let mut span = hands.telemetry.child(spec.trace, step.as_str());
        if span.is_recording() {
            span.set(names::TASK_ID, self.claim.reference.task.to_string());
            span.set(names::AGENT_ID, self.agent.to_string());
            span.set(names::AGENT_TYPE, spec.agent_type.to_string());
            span.set(names::TENANT, spec.tenant.to_string());
        }
        let call = Call {
            task: self.claim.reference.task,
            fence: self.claim.reference.fence,
            tenant: spec.tenant.clone(),
            agent_type: spec.agent_type.clone(),
            agent: self.agent.clone(),
            priority: spec.priority,
            deadline: spec.deadline,
            trace: span.context(),
        };
        self.span = Some(span);
        let desk = Desk {
            spec: Arc::clone(spec),
            work: Arc::clone(&self.work),
            settings: Arc::clone(&hands.settings),
            call,
            ports: Arc::clone(&hands.ports),
            risk: Arc::clone(&hands.risk),
            effects: Arc::clone(&self.notebook) as Arc<dyn Effects>,
        };
        let kind = Arc::clone(&hands.kind);
        let limit = hands.step_timeout;
        async move {
            let step = AssertUnwindSafe(async { kind.step(step, &desk).await }).catch_unwind();
            match timeout(limit, step).await {
                Ok(Ok(Ok(output))) => Ok(Box::new(output)),
                Ok(Ok(Err(error))) => Err(StepFailure::Step(error)),
                Ok(Err(panic)) => Err(StepFailure::Panicked(panic_text(panic.as_ref()))),
                Err(_) => Err(StepFailure::TimedOut(limit)),
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
        .to_owned()
}
