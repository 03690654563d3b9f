//! One assignment of an agent: the task, the work so far, and what is under way.

use std::{
    future::poll_fn, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration,
};

use colony_agents::{
    CallContext, Effects, Kind, Ports, StepContext, StepError, Tools, TypeSettings,
};
use colony_core::{
    cycle::{Decision, Output, Step, Work},
    escalation::risk::Patterns,
    id::{AgentId, ApprovalId},
    journal::Past,
    mutant,
    port::Clock,
    task::Ending,
};
use colony_store::{AttemptCounts, Claim, Ledger, Settlement};
use futures_util::FutureExt as _;
use tokio::time::{error::Elapsed, timeout};

use super::journal_buffer::JournalBuffer;
use crate::{
    breakers::Breakers,
    field::Field,
    market,
    memory::Memory,
    pipe::Running,
    telemetry::{
        Span, Telemetry,
        names::{self, operation},
    },
};

/// What every agent of a type shares: its declaration and its ways to other components.
#[derive(Debug, Clone)]
pub(crate) struct AgentDeps {
    /// The code of the six steps.
    pub(crate) kind: Arc<dyn Kind>,
    /// The declaration of the type.
    pub(crate) settings: Arc<TypeSettings>,
    /// The ports of the type.
    pub(crate) ports: Arc<Ports>,
    /// The node's tools.
    pub(crate) tools: Arc<Tools>,
    /// What counts as risky.
    pub(crate) risk: Arc<Patterns>,
    /// The ledger.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// The market, told when the agent is free.
    pub(crate) market: market::Handle,
    /// The field, where success and danger are marked.
    pub(crate) field: Field,
    /// Memory, which learns what a task taught.
    pub(crate) memory: Memory,
    /// Which ports are away.
    pub(crate) breakers: Breakers,
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
    pub(crate) journal: Arc<JournalBuffer>,
    /// Laid out once for all steps: most of what is in it is shared by every agent of the type, and
    /// to count its owners anew for each step costs more than a step that does nothing.
    env: Arc<StepEnv>,
    /// The agent's work on the task, from the award to the settlement: the parent of its steps.
    pub(crate) invocation: Span,
    /// The step under way.
    pub(crate) span: Option<Span>,
    /// What is under way: a read, a step or a commit. Ends with the job.
    pub(crate) running: Running,
    /// Tries of the present read, step or commit that failed in a way that may pass.
    pub(crate) tries: u32,
}

/// What a step works with.
#[derive(Debug, Clone)]
struct StepEnv {
    ctx: StepContext,
    deps: Arc<AgentDeps>,
}

impl StepFailure {
    /// What kind of error it is, in one word: `error.type` of the step's span.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Step(StepError::Port(error)) => error.kind(),
            Self::Step(_) => "failed",
            Self::Panicked(_) => "panic",
            Self::TimedOut(_) => "timeout",
        }
    }
}

impl Job {
    /// Lays everything out.
    pub(crate) fn new(claim: Claim, agent: AgentId, deps: &Arc<AgentDeps>) -> Self {
        let reference = claim.reference();
        let journal = JournalBuffer::new(reference, agent.clone(), Arc::clone(deps));
        let journal = Arc::new(journal);
        let spec = &claim.spec;
        // Of the head: what was asked for is over for one that was revived after it had expired.
        let deadline = if mutant!(OldDeadline) {
            spec.deadline
        } else {
            claim.head.deadline
        };
        let call = CallContext {
            task: reference.task,
            fence: reference.fence,
            tenant: spec.tenant.clone(),
            agent_type: spec.agent_type.clone(),
            agent,
            priority: spec.priority,
            deadline,
            task_deadline: deadline,
            trace: spec.trace,
        };
        let ctx = StepContext {
            spec: Arc::clone(spec),
            work: Arc::default(),
            settings: Arc::clone(&deps.settings),
            call,
            ports: Arc::clone(&deps.ports),
            risk: Arc::clone(&deps.risk),
            effects: Arc::clone(&journal) as Arc<dyn Effects>,
        };
        let invocation = invocation(&deps.telemetry, &claim, &ctx);
        let env = StepEnv {
            ctx,
            deps: Arc::clone(deps),
        };
        Self {
            claim,
            journal,
            env: Arc::new(env),
            invocation,
            span: None,
            running: Running::default(),
            tries: 0,
        }
    }

    /// What the steps so far gave.
    pub(crate) fn work(&self) -> &Work {
        &self.env.ctx.work
    }

    /// Takes the output of a step in.
    pub(crate) fn record(&mut self, output: Output) {
        Arc::make_mut(&mut self.ctx().work).record(output);
    }

    /// Takes a human's answer in, and into the journal.
    pub(crate) fn decide(&mut self, question: ApprovalId, decision: Decision) {
        self.journal.take(question, decision.clone());
        Arc::make_mut(&mut self.ctx().work).decide(decision);
    }

    /// Goes on where the journal ends.
    pub(crate) fn resume(&mut self, past: Past) {
        self.journal.resume(&past);
        self.ctx().work = Arc::new(past.work);
    }

    /// What steps work with, to be changed. A step that was given up may still look at it; then this is a
    /// copy.
    fn ctx(&mut self) -> &mut StepContext {
        &mut Arc::make_mut(&mut self.env).ctx
    }

    /// Notes in the invocation's span what became of the claim, and ends it with the job.
    pub(crate) fn settled(&mut self, settlement: &Settlement) {
        let span = &mut self.invocation;
        if !span.is_recording() {
            return;
        }
        let (name, failure) = match settlement {
            Settlement::Continue => return,
            Settlement::Wait(_) => ("wait", None),
            Settlement::End(Ending::Done(_)) => ("end", None),
            Settlement::End(Ending::Failed { reason }) => ("end", Some(reason)),
            Settlement::Release { counts, reason, .. } => match counts {
                AttemptCounts::Not => ("release", None),
                AttemptCounts::Failed => ("release", Some(reason)),
            },
        };
        span.set(names::SETTLEMENT, name);
        if let Some(reason) = failure {
            span.fail("failed", reason);
        }
    }

    /// Begins `step`. The future owns everything it needs.
    pub(crate) fn begin(
        &mut self,
        step: Step,
    ) -> impl Future<Output = Result<Box<Output>, StepFailure>> + Send + use<> {
        self.journal.rewind();
        let telemetry = &self.env.deps.telemetry;
        let mut span = telemetry.child(self.invocation.context(), step.as_str());
        if span.is_recording() {
            span.set(names::TASK_ID, self.claim.head.id.to_string());
        }
        // What a step asks of a model comes back before the step is given up: waiting in a queue is no
        // reason to take it for dead.
        let limit = calls_limit(self.env.deps.step_timeout);
        let answer_by = self.env.deps.clock.now().after(limit);
        let own = self.env.ctx.call.task_deadline;
        let deadline = own.map_or(answer_by, |own| own.min(answer_by));
        let call = &mut self.ctx().call;
        call.trace = span.context();
        call.deadline = Some(deadline);
        self.span = Some(span);
        let env = Arc::clone(&self.env);
        async move {
            let limit = env.deps.step_timeout;
            let work = async { env.deps.kind.step(step, &env.ctx).await };
            let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
            // Most steps are ready at once, and need no timer.
            let ended = match poll_fn(|ctx| Poll::Ready(work.as_mut().poll(ctx))).await {
                Poll::Ready(ended) => Ok(ended),
                Poll::Pending => within(limit, work).await,
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

/// Parts that a step's time is counted in.
const SLICES: u32 = 16;

/// Waits for `work` while this process runs: one that was stopped for hours, as a suspended machine is, has lost one slice at
/// most, and nothing is charged to the tasks in its hands.
async fn within<F: Future + Unpin>(limit: Duration, mut work: F) -> Result<F::Output, Elapsed> {
    for _ in 1..SLICES {
        if let Ok(done) = timeout(limit / SLICES, &mut work).await {
            return Ok(done);
        }
    }
    timeout(limit / SLICES, work).await
}

/// The span of an agent's work on a task.
fn invocation(telemetry: &Telemetry, claim: &Claim, ctx: &StepContext) -> Span {
    let spec = &claim.spec;
    let agent_type = spec.agent_type.as_str();
    let mut span = telemetry.operation(spec.trace, operation::INVOKE_AGENT, agent_type);
    if span.is_recording() {
        span.set(names::TASK_ID, claim.head.id.to_string());
        span.set(names::TENANT, spec.tenant.to_string());
        span.set(names::GEN_AI_PROVIDER, "colony");
        span.set(names::GEN_AI_AGENT_ID, ctx.call.agent.to_string());
        span.set(names::GEN_AI_AGENT_NAME, agent_type.to_owned());
        span.set(
            names::GEN_AI_AGENT_VERSION,
            ctx.settings.version.to_string(),
        );
        if let Some(model) = &ctx.settings.model {
            span.set(names::GEN_AI_MODEL, model.clone());
        }
    }
    span
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_has_its_whole_time_and_no_more() {
        let limit = Duration::from_secs(32);
        let sleep = |time| Box::pin(tokio::time::sleep(time));
        let second = Duration::from_secs(1);
        assert!(within(limit, sleep(limit - second)).await.is_ok());
        assert!(within(limit, sleep(limit + second)).await.is_err());
    }

    /// A process that stands still sees all its time pass at once.
    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_process_is_charged_to_nobody() {
        let limit = Duration::from_secs(32);
        let (done, work) = tokio::sync::oneshot::channel::<()>();
        let step = async {
            let step = within(limit, work).await;
            assert!(step.is_ok(), "given up after a pause");
        };
        let pause = async {
            tokio::time::advance(10 * limit).await;
            tokio::time::sleep(limit / 2).await;
            done.send(()).expect("waited for");
        };
        tokio::join!(step, pause);
    }
}
