//! One assignment on an agent's desk: the task, the work so far, and what is under way.

use std::{
    future::poll_fn, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration,
};

use colony_agents::{Call, Desk, Effects, Kind, Ports, StepError, Tools, TypeSettings};
use colony_core::{
    cycle::{Output, Step, Work},
    escalation::risk::Policy as RiskPolicy,
    id::AgentId,
    journal::Past,
    port::Clock,
};
use colony_store::{Claim, Commit, Ledger};
use futures_util::FutureExt as _;
use tokio::{task::AbortHandle, time::timeout};

use super::notebook::Notebook;
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
    pub(crate) notebook: Arc<Notebook>,
    /// Laid out once for all steps: most of what is on it is shared by every agent of the type, and
    /// to count its owners anew for each step costs more than a step that does nothing.
    place: Arc<Place>,
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
}

/// What a step works with.
#[derive(Debug, Clone)]
struct Place {
    desk: Desk,
    hands: Arc<Hands>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

impl Job {
    /// Lays the desk out.
    pub(crate) fn new(claim: Claim, agent: AgentId, hands: &Arc<Hands>) -> Self {
        let notebook = Notebook::new(claim.reference, agent.clone(), Arc::clone(hands));
        let notebook = Arc::new(notebook);
        let spec = &claim.spec;
        let call = Call {
            task: claim.reference.task,
            fence: claim.reference.fence,
            tenant: spec.tenant.clone(),
            agent_type: spec.agent_type.clone(),
            agent,
            priority: spec.priority,
            deadline: spec.deadline,
            trace: spec.trace,
        };
        let desk = Desk {
            spec: Arc::clone(spec),
            work: Arc::default(),
            settings: Arc::clone(&hands.settings),
            call,
            ports: Arc::clone(&hands.ports),
            risk: Arc::clone(&hands.risk),
            effects: Arc::clone(&notebook) as Arc<dyn Effects>,
        };
        let place = Place {
            desk,
            hands: Arc::clone(hands),
        };
        Self {
            claim,
            notebook,
            place: Arc::new(place),
            span: None,
            running: None,
            commit: None,
            tries: 0,
            crashed: false,
        }
    }

    /// What the steps so far gave.
    pub(crate) fn work(&self) -> &Work {
        &self.place.desk.work
    }

    /// Takes the output of a step in.
    pub(crate) fn record(&mut self, output: Output) {
        Arc::make_mut(&mut self.desk().work).record(output);
    }

    /// Goes on where a former life of the task ended.
    pub(crate) fn resume(&mut self, past: Past) {
        self.notebook.resume(&past);
        self.desk().work = Arc::new(past.work);
    }

    /// The desk, to be changed. A step that was given up may still look at it; then this is a copy.
    fn desk(&mut self) -> &mut Desk {
        &mut Arc::make_mut(&mut self.place).desk
    }

    /// Begins `step`. The future owns everything it needs.
    pub(crate) fn begin(
        &mut self,
        step: Step,
    ) -> impl Future<Output = Result<Box<Output>, StepFailure>> + Send + use<> {
        self.notebook.rewind();
        let spec = &self.claim.spec;
        let telemetry = &self.place.hands.telemetry;
        let mut span = telemetry.child(spec.trace, step.as_str());
        if span.is_recording() {
            let agent = &self.place.desk.call.agent;
            span.set(names::TASK_ID, self.claim.reference.task.to_string());
            span.set(names::AGENT_ID, agent.to_string());
            span.set(names::AGENT_TYPE, spec.agent_type.to_string());
            span.set(names::TENANT, spec.tenant.to_string());
        }
        // What a step asks of a model comes back before the step is given up: waiting in a queue is no
        // reason to take it for dead.
        let limit = calls_limit(self.place.hands.step_timeout);
        let answer_by = self.place.hands.clock.now().after(limit);
        let deadline = spec.deadline.map_or(answer_by, |own| own.min(answer_by));
        let call = &mut self.desk().call;
        call.trace = span.context();
        call.deadline = Some(deadline);
        self.span = Some(span);
        let place = Arc::clone(&self.place);
        async move {
            let limit = place.hands.step_timeout;
            let work = async { place.hands.kind.step(step, &place.desk).await };
            let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
            // Most steps are ready at once, and need no timer.
            let ended = match poll_fn(|ctx| Poll::Ready(work.as_mut().poll(ctx))).await {
                Poll::Ready(ended) => Ok(ended),
                Poll::Pending => timeout(limit, work).await,
            };
            match ended {
                Ok(Ok(Ok(output))) => Ok(Box::new(output)),
                Ok(Ok(Err(error))) => Err(StepFailure::Step(error)),
                Ok(Err(panic)) => Err(StepFailure::Panicked(panic_text(panic.as_ref()))),
                Err(_) => Err(StepFailure::TimedOut(limit)),
            }
        }
    }
}

/// How long a step's calls may take of the time that the step has.
fn calls_limit(step: Duration) -> Duration {
    step.mul_f64(0.8)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
        .to_owned()
}
