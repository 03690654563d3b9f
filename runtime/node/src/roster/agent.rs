//! One agent at work: messages in, steps and commits out.
//!
//! ```text
//!            Award              read               step ended: the next one
//!   idle ───────────► reading ─────────► stepping ◄──────────┐
//!    ▲                   ▲                  │ ──────────────►┤ durable: go on
//!    │                   │ does not fit     ▼                │
//!    │                   └────────────── committing ─────────┘
//!    └────────── settled, lost or cancelled ┘
//! ```
//! Each step is a message: between two of them the agent hears a cancellation. A step that is ready at once
//! is answered in place; one that has to wait runs beside the agent and sends its output back. The agent
//! decides nothing about the task: [`Work::next`] does. A step that panics is charged to its task; the
//! agent itself goes on with the next one.
//!
//! [`Work::next`]: colony_core::cycle::Work::next

use std::{sync::Arc, time::Duration};

use colony_agents::{PortError, StepError};
use colony_core::{
    cycle::{Learning, Next, Output, Step, Verdict},
    id::AgentId,
    journal::{Note, Past},
    market::Outcome,
    mutant, port,
    task::Ending,
    unit::Ratio,
};
use colony_store::{
    AttemptCounts, Commit, Committed, Episode, EpisodeStream, LedgerError, Question, Settlement,
    Track,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::RngCore;

use super::{
    job::{AgentDeps, Job, StepFailure},
    messages::{AgentMessage, AgentRef, SupervisorMessage},
};
use crate::{
    field::{NEUTRAL, Pheromones},
    market::Assignment,
    pipe::pipe_to_self,
};

/// First wait before a read, step or commit is tried again; doubles up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// Longest wait before another try.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// Tries of one step before the task is released, uncounted: what is in the way is not the task's fault,
/// and the agent may be of use elsewhere. With doubling waits: 0.6 seconds.
const STEP_TRIES_MAX: u32 = 5;
/// Tries to read a journal before the task is released. With doubling waits: some 20 seconds.
const READ_TRIES_MAX: u32 = 16;
/// Wait before a task that was released uncounted is claimed again. Where a port is away, its breaker waits
/// longer.
const RELEASE_DELAY: Duration = Duration::from_secs(1);

/// The behaviour of one agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) deps: Arc<AgentDeps>,
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
}

/// How an agent begins.
pub(crate) struct AgentArgs {
    pub(crate) id: AgentId,
    pub(crate) track: Track,
    pub(crate) rng: Box<dyn RngCore + Send>,
}

/// What one agent holds.
pub(crate) struct State {
    // What it knows.
    id: AgentId,
    track: Track,
    /// Where it is marked how the tasks of its present or last tenant went.
    pheromones: Option<Pheromones>,
    rng: Box<dyn RngCore + Send>,
    // What it does.
    phase: Phase,
    /// Counts what it has begun to wait for: what comes back late names something older.
    round: u64,
    leaving: bool,
}

/// What an agent does; every phase but idle owns the job.
enum Phase {
    /// Nothing.
    Idle,
    /// Its task's journal is being read.
    Reading(Box<Job>),
    /// A step is under way, or waits for another try.
    Stepping(Box<Job>),
    /// This commit is under way, or waits for another try.
    Committing(Box<Job>, Box<Commit>),
}

impl State {
    /// From here on only what is begun now is waited for: a step that had ended when it was given up is no
    /// longer heard.
    const fn next_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }
}

impl Phase {
    fn job(&self) -> Option<&Job> {
        match self {
            Self::Idle => None,
            Self::Reading(job) | Self::Stepping(job) | Self::Committing(job, _) => Some(job),
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Idle)
    }
}

impl Actor for Agent {
    type Msg = AgentMessage;
    type State = State;
    type Arguments = AgentArgs;

    async fn pre_start(&self, _: AgentRef, args: AgentArgs) -> Result<State, ActorProcessingErr> {
        let AgentArgs { id, track, rng } = args;
        Ok(State {
            id,
            track,
            pheromones: None,
            rng,
            phase: Phase::Idle,
            round: 0,
            leaving: false,
        })
    }

    async fn handle(
        &self,
        me: AgentRef,
        message: AgentMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMessage::Award(assignment) => self.award(&me, *assignment, state),
            AgentMessage::Past { round, past } if round == state.round => {
                if let Phase::Reading(job) = state.phase.take() {
                    match past {
                        Ok(past) => self.resume(&me, *job, *past, state),
                        Err(error) => self.read_again(&me, *job, error.to_string(), state),
                    }
                }
            }
            AgentMessage::Stepped {
                output: Err(StepFailure::Panicked(panic)),
                ..
            } if mutant!(C9) => return Err(panic.into()),
            AgentMessage::Stepped { round, output } if round == state.round => {
                if let Phase::Stepping(job) = state.phase.take() {
                    self.stepped(&me, *job, output, state);
                }
            }
            AgentMessage::Committed { round, result } if round == state.round => {
                if let Phase::Committing(job, commit) = state.phase.take() {
                    self.committed(&me, *job, *commit, result, state);
                }
            }
            AgentMessage::Past { .. }
            | AgentMessage::Stepped { .. }
            | AgentMessage::Committed { .. } => {}
            AgentMessage::Cancel(task) => {
                if state.phase.job().is_some_and(|j| j.claim.head.id == task) {
                    match state.phase.take() {
                        Phase::Idle => {}
                        // The ledger answers it.
                        commit @ Phase::Committing(..) => state.phase = commit,
                        // Most often the claim is lost. Where it is not, for the word came late and the task was
                        // revived since, it must not stay with an agent that has dropped it.
                        Phase::Reading(job) | Phase::Stepping(job) => {
                            self.give_up(&me, *job, "cancelled", state);
                        }
                    }
                }
            }
            AgentMessage::Passivate => {
                if matches!(state.phase, Phase::Idle) {
                    me.stop(None);
                }
            }
            AgentMessage::Leave => {
                state.leaving = true;
                match state.phase.take() {
                    Phase::Idle => me.stop(None),
                    // A commit under way ends by itself; everything else is given back.
                    commit @ Phase::Committing(..) => state.phase = commit,
                    Phase::Reading(job) | Phase::Stepping(job) => self.leave(&me, *job, state),
                }
            }
            #[cfg(test)]
            AgentMessage::Fail => return Err("told to".into()),
        }
        Ok(())
    }
}

impl Agent {
    fn award(&self, me: &AgentRef, assignment: Assignment, state: &mut State) {
        let Assignment { claim, award } = assignment;
        let tenant = &claim.spec.tenant;
        if state.pheromones.as_ref().map(Pheromones::tenant) != Some(tenant) {
            state.pheromones = Pheromones::new(tenant, &state.id);
        }
        let job = Job::new(claim, state.id.clone(), &self.deps);
        job.journal.write(Note::Awarded {
            agent: award.agent,
            score: award.score,
            bidders: award.bidders,
        });
        if job.claim.has_journal {
            self.read(me, job, Duration::ZERO, state);
        } else {
            self.resume(me, job, Past::default(), state);
        }
    }

    /// Reads what former claims of the task have written, after a wait.
    fn read(&self, me: &AgentRef, mut job: Job, wait: Duration, state: &mut State) {
        let round = state.next_round();
        let (ledger, task) = (Arc::clone(&self.deps.ledger), job.claim.head.id);
        let read = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let journal = ledger.journal(task).await;
            let past = journal.map(|entries| Box::new(Past::from_entries(entries)));
            AgentMessage::Past { round, past }
        };
        job.running.set(pipe_to_self(me, read));
        state.phase = Phase::Reading(Box::new(job));
    }

    /// Without its journal a task cannot go on: the read is tried again, then the task is released.
    fn read_again(&self, me: &AgentRef, mut job: Job, reason: String, state: &mut State) {
        job.tries += 1;
        tracing::warn!(agent = %state.id, %reason, tries = job.tries, "journal not read");
        if job.tries > READ_TRIES_MAX {
            // What waits to be written does not fit a journal that nobody has read.
            job.journal.discard();
            return self.put_off(me, job, reason, state);
        }
        let wait = wait_before(job.tries);
        self.read(me, job, wait, state);
    }

    fn resume(&self, me: &AgentRef, mut job: Job, past: Past, state: &mut State) {
        job.tries = 0;
        job.resume(past);
        for item in job.claim.inbox.clone() {
            // Read again after it was taken: then the journal has it.
            if !job.journal.has_taken(item.question) {
                job.decide(item.question, item.decision);
            }
        }
        self.advance(me, job, state);
    }

    /// Does what the rules say comes next.
    fn advance(&self, me: &AgentRef, job: Job, state: &mut State) {
        if state.leaving {
            return self.leave(me, job, state);
        }
        match job.work().next() {
            Next::Do(step) => self.begin(me, job, step, Duration::ZERO, state),
            Next::Park { doubt, question } => {
                let Some(thought) = &job.work().thought else {
                    return self.fail(me, job, "it asks about no answer".to_owned(), state);
                };
                let question = Question {
                    id: port::approval_id(self.deps.clock.now(), &mut *state.rng),
                    doubt,
                    question,
                    proposal: thought.answer.clone(),
                };
                self.commit(me, job, Settlement::Wait(Box::new(question)), state);
            }
            Next::End(ending) => self.commit(me, job, Settlement::End(ending), state),
        }
    }

    /// Begins a step, after a wait.
    fn begin(&self, me: &AgentRef, mut job: Job, step: Step, wait: Duration, state: &mut State) {
        let round = state.next_round();
        let work = job.begin(step);
        let told = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let output = work.await;
            AgentMessage::Stepped { round, output }
        };
        job.running.set(pipe_to_self(me, told));
        state.phase = Phase::Stepping(Box::new(job));
    }

    fn stepped(
        &self,
        me: &AgentRef,
        mut job: Job,
        output: Result<Box<Output>, StepFailure>,
        state: &mut State,
    ) {
        let mut span = job.span.take();
        let failure = match output {
            Ok(output) => {
                drop(span);
                return self.recorded(me, job, *output, state);
            }
            Err(failure) => failure,
        };
        if let Some(span) = &mut span {
            span.fail(failure.kind(), &failure.to_string());
        }
        drop(span);
        let learning = job.work().next() == Next::Do(Step::Learn);
        match failure {
            StepFailure::Step(StepError::Port(PortError::Lost)) => {
                self.release_job(me, &job, Outcome::Neutral, state);
            }
            StepFailure::Step(StepError::Port(error))
                if error.is_retryable() && job.tries < STEP_TRIES_MAX =>
            {
                self.step_again(me, job, state);
            }
            // What is done stays done: a task does not fail for what it cannot teach.
            failure if learning && !mutant!(C25) => {
                tracing::warn!(task = %job.claim.head.id, reason = %failure, "nothing is learned from this task");
                self.recorded(me, job, Output::Learn(Learning::default()), state);
            }
            StepFailure::Step(StepError::Port(error)) if error.is_retryable() => {
                self.put_off(me, job, error.to_string(), state);
            }
            StepFailure::Step(StepError::Port(error @ PortError::Failed { .. })) => {
                self.fail(me, job, error.to_string(), state);
            }
            StepFailure::Step(error) => {
                let reason = error.to_string();
                self.commit(me, job, Settlement::End(Ending::Failed { reason }), state);
            }
            StepFailure::Panicked(_) | StepFailure::TimedOut(_) => {
                state.track.crashes += 1;
                self.fail(me, job, failure.to_string(), state);
            }
        }
    }

    /// A step has given its output. What a model said is written down before it is used.
    fn recorded(&self, me: &AgentRef, mut job: Job, output: Output, state: &mut State) {
        job.tries = 0;
        let asked_model = matches!(&output, Output::Reason(t) if !t.model_calls.is_empty());
        job.journal.write(Note::Output(output.clone()));
        job.record(output);
        if asked_model {
            self.commit(me, job, Settlement::Continue, state);
        } else {
            self.advance(me, job, state);
        }
    }

    /// Tries the present step again after a wait.
    fn step_again(&self, me: &AgentRef, mut job: Job, state: &mut State) {
        job.tries += 1;
        let wait = wait_before(job.tries);
        match job.work().next() {
            Next::Do(step) => self.begin(me, job, step, wait, state),
            Next::Park { .. } | Next::End(_) => self.advance(me, job, state),
        }
    }

    /// The attempt failed by the task's own doing.
    fn fail(&self, me: &AgentRef, job: Job, reason: String, state: &mut State) {
        tracing::debug!(agent = %state.id, task = %job.claim.head.id, %reason, "attempt failed");
        let settlement = Settlement::Release {
            counts: AttemptCounts::Failed,
            delay: Duration::ZERO,
            reason,
        };
        self.commit(me, job, settlement, state);
    }

    /// Something else is in the way: the task is tried again later, and nothing counts.
    fn put_off(&self, me: &AgentRef, job: Job, reason: String, state: &mut State) {
        if mutant!(C7) {
            return self.fail(me, job, reason, state);
        }
        let settlement = Settlement::Release {
            counts: AttemptCounts::Not,
            delay: RELEASE_DELAY,
            reason,
        };
        self.commit(me, job, settlement, state);
    }

    /// The node stops: the task is ready for another one, or for its next life.
    fn leave(&self, me: &AgentRef, job: Job, state: &mut State) {
        if mutant!(C21) {
            return self.fail(me, job, "the node stops".to_owned(), state);
        }
        self.give_up(me, job, "the node stops", state);
    }

    /// The task is ready for whoever claims it next, and nothing counts.
    fn give_up(&self, me: &AgentRef, job: Job, reason: &str, state: &mut State) {
        let settlement = Settlement::Release {
            counts: AttemptCounts::Not,
            delay: Duration::ZERO,
            reason: reason.to_owned(),
        };
        self.commit(me, job, settlement, state);
    }

    fn commit(&self, me: &AgentRef, mut job: Job, settlement: Settlement, state: &mut State) {
        job.running.stop();
        job.tries = 0;
        let mut commit = job.journal.commit(settlement);
        if matches!(commit.settlement, Settlement::End(_)) {
            commit.episodes.extend(self.episode(&job));
        }
        self.send_commit(me, job, commit, Duration::ZERO, state);
    }

    /// What an ended task taught: it travels with the end, under the same fence.
    fn episode(&self, job: &Job) -> Option<Episode> {
        let work = job.work();
        let label = work.learning.as_ref()?.teach.as_ref()?;
        let percept = work.percept.as_ref()?;
        let spec = &job.claim.spec;
        let task = job.claim.head.id;
        let memory = &self.deps.memory;
        match memory.episode(&spec.tenant, &spec.agent_type, task, percept, label) {
            Ok(episode) => Some(episode),
            Err(error) => {
                tracing::warn!(%task, %error, "nothing is learned from this task");
                None
            }
        }
    }

    fn send_commit(
        &self,
        me: &AgentRef,
        mut job: Job,
        commit: Commit,
        wait: Duration,
        state: &mut State,
    ) {
        let round = if mutant!(LateStep) {
            state.round
        } else {
            state.next_round()
        };
        let ledger = Arc::clone(&self.deps.ledger);
        let memory = self.deps.memory.clone();
        let taught = commit.episodes.first().map(EpisodeStream::of);
        let sent = commit.clone();
        let told = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let result = ledger.commit(sent).await;
            if let (Ok(_), Some(stream)) = (&result, taught)
                && let Err(error) = memory.follow(&stream).await
            {
                tracing::warn!(%error, "what was learned is not in memory yet, trying again");
            }
            AgentMessage::Committed { round, result }
        };
        job.running.set(pipe_to_self(me, told));
        state.phase = Phase::Committing(Box::new(job), Box::new(commit));
    }

    fn committed(
        &self,
        me: &AgentRef,
        mut job: Job,
        commit: Commit,
        result: Result<Committed, LedgerError>,
        state: &mut State,
    ) {
        match result {
            Ok(_) => {}
            Err(LedgerError::Shut | LedgerError::Unknown { .. }) => {
                // The next life of the node takes the claim up.
                me.stop(None);
                return;
            }
            Err(error) if error.is_retryable() && !mutant!(CommitOnce) => {
                job.tries += 1;
                tracing::warn!(agent = %state.id, %error, tries = job.tries, "commit failed, trying again");
                let wait = wait_before(job.tries);
                return self.send_commit(me, job, commit, wait, state);
            }
            Err(error @ (LedgerError::Sequence { .. } | LedgerError::Conflict { .. })) => {
                // The claim is ours still, but the journal is not what we took it for: read it again.
                tracing::warn!(agent = %state.id, %error, "the journal has gone on, reading it again");
                job.journal.discard();
                return self.read_again(me, job, error.to_string(), state);
            }
            Err(error @ LedgerError::Unreadable { .. }) if !commit.entries.is_empty() => {
                // Nothing was done, and the claim is ours still: it goes back without what could not be written.
                tracing::error!(agent = %state.id, %error, "the ledger cannot be read, task released");
                job.journal.discard();
                return self.fail(me, job, error.to_string(), state);
            }
            Err(error) => {
                // Cancelled, expired or claimed by another: the work is not ours any more.
                tracing::debug!(agent = %state.id, %error, "work discarded");
                if mutant!(SilentRelease) {
                    return;
                }
                return self.release_job(me, &job, Outcome::Neutral, state);
            }
        }
        job.tries = 0;
        job.journal.written(&commit);
        job.settled(&commit.settlement);
        match commit.settlement {
            Settlement::Continue => self.advance(me, job, state),
            Settlement::Wait(question) => {
                state.track.escalations += 1;
                tracing::debug!(task = %commit.claim.task, doubt = question.doubt.as_str(), "waits for a human");
                self.release_job(me, &job, Outcome::Neutral, state);
            }
            Settlement::End(ending) => {
                let outcome = self.ended(&job, &ending, state);
                self.release_job(me, &job, outcome, state);
            }
            Settlement::Release { counts, .. } => {
                let outcome = match counts {
                    AttemptCounts::Not => Outcome::Neutral,
                    AttemptCounts::Failed => {
                        state.track.tasks += 1;
                        if let Some(pheromones) = &state.pheromones {
                            self.deps.field.reinforce(&pheromones.danger, Ratio::ONE);
                        }
                        Outcome::Failure
                    }
                };
                self.release_job(me, &job, outcome, state);
            }
        }
    }

    fn ended(&self, job: &Job, ending: &Ending, state: &mut State) -> Outcome {
        state.track.tasks += 1;
        let learning = job.work().learning.as_ref();
        let deposit = learning.map_or(Ratio::ZERO, |learning| learning.deposit);
        match ending {
            Ending::Done(_) => {
                state.track.successes += 1;
                if let Some(pheromones) = &state.pheromones {
                    self.deps.field.reinforce(&pheromones.success, deposit);
                }
                Outcome::Success
            }
            Ending::Failed { .. } => {
                if let Some(pheromones) = &state.pheromones {
                    self.deps.field.reinforce(&pheromones.danger, deposit);
                }
                // A human's no to a risky request is not the agent's failure.
                let rejected = matches!(job.work().verdict, Some(Verdict::Reject { .. }));
                if rejected {
                    Outcome::Neutral
                } else {
                    Outcome::Failure
                }
            }
        }
    }

    /// The task is no longer this agent's: tells the market and is free.
    fn release_job(&self, me: &AgentRef, job: &Job, outcome: Outcome, state: &mut State) {
        let task = job.claim.head.id;
        let track = state.track;
        if outcome != Outcome::Neutral || track.escalations > 0 {
            let told = SupervisorMessage::Track {
                ordinal: state.id.ordinal,
                track,
            };
            // A supervisor that is gone saves nothing, and neither could we.
            let _ = self.supervisor.cast(told);
        }
        let attraction = state
            .pheromones
            .as_ref()
            .map_or(NEUTRAL, |pheromones| self.deps.field.attraction(pheromones));
        self.deps
            .market
            .released(state.id.clone(), task, outcome, attraction);
        if state.leaving {
            me.stop(None);
        }
    }
}

fn wait_before(tries: u32) -> Duration {
    RETRY_WAIT
        .saturating_mul(1 << tries.saturating_sub(1).min(10))
        .min(RETRY_WAIT_MAX)
}

impl std::fmt::Display for StepFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Step(error) => error.fmt(f),
            Self::Panicked(text) => write!(f, "the step panicked: {text}"),
            Self::TimedOut(limit) => write!(f, "the step took longer than {limit:?}"),
        }
    }
}
