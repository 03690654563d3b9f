//! One agent at work: messages in, steps and commits out.
//!
//! ```text
//!   Award ─► (journal read, when there is one) ─► step ─► step ─► … ─► commit ─► market: free
//!                                                  │                     │
//!                                                  └ Stepped             └ Committed
//! ```
//! Each step is a message: between two of them the agent hears a cancellation or a question. A step that
//! is ready at once is answered in place; one that has to wait runs beside the agent and sends its
//! output back. The agent decides nothing about the task: [`Work::next`] does.

use std::{sync::Arc, time::Duration};

use colony_agents::{PortError, StepError};
use colony_core::{
    cycle::{Next, Output, Step, Verdict},
    id::AgentId,
    journal::{Note, Past},
    market::Outcome,
    port,
    task::Ending,
    unit::Share,
};
use colony_store::{Commit, LedgerError, Question, Then, Track};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::RngCore;

use super::{
    job::{Hands, Job, StepFailure},
    messages::{AgentMessage, AgentRef, Assignment, SupervisorMessage},
};
use crate::{
    aside::aside,
    field::{NO_SCENT, Trail},
};

/// First wait before a step or commit is tried again; doubles up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// Longest wait before another try.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// Tries of one step before the delivery counts as failed. With doubling waits: some 20 seconds.
const STEP_TRIES_MAX: u32 = 16;

/// The behaviour of one agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) hands: Arc<Hands>,
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
}

/// How an agent begins.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) id: AgentId,
    pub(crate) track: Track,
}

/// What one agent holds.
pub(crate) struct State {
    // What it knows.
    id: AgentId,
    track: Track,
    /// Where it is marked how the tasks of its present or last tenant went.
    trail: Option<Trail>,
    rng: Box<dyn RngCore + Send>,
    // What it waits for.
    job: Option<Job>,
    round: u64,
    leaving: bool,
}

impl Actor for Agent {
    type Msg = AgentMessage;
    type State = State;
    type Arguments = (Beginning, Box<dyn RngCore + Send>);

    async fn pre_start(
        &self,
        _: AgentRef,
        (beginning, rng): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Beginning { id, track } = beginning;
        Ok(State {
            id,
            track,
            trail: None,
            rng,
            job: None,
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
            AgentMessage::Past { round, past } if round == state.round => match past {
                Ok(past) => self.resume(&me, *past, state),
                Err(error) => self.read_again(&me, error.to_string(), state),
            },
            AgentMessage::Stepped { round, output } if round == state.round => {
                self.stepped(&me, output, state);
            }
            AgentMessage::Committed { round, result } if round == state.round => {
                return self.committed(&me, result, state);
            }
            AgentMessage::Past { .. }
            | AgentMessage::Stepped { .. }
            | AgentMessage::Committed { .. } => {}
            AgentMessage::Cancel(task) => {
                if state
                    .job
                    .as_ref()
                    .is_some_and(|job| job.claim.reference.task == task)
                {
                    self.lay_down(&me, Outcome::Neutral, state);
                }
            }
            AgentMessage::Sleep => me.stop(None),
            AgentMessage::Leave => {
                state.leaving = true;
                match &state.job {
                    // A commit under way ends by itself; everything else is handed back.
                    Some(job) if job.commit.is_some() => {}
                    Some(_) => self.commit(&me, Then::HandBack, state),
                    None => me.stop(None),
                }
            }
        }
        Ok(())
    }
}

impl Agent {
    fn award(&self, me: &AgentRef, assignment: Assignment, state: &mut State) {
        state.round += 1;
        let Assignment { claim, award } = assignment;
        let tenant = &claim.spec.tenant;
        if state.trail.as_ref().map(Trail::tenant) != Some(tenant) {
            state.trail = Trail::new(tenant, &state.id);
        }
        let job = Job::new(claim, state.id.clone(), &self.hands);
        job.notebook.write(Note::Awarded {
            agent: award.agent,
            score: award.score,
            bidders: award.bidders,
        });
        let has_journal = job.claim.has_journal;
        state.job = Some(job);
        if has_journal {
            self.read(me, Duration::ZERO, state);
        } else {
            self.go_on(me, state);
        }
    }

    /// Reads what former lives of the task have written, after a wait.
    fn read(&self, me: &AgentRef, wait: Duration, state: &mut State) {
        let round = state.round;
        let Some(job) = &mut state.job else { return };
        let (ledger, task) = (Arc::clone(&self.hands.ledger), job.claim.reference.task);
        let read = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let past = ledger
                .journal(task)
                .await
                .map(|e| Box::new(Past::from_entries(e)));
            AgentMessage::Past { round, past }
        };
        job.running = aside(me, read);
    }

    /// Without its journal a task cannot go on: the read is tried again, then the task is given back.
    fn read_again(&self, me: &AgentRef, reason: String, state: &mut State) {
        let Some(job) = &mut state.job else { return };
        job.tries += 1;
        tracing::warn!(agent = %state.id, %reason, tries = job.tries, "journal not read");
        if job.tries > STEP_TRIES_MAX {
            return self.give_back(me, reason, state);
        }
        let wait = wait_before(job.tries);
        self.read(me, wait, state);
    }

    /// Gives the task back without a word in its journal: what is in the notebook does not fit there.
    fn give_back(&self, me: &AgentRef, reason: String, state: &mut State) {
        if let Some(job) = &state.job {
            job.notebook.discard();
            self.commit(me, Then::Retry { reason }, state);
        }
    }

    fn resume(&self, me: &AgentRef, past: Past, state: &mut State) {
        if let Some(job) = &mut state.job {
            job.resume(past);
            self.go_on(me, state);
        }
    }

    /// Does what the law says comes next.
    fn go_on(&self, me: &AgentRef, state: &mut State) {
        if state.leaving {
            return self.commit(me, Then::HandBack, state);
        }
        let Some(job) = &mut state.job else { return };
        match job.work().next() {
            Next::Do(step) => self.begin(me, step, state),
            Next::Park { doubt, question } => {
                let Some(thought) = &job.work().thought else {
                    return;
                };
                let id = port::approval_id(self.hands.clock.now(), &mut *state.rng);
                let proposal = thought.answer.clone();
                let question = Question {
                    id,
                    doubt,
                    question,
                    proposal,
                };
                self.commit(me, Then::Park(Box::new(question)), state);
            }
            Next::End(ending) => self.commit(me, Then::End(ending), state),
        }
    }

    fn begin(&self, me: &AgentRef, step: Step, state: &mut State) {
        let round = state.round;
        let Some(job) = &mut state.job else { return };
        let step = job.begin(step);
        let told = async move {
            AgentMessage::Stepped {
                round,
                output: step.await,
            }
        };
        job.running = aside(me, told);
    }

    fn stepped(&self, me: &AgentRef, output: Result<Box<Output>, StepFailure>, state: &mut State) {
        let Some(job) = &mut state.job else { return };
        let mut span = job.span.take();
        let failure = match output {
            Ok(output) => {
                job.tries = 0;
                let asked_model =
                    matches!(&*output, Output::Reason(t) if !t.model_calls.is_empty());
                job.notebook.write(Note::Output((*output).clone()));
                job.record(*output);
                // What a model said is written down before it is used.
                return if asked_model {
                    self.commit(me, Then::Continue, state);
                } else {
                    self.go_on(me, state);
                };
            }
            Err(failure) => failure,
        };
        if let Some(span) = &mut span {
            span.fail(&failure.to_string());
        }
        match failure {
            StepFailure::Step(StepError::Port(PortError::Lost)) => {
                self.lay_down(me, Outcome::Neutral, state);
            }
            StepFailure::Step(StepError::Port(error)) if error.is_retryable() => {
                self.retry(me, error.to_string(), state);
            }
            StepFailure::Step(error) => {
                let reason = error.to_string();
                self.commit(me, Then::End(Ending::Failed { reason }), state);
            }
            StepFailure::Panicked(_) | StepFailure::TimedOut(_) => {
                // A step that hung is dropped and leaves nothing behind; one that panicked may.
                job.crashed = matches!(failure, StepFailure::Panicked(_));
                let reason = failure.to_string();
                tracing::warn!(agent = %state.id, %reason, "step failed");
                self.commit(me, Then::Retry { reason }, state);
            }
        }
    }

    /// Tries the present step again after a wait, or gives the delivery up.
    fn retry(&self, me: &AgentRef, reason: String, state: &mut State) {
        let round = state.round;
        let Some(job) = &mut state.job else { return };
        job.tries += 1;
        if job.tries > STEP_TRIES_MAX {
            return self.commit(me, Then::Retry { reason }, state);
        }
        let wait = wait_before(job.tries);
        match job.work().next() {
            Next::Do(step) => {
                let step = job.begin(step);
                let told = async move {
                    tokio::time::sleep(wait).await;
                    AgentMessage::Stepped {
                        round,
                        output: step.await,
                    }
                };
                job.running = aside(me, told);
            }
            Next::Park { .. } | Next::End(_) => self.go_on(me, state),
        }
    }

    fn commit(&self, me: &AgentRef, then: Then, state: &mut State) {
        let Some(job) = &mut state.job else { return };
        if let Some(running) = job.running.take() {
            running.abort();
        }
        job.tries = 0;
        let commit = job.notebook.commit(then);
        self.send_commit(me, commit, Duration::ZERO, state);
    }

    fn send_commit(&self, me: &AgentRef, commit: Commit, wait: Duration, state: &mut State) {
        let round = state.round;
        let Some(job) = &mut state.job else { return };
        let ledger = Arc::clone(&self.hands.ledger);
        job.commit = Some(commit.clone());
        let told = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            AgentMessage::Committed {
                round,
                result: ledger.commit(commit).await,
            }
        };
        job.running = aside(me, told);
    }

    fn committed(
        &self,
        me: &AgentRef,
        result: Result<(), LedgerError>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(job) = &mut state.job else {
            return Ok(());
        };
        let Some(commit) = job.commit.take() else {
            return Ok(());
        };
        match result {
            Ok(()) => {}
            Err(LedgerError::Shut) => {
                me.stop(None);
                return Ok(());
            }
            Err(error) if error.is_retryable() => {
                job.tries += 1;
                tracing::warn!(agent = %state.id, %error, tries = job.tries, "commit failed, trying again");
                let wait = wait_before(job.tries);
                self.send_commit(me, commit, wait, state);
                return Ok(());
            }
            Err(error @ (LedgerError::Sequence { .. } | LedgerError::Unreadable { .. }))
                if !(commit.entries.is_empty() && matches!(commit.then, Then::Retry { .. })) =>
            {
                // The claim is ours still: it must not stay with an agent that cannot use it.
                tracing::error!(agent = %state.id, %error, "the journal does not fit, task given back");
                self.give_back(me, error.to_string(), state);
                return Ok(());
            }
            Err(error) => {
                // Cancelled, expired or claimed by another: the work is not ours any more.
                tracing::debug!(agent = %state.id, %error, "work discarded");
                self.lay_down(me, Outcome::Neutral, state);
                return Ok(());
            }
        }
        job.tries = 0;
        let crashed = job.crashed;
        match commit.then {
            Then::Continue => self.go_on(me, state),
            Then::Park(question) => {
                state.track.escalations += 1;
                tracing::debug!(task = %commit.claim.task, doubt = question.doubt.as_str(), "parked");
                self.lay_down(me, Outcome::Neutral, state);
            }
            Then::End(ending) => {
                let outcome = self.ended(&ending, state);
                self.lay_down(me, outcome, state);
            }
            Then::HandBack => self.lay_down(me, Outcome::Neutral, state),
            Then::Retry { reason } => {
                if let Some(trail) = &state.trail {
                    self.hands.field.warn(trail, Share::ONE);
                }
                if crashed && !state.leaving {
                    // A crashed step may have left anything behind: begin afresh, under supervision. The
                    // market hears of it there, and awards nothing to an agent about to end.
                    return Err(reason.into());
                }
                self.lay_down(me, Outcome::Failure, state);
            }
        }
        Ok(())
    }

    fn ended(&self, ending: &Ending, state: &mut State) -> Outcome {
        state.track.tasks += 1;
        let Some(job) = &state.job else {
            return Outcome::Neutral;
        };
        let deposit = job
            .work()
            .lesson
            .as_ref()
            .map_or(Share::ZERO, |lesson| lesson.deposit);
        match ending {
            Ending::Done(_) => {
                state.track.successes += 1;
                if let Some(trail) = &state.trail {
                    self.hands.field.praise(trail, deposit);
                }
                Outcome::Success
            }
            Ending::Failed { .. } => {
                if let Some(trail) = &state.trail {
                    self.hands.field.warn(trail, deposit);
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
    fn lay_down(&self, me: &AgentRef, outcome: Outcome, state: &mut State) {
        state.round += 1;
        if let Some(job) = state.job.take() {
            let task = job.claim.reference.task;
            let track = state.track;
            if outcome != Outcome::Neutral || track.escalations > 0 {
                let told = SupervisorMessage::Track {
                    ordinal: state.id.ordinal,
                    track,
                };
                // A supervisor that is gone saves nothing, and neither could we.
                let _ = self.supervisor.cast(told);
            }
            let scent = state
                .trail
                .as_ref()
                .map_or(NO_SCENT, |trail| self.hands.field.scent(trail));
            self.hands
                .market
                .freed(state.id.clone(), task, outcome, scent);
        }
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
