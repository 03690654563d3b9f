//! Writing tasks down: who is let in, and what a repeat is answered.

use std::{collections::BTreeMap, sync::Arc};

use super::{Policy, TaskHead};
use crate::{
    admission,
    id::{Fence, QueueName, TaskId},
    mutant,
    task::{Spec, State},
    unit::Timestamp,
};

/// A task to be written down.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Made by the client or drawn for it: a repeated submit with the same id is answered with
    /// `Duplicate`.
    pub id: TaskId,
    /// What is asked.
    pub spec: Arc<Spec>,
    /// Why it is not let in, if it is new. What is known already was let in: its repeat is answered, though a
    /// deadline has passed since or a type is declared no more.
    pub refusal: Option<admission::Refusal>,
}

/// What became of a submitted task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is written down.
    Accepted(TaskId),
    /// The same request was written down before.
    Duplicate {
        /// As this task.
        id: TaskId,
        /// Where that stands.
        state: State,
    },
    /// Its id or deduplication key is taken by a task with another payload.
    Conflict {
        /// By this task.
        id: TaskId,
        /// Where that stands.
        state: State,
    },
}

impl Submitted {
    /// The task that the ledger has for the request.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        match self {
            Self::Accepted(id) | Self::Duplicate { id, .. } | Self::Conflict { id, .. } => *id,
        }
    }
}

/// A task that the ledger has under the id or the deduplication key of a submitted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub state: State,
    /// Whether it asks the same ([`Spec::same_payload`]).
    pub same_payload: bool,
}

/// Too many live tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{live} live tasks reach the limit of {limit}")]
pub struct Full {
    /// Live tasks now.
    pub live: u64,
    /// The limit.
    pub limit: u64,
}

/// Why nothing of a batch is written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many live tasks.
    #[error(transparent)]
    Full(#[from] Full),
    /// A new task is not let in.
    #[error("task {index}: {refusal}")]
    Refused {
        /// Its place in the batch, from 0.
        index: usize,
        /// Why.
        refusal: admission::Refusal,
    },
}

/// What is to be done with one task of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Planned {
    /// Write this head down.
    Write(Box<TaskHead>),
    /// Write nothing; this is the answer.
    Answer(Submitted),
}

/// The answer to a task that is known already.
#[must_use]
pub const fn answer(known: Known) -> Submitted {
    let Known {
        id,
        state,
        same_payload,
    } = known;
    if same_payload {
        Submitted::Duplicate { id, state }
    } else {
        Submitted::Conflict { id, state }
    }
}

/// Whether `fresh` more tasks may live beside `live` others.
///
/// # Errors
/// [`Full`].
pub const fn admits(live: u64, fresh: u64, policy: &Policy) -> Result<(), Full> {
    let limit = policy.live_max;
    if live.saturating_add(fresh) > limit {
        return Err(Full { live, limit });
    }
    Ok(())
}

/// Plans a batch: all of it or nothing. `known` is what the ledger has for each task, by id first, else
/// by deduplication key; twins within the batch are found here.
///
/// # Errors
/// [`Error`]: then nothing is to be written.
pub fn plan(
    batch: &[NewTask],
    known: &[Option<Known>],
    live: u64,
    policy: &Policy,
    now: Timestamp,
) -> Result<Vec<Planned>, Error> {
    let mut by_id: BTreeMap<TaskId, &NewTask> = BTreeMap::new();
    let mut by_key: BTreeMap<_, &NewTask> = BTreeMap::new();
    let mut fresh = 0;
    let mut planned = Vec::with_capacity(batch.len());
    for (index, (task, known)) in batch.iter().zip(known).enumerate() {
        if let Some(known) = known.as_ref().filter(|_| !mutant!(NoDedupe)) {
            planned.push(Planned::Answer(answer(*known)));
            continue;
        }
        let key = task
            .spec
            .dedupe_key
            .as_ref()
            .map(|k| (&task.spec.tenant, k));
        let by_key_twin = key.as_ref().and_then(|key| by_key.get(key));
        if let Some(twin) = by_id.get(&task.id).or(by_key_twin) {
            planned.push(Planned::Answer(answer(Known {
                id: twin.id,
                state: State::Ready,
                same_payload: twin.spec.same_payload(&task.spec),
            })));
            continue;
        }
        if let Some(refusal) = task.refusal.clone() {
            return Err(Error::Refused { index, refusal });
        }
        by_id.insert(task.id, task);
        if let Some(key) = key {
            by_key.insert(key, task);
        }
        fresh += 1;
        planned.push(Planned::Write(Box::new(head(
            task.id, &task.spec, policy, now,
        ))));
    }
    admits(live, fresh, policy)?;
    Ok(planned)
}

/// The head of a task that is ready for the first time.
pub(super) fn head(id: TaskId, spec: &Spec, policy: &Policy, now: Timestamp) -> TaskHead {
    TaskHead {
        id,
        tenant: spec.tenant.clone(),
        queue: QueueName::from(&spec.agent_type),
        state: State::Ready,
        revision: 1,
        fence: Fence(0),
        holder: None,
        failed_attempts: 0,
        node_losses: 0,
        not_before: None,
        deadline: spec.deadline,
        sort_key: sort_key(spec, now, policy),
        wait: None,
        agent: None,
        submitted_at: now,
        updated_at: now,
        last_request: None,
        ending: None,
    }
}

/// Where a task stands in its queue, the lowest first: its submission time in µs, moved ahead by one
/// head start for each step of priority. A fixed key, so waiting tasks age without being touched.
#[must_use]
pub fn sort_key(spec: &Spec, submitted_at: Timestamp, policy: &Policy) -> i64 {
    let head_start = i64::try_from(policy.head_start.as_micros()).unwrap_or(i64::MAX);
    let ahead = head_start.saturating_mul(i64::from(spec.priority.get()));
    i64::try_from(submitted_at.as_micros())
        .unwrap_or(i64::MAX)
        .saturating_sub(ahead)
}
