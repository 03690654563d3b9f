//! The holder's commit: whether it is done, was done before or is refused, and what an engine writes of it.
//!
//! ```text
//!   head ───────► does the claim stand? ──no──► settled by this very request: a repeat; else Lost
//!                   │ yes
//!   journal ────► do the entries follow? ──no──► Sequence, Conflict
//!                   │ yes       └─ all are there, and nothing is settled: a repeat
//!   questions ──► is the id of a new one free? ──no──► RequestConflict
//!                   │ yes
//!                   ▼
//!                Outcome: the transition, the entries that are new, the answers that leave the inbox
//! ```
//! Whether a task is tried again, and what it is charged, is decided in [`retry`](super::retry) alone.

use std::time::Duration;

use super::{
    AttemptCounts, Commit, LastRequest, Policy, QuestionState, Refusal, Settlement, Stamp,
    TaskHead, Transition, Wait,
    retry::{RetryDecision, retry},
    settle::{released, without_answer},
};
use crate::{
    id::{ApprovalId, Fence, TaskId},
    journal::Entry,
    mutant,
    task::{Ending, State},
    unit::Timestamp,
};

/// What an engine has stored of what a commit is about. It is asked for what the outcome hangs on, once for
/// each, and for nothing else.
pub trait Stored {
    /// Why there is no outcome: a refusal, or that something cannot be read.
    type Error: From<Refusal>;

    /// The number of the first entry that the task's journal does not have.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_sequence(&mut self) -> Result<u32, Self::Error>;

    /// The entry of a number below it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn entry(&mut self, sequence: u32) -> Result<Option<Entry>, Self::Error>;

    /// A question, whosever it is: whose, and where it stands.
    ///
    /// # Errors
    /// When it cannot be read.
    fn question(&mut self, id: ApprovalId) -> Result<Option<(TaskId, QuestionState)>, Self::Error>;

    /// Whether there is a question with this id, whosever it is and whether or not it can be read.
    ///
    /// # Errors
    /// When that cannot be told.
    fn has_question(&mut self, id: ApprovalId) -> Result<bool, Self::Error>;
}

/// What an engine writes of a commit, in one transaction. Beside it the commit's messages, each once for
/// ever ([`OutboxMessage::id`](super::OutboxMessage::id)), its episodes, and the question that it waits for,
/// which is open.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What becomes of the head.
    pub transition: Transition,
    /// The commit's entries from this index on are new; those before are there already.
    pub append_from: usize,
    /// The questions whose answers leave the inbox, as they are afterwards.
    pub taken: Vec<(ApprovalId, QuestionState)>,
}

/// The holder's commit. `held` is the head as the claim's answer carried it, or as it is stored: by P8 the
/// two are the same while the claim stands.
///
/// Ok(None): it was done before, by this very request, and nothing is to be written. Its answer is the state of
/// `held`, and the numbers under which its episodes are known.
///
/// # Errors
/// `Lost` when the claim has moved on, `Sequence` and `Conflict` when the entries do not fit the journal,
/// `RequestConflict` when the id of its question is taken; what [`Stored`] gives.
pub fn outcome<S: Stored>(
    held: &TaskHead,
    commit: &Commit,
    stored: &mut S,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<Outcome>, S::Error> {
    let Some(transition) = transition(held, commit, policy, now)? else {
        return Ok(None);
    };
    let append_from = first_new(held.id, &commit.entries, stored)?;
    let all_known = append_from == commit.entries.len() && !commit.entries.is_empty();
    if all_known && transition.head.is_none() {
        return Ok(None);
    }
    let taken = answers(commit, stored)?;
    if let Settlement::Wait(question) = &commit.settlement
        && stored.has_question(question.id)?
    {
        return Err(Refusal::RequestConflict { task: held.id }.into());
    }
    Ok(Some(Outcome {
        transition,
        append_from,
        taken,
    }))
}

/// How many of a commit's entries are in the journal already. Entries follow each other, and the first is at
/// most the one that is next.
fn first_new<S: Stored>(
    task: TaskId,
    entries: &[Entry],
    stored: &mut S,
) -> Result<usize, S::Error> {
    let Some(first) = entries.first() else {
        return Ok(0);
    };
    let next = stored.next_sequence()?;
    let mut expected = first.sequence.min(next);
    let mut known = 0;
    for entry in entries {
        let sequence = entry.sequence;
        if sequence != expected {
            let refusal = Refusal::Sequence {
                task,
                sequence,
                expected,
            };
            return Err(refusal.into());
        }
        if sequence < next && !mutant!(AppendTwice) {
            if stored.entry(sequence)?.as_ref() != Some(entry) {
                return Err(Refusal::Conflict { task, sequence }.into());
            }
            known += 1;
        }
        expected = expected.saturating_add(1);
    }
    Ok(known)
}

/// The answers that the entries hold: of the task's own questions, those that lie in its inbox.
fn answers<S: Stored>(
    commit: &Commit,
    stored: &mut S,
) -> Result<Vec<(ApprovalId, QuestionState)>, S::Error> {
    let mut taken = Vec::with_capacity(commit.taken.len());
    for id in &commit.taken {
        if let Some((task, QuestionState::Answered { decision, request })) = stored.question(*id)?
            && task == commit.claim.task
        {
            taken.push((*id, QuestionState::Taken { decision, request }));
        }
    }
    Ok(taken)
}

/// What becomes of the head. None: the settlement was made before, by this very request.
fn transition(
    held: &TaskHead,
    commit: &Commit,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<Transition>, Refusal> {
    let fence = commit.claim.fence;
    let request = request_of(&commit.settlement, fence);
    let expect = Stamp::Held(fence);
    if !expect.matches(held) {
        if request.is_some() && request == held.last_request {
            return Ok(None);
        }
        return Err(Refusal::Lost {
            task: held.id,
            fence,
            state: held.state,
        });
    }
    let mut after = match &commit.settlement {
        Settlement::Continue => {
            return Ok(Some(Transition {
                id: held.id,
                expect,
                from: held.state,
                head: None,
                request: None,
            }));
        }
        Settlement::Wait(question) => TaskHead {
            node_losses: 0,
            wait: Some(Wait::Human(question.id)),
            ..released(held, State::Waiting, now)
        },
        Settlement::End(ending) => {
            let state = match ending {
                Ending::Done(_) => State::Done,
                Ending::Failed { .. } => State::Failed,
            };
            TaskHead {
                ending: Some(ending.clone()),
                ..released(held, state, now)
            }
        }
        Settlement::Release {
            counts: AttemptCounts::Not,
            delay,
            ..
        } => ready_after(held, *delay, now),
        Settlement::Release {
            counts: AttemptCounts::Failed,
            delay,
            reason,
        } => {
            let failed_attempts = held.failed_attempts + 1;
            let after = match retry(failed_attempts, policy) {
                RetryDecision::After(wait) => ready_after(held, wait.max(*delay), now),
                RetryDecision::Dead => TaskHead {
                    node_losses: 0,
                    ending: Some(without_answer(reason)),
                    ..released(held, State::Dead, now)
                },
            };
            TaskHead {
                failed_attempts,
                ..after
            }
        }
    };
    after.last_request = request;
    if commit.agent.is_some() {
        after.agent.clone_from(&commit.agent);
    }
    Ok(Some(Transition::of(held, expect, after)))
}

/// The head of a task that its holder has released.
fn ready_after(held: &TaskHead, wait: Duration, now: Timestamp) -> TaskHead {
    TaskHead {
        node_losses: 0,
        not_before: (!wait.is_zero()).then(|| now.after(wait)),
        ..released(held, State::Ready, now)
    }
}

/// What the head keeps of a settlement, to know its repeat; none for one that does not settle.
const fn request_of(settlement: &Settlement, fence: Fence) -> Option<LastRequest> {
    match settlement {
        Settlement::Continue => None,
        Settlement::Wait(_) => Some(LastRequest::Waited(fence)),
        Settlement::End(_) => Some(LastRequest::Ended(fence)),
        Settlement::Release { .. } => Some(LastRequest::Released(fence)),
    }
}
