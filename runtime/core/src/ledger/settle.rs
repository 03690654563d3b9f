//! What becomes of a task that is live: the holder's commits, and the rare verbs of everybody else.
//!
//! Whether a task is tried again, and what it is charged, is decided in [`retry`](super::retry) alone.

use super::{
    ClientRequest, ClientVerb, Commit, Counts, LastRequest, Policy, Question, QuestionState,
    Refusal, Settlement, Stamp, TaskHead, Transition, Wait,
    retry::{RetryDecision, retry},
    submit,
};
use crate::{
    cycle::Decision,
    id::{RequestId, TaskId},
    journal::Entry,
    mutant,
    task::{Ending, Spec, State},
    unit::Timestamp,
};

/// Why a cancelled task has no answer.
const CANCELLED: &str = "cancelled by its submitter";
/// Why an expired task has no answer.
const EXPIRED: &str = "its deadline passed";

/// What a commit does to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Entries from this index on are new; those before are there already, byte for byte.
    From(usize),
    /// Every entry is there already: the request is a repeat.
    Repeat,
}

/// Places a commit's entries in the journal. `next` is the number of the first entry that is not there;
/// `stored` gives the entry of a number below it. Entries follow each other, and the first is at most `next`.
///
/// # Errors
/// `Sequence` for a gap, `Conflict` for another entry under the same number.
pub fn append<E>(
    task: TaskId,
    next: u32,
    entries: &[Entry],
    mut stored: impl FnMut(u32) -> Result<Option<Entry>, E>,
) -> Result<Result<Appended, Refusal>, E> {
    let mut expected = entries
        .first()
        .map_or(next, |first| first.sequence.min(next));
    let mut known = 0;
    for entry in entries {
        let sequence = entry.sequence;
        if sequence != expected {
            return Ok(Err(Refusal::Sequence {
                task,
                sequence,
                expected,
            }));
        }
        if sequence < next && !mutant!(AppendTwice) {
            if stored(sequence)?.as_ref() != Some(entry) {
                return Ok(Err(Refusal::Conflict { task, sequence }));
            }
            known += 1;
        }
        expected = expected.saturating_add(1);
    }
    let all = known == entries.len() && !entries.is_empty();
    Ok(Ok(if all {
        Appended::Repeat
    } else {
        Appended::From(known)
    }))
}

/// The holder's commit. `held` is the head as the claim's answer carried it, or as it is stored: by P8 the
/// two are the same while the claim stands.
///
/// Ok(None): the settlement was made before, by this very request; the answer is the one it had then.
///
/// # Errors
/// `Lost` when the claim has moved on.
pub fn commit(
    held: &TaskHead,
    commit: &Commit,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<Transition>, Refusal> {
    let fence = commit.claim.fence;
    if !Stamp::Held(fence).matches(held) {
        let repeat = settlement(&commit.settlement, fence);
        return if repeat.is_some() && repeat == held.last_request {
            Ok(None)
        } else {
            Err(Refusal::Lost {
                task: held.id,
                fence,
                state: held.state,
            })
        };
    }
    let expect = Stamp::Held(fence);
    let Some(last_request) = settlement(&commit.settlement, fence) else {
        return Ok(Some(Transition {
            id: held.id,
            expect,
            from: held.state,
            head: None,
            request: None,
        }));
    };
    let mut after = released(held, State::Ready, now);
    after.last_request = Some(last_request);
    if commit.agent.is_some() {
        after.agent.clone_from(&commit.agent);
    }
    match &commit.settlement {
        Settlement::Continue => {}
        Settlement::Wait(question) => {
            after.node_losses = 0;
            after.state = State::Waiting;
            after.wait = Some(Wait::Human(question.id));
        }
        Settlement::End(ending) => {
            after.state = match ending {
                Ending::Done(_) => State::Done,
                Ending::Failed { .. } => State::Failed,
            };
            after.ending = Some(ending.clone());
        }
        Settlement::Release {
            counts,
            delay,
            reason,
        } => {
            after.node_losses = 0;
            let wait = match counts {
                Counts::Not => Some(*delay),
                Counts::Failed => {
                    after.failed_attempts += 1;
                    match retry(after.failed_attempts, policy) {
                        RetryDecision::After(wait) => Some(wait.max(*delay)),
                        RetryDecision::Dead => None,
                    }
                }
            };
            match wait {
                Some(wait) => after.not_before = (!wait.is_zero()).then(|| now.after(wait)),
                None => {
                    after.state = State::Dead;
                    after.ending = Some(without_answer(reason));
                }
            }
        }
    }
    Ok(Some(Transition::of(held, expect, after)))
}

/// What the head keeps of a settlement, to know its repeat; none for one that does not settle.
const fn settlement(settlement: &Settlement, fence: crate::id::Fence) -> Option<LastRequest> {
    match settlement {
        Settlement::Continue => None,
        Settlement::Wait(_) => Some(LastRequest::Waited(fence)),
        Settlement::End(_) => Some(LastRequest::Ended(fence)),
        Settlement::Release { .. } => Some(LastRequest::Released(fence)),
    }
}

/// The holder's node is gone: the task is ready at once, under a new fence. Never kills it.
#[must_use]
pub fn lose(head: &TaskHead, now: Timestamp) -> Transition {
    let mut after = released(head, State::Ready, now);
    after.fence.0 += 1;
    after.node_losses += 1;
    if mutant!(C6) {
        after.failed_attempts += 1;
    }
    Transition::of(head, Stamp::of(head), after)
}

/// Whether a client's request is the repeat of one that was done; `known` is what is kept with the task under
/// its id.
fn is_repeat(task: TaskId, known: Option<ClientVerb>, verb: ClientVerb) -> Result<bool, Refusal> {
    match known {
        None => Ok(false),
        Some(known) if known == verb => Ok(true),
        Some(_) => Err(Refusal::RequestConflict { task }),
    }
}

/// A client takes its task back, in any live state. `known` is what is kept with the task under the request's id.
///
/// Ok(None): it was cancelled before, by this very request; it may have been revived since.
///
/// # Errors
/// `Ended`, `RequestConflict`.
pub fn cancel(
    head: &TaskHead,
    known: Option<ClientVerb>,
    id: RequestId,
    now: Timestamp,
) -> Result<Option<Transition>, Refusal> {
    let verb = ClientVerb::Cancel;
    if is_repeat(head.id, known, verb)? {
        return Ok(None);
    }
    if head.state.is_final() {
        return Err(Refusal::Ended {
            task: head.id,
            state: head.state,
        });
    }
    let mut transition = end(head, State::Cancelled, CANCELLED, now);
    transition.request = Some(ClientRequest { id, verb });
    Ok(Some(transition))
}

/// The deadline of a live task has passed.
#[must_use]
pub fn expire(head: &TaskHead, now: Timestamp) -> Transition {
    end(head, State::Expired, EXPIRED, now)
}

/// Something that belongs to a live task cannot be read: it ends, so that nobody waits for it for ever.
#[must_use]
pub fn quarantine(head: &TaskHead, reason: &str, now: Timestamp) -> Transition {
    end(head, State::Dead, reason, now)
}

fn end(head: &TaskHead, state: State, reason: &str, now: Timestamp) -> Transition {
    let mut after = released(head, state, now);
    after.ending = Some(without_answer(reason));
    Transition::of(head, Stamp::of(head), after)
}

/// A dead, cancelled or expired task is ready again, under a new fence and at the end of its line. Its
/// journal and its inbox stay; a deadline that has passed does not. `known` is what is kept with the task under
/// the request's id.
///
/// Ok(None): it was revived before, by this very request; it may have ended since.
///
/// # Errors
/// `NotRevivable` in any other state, `RequestConflict`.
pub fn revive(
    head: &TaskHead,
    spec: &Spec,
    known: Option<ClientVerb>,
    id: RequestId,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<Transition>, Refusal> {
    let verb = ClientVerb::Revive;
    if is_repeat(head.id, known, verb)? {
        return Ok(None);
    }
    if !head.state.is_revivable() {
        return Err(Refusal::NotRevivable {
            task: head.id,
            state: head.state,
        });
    }
    let mut after = released(head, State::Ready, now);
    after.fence.0 += 1;
    after.failed_attempts = 0;
    after.node_losses = 0;
    after.ending = None;
    after.deadline = head.deadline.filter(|deadline| *deadline > now);
    after.sort_key = submit::sort_key(spec, now, policy);
    let mut transition = Transition::of(head, Stamp::of(head), after);
    transition.request = Some(ClientRequest { id, verb });
    Ok(Some(transition))
}

/// A human answers a question, in whatever live state its task is. The answer goes to the task's inbox; a
/// task that waits for it is ready.
///
/// Ok(None): it was answered so before, by this very request.
///
/// # Errors
/// `Decided` when somebody else was first, `Closed` when the task has ended, `RequestConflict` when this request
/// answered otherwise before.
pub fn decide(
    question: &Question,
    state: &QuestionState,
    head: &TaskHead,
    decision: &Decision,
    request: RequestId,
    now: Timestamp,
) -> Result<Option<Decided>, Refusal> {
    let (id, task) = (question.id, head.id);
    let closed = || Refusal::Closed {
        id,
        task,
        state: head.state,
    };
    match state {
        QuestionState::Answered {
            request: known,
            decision: before,
        }
        | QuestionState::Taken {
            request: known,
            decision: before,
        } if *known == request => {
            return if before == decision {
                Ok(None)
            } else {
                Err(Refusal::RequestConflict { task })
            };
        }
        QuestionState::Answered { decision, .. } | QuestionState::Taken { decision, .. }
            if !mutant!(DoubleDecide) =>
        {
            let by = decision.by.clone();
            return Err(Refusal::Decided {
                id,
                task,
                state: head.state,
                by,
            });
        }
        QuestionState::Closed => return Err(closed()),
        QuestionState::Open if head.state.is_final() => return Err(closed()),
        QuestionState::Open | QuestionState::Answered { .. } | QuestionState::Taken { .. } => {}
    }
    let waits = head.state == State::Waiting && head.wait == Some(Wait::Human(question.id));
    let transition =
        waits.then(|| Transition::of(head, Stamp::of(head), released(head, State::Ready, now)));
    Ok(Some(Decided {
        question: QuestionState::Answered {
            decision: decision.clone(),
            request,
        },
        transition,
    }))
}

/// What a decision does.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The question afterwards.
    pub question: QuestionState,
    /// What becomes of its task; none when that does not wait for it.
    pub transition: Option<Transition>,
}

/// The question after its answer was taken into the journal. Anything but an answered one stays as it is.
#[must_use]
pub fn taken(state: QuestionState) -> QuestionState {
    match state {
        QuestionState::Answered { decision, request } => QuestionState::Taken { decision, request },
        other @ (QuestionState::Open | QuestionState::Taken { .. } | QuestionState::Closed) => {
            other
        }
    }
}

/// The question after its task has ended: an answer stays, for a task that is revived.
#[must_use]
pub fn closed(state: QuestionState) -> QuestionState {
    match state {
        QuestionState::Open => QuestionState::Closed,
        other @ (QuestionState::Answered { .. }
        | QuestionState::Taken { .. }
        | QuestionState::Closed) => other,
    }
}

/// The head in another state, held by nobody and waiting for nothing.
fn released(head: &TaskHead, state: State, now: Timestamp) -> TaskHead {
    let mut after = head.clone();
    after.state = state;
    after.revision += 1;
    after.holder = None;
    after.wait = None;
    after.not_before = None;
    after.updated_at = now;
    after
}

fn without_answer(reason: &str) -> Ending {
    Ending::Failed {
        reason: reason.to_owned(),
    }
}
