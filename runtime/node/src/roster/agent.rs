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
    escalation::Evidence,
    id::AgentId,
    journal::{Note, Past},
    ledger::{Disposition, Trouble, retry},
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
                            self.release(&me, *job, Trouble::NoAgent, "cancelled", state);
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
        let trouble = Trouble::LedgerAway;
        let next = retry::after(trouble, false, job.tries);
        job.tries += 1;
        tracing::warn!(agent = %state.id, %reason, tries = job.tries, "journal not read");
        if let Disposition::Again(wait) = next {
            self.read(me, job, wait, state);
        } else {
            // What waits to be written does not fit a journal that nobody has read.
            job.journal.discard();
            self.release(me, job, trouble, reason, state);
        }
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
            Next::Wait {
                escalation_reason,
                question,
            } => {
                let Some(thought) = &job.work().thought else {
                    let reason = "it asks about no answer";
                    return self.release(me, job, Trouble::OwnFailure, reason, state);
                };
                let question = Question {
                    id: port::approval_id(self.deps.clock.now(), &mut *state.rng),
                    escalation_reason,
                    question,
                    proposal: thought.answer.clone(),
                    evidence: Evidence::of(job.work()),
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
        let Some(trouble) = failure.trouble() else {
            return self.release_job(me, &job, Outcome::Neutral, state);
        };
        let learning = job.work().next() == Next::Do(Step::Learn);
        let reason = failure.to_string();
        match retry::after(trouble, learning, job.tries) {
            Disposition::Again(wait) => self.step_again(me, job, wait, state),
            Disposition::Skip => {
                tracing::warn!(task = %job.claim.head.id, reason, "nothing is learned from this task");
                self.recorded(me, job, Output::Learn(Learning::default()), state);
            }
            Disposition::Release => {
                if failure.is_crash() {
                    state.track.crashes += 1;
                }
                self.release(me, job, trouble, reason, state);
            }
            Disposition::Fail => {
                self.commit(me, job, Settlement::End(Ending::Failed { reason }), state);
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
    fn step_again(&self, me: &AgentRef, mut job: Job, wait: Duration, state: &mut State) {
        job.tries += 1;
        match job.work().next() {
            Next::Do(step) => self.begin(me, job, step, wait, state),
            Next::Wait { .. } | Next::End(_) => self.advance(me, job, state),
        }
    }

    /// Lets the task go, for somebody else or for later.
    fn release(
        &self,
        me: &AgentRef,
        job: Job,
        trouble: Trouble,
        reason: impl Into<String>,
        state: &mut State,
    ) {
        let reason = reason.into();
        tracing::debug!(agent = %state.id, task = %job.claim.head.id, ?trouble, reason, "task released");
        self.commit(me, job, Settlement::release(trouble, reason), state);
    }

    /// The node stops: the task is ready for its next life.
    fn leave(&self, me: &AgentRef, job: Job, state: &mut State) {
        self.release(me, job, Trouble::NodeStops, "the node stops", state);
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
            Err(error) if may_be_taken_later(&error, &commit) && !mutant!(CommitOnce) => {
                job.tries += 1;
                tracing::warn!(agent = %state.id, %error, tries = job.tries, "commit failed, trying again");
                let wait = retry::wait_before(job.tries);
                return self.send_commit(me, job, commit, wait, state);
            }
            Err(
                error @ (LedgerError::Sequence { .. }
                | LedgerError::Conflict { .. }
                | LedgerError::RequestConflict { .. }),
            ) => {
                // The claim is ours still, but the journal is not what we took it for: read it again.
                tracing::warn!(agent = %state.id, %error, "the journal has gone on, reading it again");
                job.journal.discard();
                return self.read_again(me, job, error.to_string(), state);
            }
            Err(error @ LedgerError::Unreadable { .. }) => {
                // Nothing was done, and the claim is ours still: it goes back without what could not be written.
                tracing::error!(agent = %state.id, %error, "the ledger cannot be read, task released");
                job.journal.discard();
                return self.release(me, job, Trouble::LedgerAway, error.to_string(), state);
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
                tracing::debug!(task = %commit.claim.task, escalation_reason = question.escalation_reason.as_str(), "waits for a human");
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

/// Whether the ledger may take the same commit later, and the claim stays ours until then. A row that cannot be read
/// is set aside, and with it the task that needs it: a commit that brings nothing but the release waits for that.
fn may_be_taken_later(error: &LedgerError, commit: &Commit) -> bool {
    let bare = commit.entries.is_empty() && commit.outbox.is_empty() && commit.taken.is_empty();
    let bare = bare && matches!(commit.settlement, Settlement::Release { .. });
    error.is_retryable() || (bare && matches!(error, LedgerError::Unreadable { .. }))
}

impl StepFailure {
    /// What it means for the task; none: the claim is lost, and the task somebody else's.
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Step(StepError::Port(PortError::Lost)) => None,
            Self::Step(StepError::Port(PortError::Busy { .. })) => Some(Trouble::PortAway),
            Self::Step(StepError::Port(PortError::Failed { .. }))
            | Self::Panicked(_)
            | Self::TimedOut(_) => Some(Trouble::OwnFailure),
            Self::Step(
                StepError::Port(PortError::Refused { .. } | PortError::Unconfigured { .. })
                | StepError::Impossible(_),
            ) => Some(Trouble::Impossible),
        }
    }

    fn is_crash(&self) -> bool {
        matches!(self, Self::Panicked(_) | Self::TimedOut(_))
    }
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
