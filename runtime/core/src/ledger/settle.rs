//! What others than the holder do to a task, and humans to its questions. The holder's own writes are in
//! [`commit`](super::commit).

use super::{
    ClientRequest, ClientVerb, Policy, Question, QuestionState, Refusal, Stamp, TaskHead,
    Transition, Wait, submit,
};
use crate::{
    cycle::Decision,
    id::{Fence, RequestId, TaskId, TypeName},
    mutant,
    task::{Ending, Spec, State},
    unit::Timestamp,
};

/// Why a cancelled task has no answer.
const CANCELLED: &str = "cancelled by its submitter";
/// Why an expired task has no answer.
const EXPIRED: &str = "its deadline passed";

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

/// The queue of a task of which nothing can be read.
const UNREADABLE: &str = "unreadable";

/// The head of a live task cannot be read: it is dead, with what its id and its spec say, so that nobody waits for
/// it for ever; `spec` is none where that cannot be read either. It stands in the place of whatever head there was,
/// so there is none to hold it against.
///
/// # Panics
/// Never: the name of the queue is legal.
#[must_use]
pub fn write_off(
    task: TaskId,
    spec: Option<&Spec>,
    reason: &str,
    policy: &Policy,
    now: Timestamp,
) -> TaskHead {
    let head = |spec: &Spec| TaskHead {
        state: State::Dead,
        // Whoever held it, these are later: also after it is revived.
        revision: above_all_counts(now),
        fence: Fence(above_all_counts(now)),
        ending: Some(without_answer(reason)),
        updated_at: now,
        ..submit::head(task, spec, policy, task.drawn_at())
    };
    spec.map_or_else(
        || {
            let unreadable = TypeName::new(UNREADABLE).expect("a legal name");
            head(&Spec::new(unreadable, ""))
        },
        head,
    )
}

/// A number above any that counts up from 0: for the row that would have had the last one and cannot be read.
#[must_use]
pub const fn above_all_counts(now: Timestamp) -> u64 {
    now.as_micros()
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
pub(super) fn released(head: &TaskHead, state: State, now: Timestamp) -> TaskHead {
    let mut after = head.clone();
    after.state = state;
    after.revision += 1;
    after.holder = None;
    after.wait = None;
    after.not_before = None;
    after.updated_at = now;
    after
}

/// The ending of a task that has no answer.
pub(super) fn without_answer(reason: &str) -> Ending {
    Ending::Failed {
        reason: reason.to_owned(),
    }
}
