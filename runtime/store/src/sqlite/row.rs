//! Rows as the core's types. Each function reads the columns of its table in their order
//! ([`super::tables`]); [`super::tables::Table::read`] has compared the checksum before.

use std::sync::Arc;

use colony_core::{
    id::{AgentId, Fence, Incarnation, NodeId, QueueName, RequestId, TaskId, Tenant, TypeName},
    journal::{EffectKey, Entry},
    ledger::{ClientVerb, Holder, LastRequest, TaskHead, Wait},
    task::{Ending, Spec, State},
    unit::Timestamp,
};
use rusqlite::{
    Row,
    types::{FromSqlError, ValueRef},
};
use uuid::Uuid;

use super::{
    counters::Counters,
    tables::Undecodable,
    value::{Code, Id, Number},
};
use crate::{
    codec,
    ledger::{
        Agent, Change, Episode, OutboxMessage, Posted, Quarantined, Question, QuestionState,
        Snapshot, Track,
    },
};

type Decoded<T> = Result<T, Undecodable>;

fn last_request(row: &Row<'_>, kind: usize, key: usize) -> Decoded<Option<LastRequest>> {
    let fence = || Ok::<_, Undecodable>(Fence(row.get::<_, Number>(key)?.0));
    Ok(match row.get::<_, Option<i64>>(kind)? {
        None => None,
        Some(1) => Some(LastRequest::Waited(fence()?)),
        Some(2) => Some(LastRequest::Ended(fence()?)),
        Some(3) => Some(LastRequest::Released(fence()?)),
        // A client's cancel: since the third schema, it stands in `requests`.
        Some(4) => None,
        Some(other) => return Err(FromSqlError::OutOfRange(other).into()),
    })
}

macro_rules! name {
    ($row:expr, $column:expr, $name:ident) => {{
        let text = $row.get_ref($column)?.as_str()?;
        $name::new(text).map_err(|error| FromSqlError::Other(Box::new(error)))?
    }};
}

/// An agent from two columns that are both there or both not.
fn agent_id(row: &Row<'_>, first: usize) -> Decoded<Option<AgentId>> {
    if row.get_ref(first)? == ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(AgentId {
        agent_type: name!(row, first, TypeName),
        ordinal: row.get::<_, Number>(first + 1)?.small(),
    }))
}

/// What a client asked of a task.
pub(super) fn request(row: &Row<'_>) -> Decoded<ClientVerb> {
    match row.get(2)? {
        0 => Ok(ClientVerb::Cancel),
        1 => Ok(ClientVerb::Revive),
        other => Err(FromSqlError::OutOfRange(other).into()),
    }
}

/// The columns that `live` and `finished` have in common.
fn head(row: &Row<'_>) -> Decoded<TaskHead> {
    let number = |column| row.get::<_, Number>(column);
    Ok(TaskHead {
        id: row.get::<_, Id>(0)?.task(),
        tenant: name!(row, 1, Tenant),
        queue: name!(row, 2, QueueName),
        state: row.get::<_, Code>(3)?.0,
        revision: number(4)?.0,
        fence: Fence(number(5)?.0),
        holder: None,
        failed_attempts: number(6)?.small(),
        node_losses: number(7)?.small(),
        not_before: None,
        deadline: row.get::<_, Option<Number>>(8)?.map(Number::time),
        sort_key: row.get(9)?,
        wait: None,
        agent: agent_id(row, 10)?,
        submitted_at: number(12)?.time(),
        updated_at: number(13)?.time(),
        last_request: last_request(row, 14, 15)?,
        ending: None,
    })
}

pub(super) fn live(row: &Row<'_>) -> Decoded<TaskHead> {
    let mut head = head(row)?;
    if row.get_ref(16)? != ValueRef::Null {
        head.holder = Some(Holder {
            node: name!(row, 16, NodeId),
            incarnation: Incarnation(row.get::<_, Number>(17)?.0),
            batch: row.get::<_, Number>(18)?.0,
        });
    }
    head.not_before = row.get::<_, Option<Number>>(19)?.map(Number::time);
    head.wait = row
        .get::<_, Option<Id>>(20)?
        .map(|id| Wait::Human(id.approval()));
    Ok(head)
}

pub(super) fn finished(row: &Row<'_>) -> Decoded<TaskHead> {
    let mut head = head(row)?;
    head.ending = Some(ending(row, 16)?);
    Ok(head)
}

fn ending(row: &Row<'_>, column: usize) -> Decoded<Ending> {
    Ok(codec::read_ending(bytes(row, column)?)?)
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Decoded<&'a [u8]> {
    Ok(row.get_ref(column)?.as_blob()?)
}

/// What is asked.
pub(super) fn spec(row: &Row<'_>) -> Decoded<Arc<Spec>> {
    Ok(Arc::new(codec::read_spec(bytes(row, 1)?)?))
}

pub(super) fn entry(row: &Row<'_>) -> Decoded<Entry> {
    let sequence = row.get::<_, Number>(1)?.small();
    let at = row.get::<_, Number>(2)?.time();
    Ok(codec::read_entry(sequence, at, bytes(row, 3)?)?)
}

/// A question as its row has it.
#[derive(Debug, Clone)]
pub(super) struct ApprovalRow {
    pub(super) question: Question,
    pub(super) task: TaskId,
    pub(super) tenant: Tenant,
    pub(super) asked_at: Timestamp,
    pub(super) state: QuestionState,
}

pub(super) fn approval(row: &Row<'_>) -> Decoded<ApprovalRow> {
    let decided = || {
        let decision = codec::read_decision(bytes(row, 6)?)?;
        Ok::<_, Undecodable>((decision, RequestId(row.get::<_, Id>(7)?.0)))
    };
    let state = match row.get::<_, i64>(4)? {
        0 => QuestionState::Open,
        1 => {
            let (decision, request) = decided()?;
            QuestionState::Answered { decision, request }
        }
        2 => {
            let (decision, request) = decided()?;
            QuestionState::Taken { decision, request }
        }
        3 => QuestionState::Closed,
        other => return Err(FromSqlError::OutOfRange(other).into()),
    };
    let id = row.get::<_, Id>(0)?.approval();
    Ok(ApprovalRow {
        question: codec::read_question(id, bytes(row, 5)?)?,
        task: row.get::<_, Id>(1)?.task(),
        tenant: name!(row, 2, Tenant),
        asked_at: row.get::<_, Number>(3)?.time(),
        state,
    })
}

/// A deduplication key: by whom it was used, and the hash of what was asked.
pub(super) fn dedupe(row: &Row<'_>) -> Decoded<(TaskId, [u8; 32])> {
    row.get::<_, Number>(4)?;
    Ok((row.get::<_, Id>(2)?.task(), row.get(3)?))
}

pub(super) fn outbox(row: &Row<'_>) -> Decoded<Posted> {
    let message = OutboxMessage {
        key: EffectKey::from(row.get::<_, String>(1)?),
        index: row.get::<_, Number>(2)?.small(),
        task: row.get::<_, Id>(3)?.task(),
        destination: row.get(4)?,
        payload: codec::read_delivery(bytes(row, 5)?)?,
    };
    let acknowledged = row.get::<_, Option<Number>>(7)?;
    Ok(Posted {
        number: row.get::<_, Number>(0)?.0,
        posted_at: row.get::<_, Number>(6)?.time(),
        acknowledged_at: acknowledged.map(Number::time),
        message,
    })
}

/// An episode, and the number at which it was forgotten.
pub(super) fn episode(row: &Row<'_>) -> Decoded<(Episode, Option<u64>)> {
    let (text, label, vector) = codec::read_episode(bytes(row, 6)?)?;
    let episode = Episode {
        number: row.get::<_, Number>(0)?.0,
        task: row.get::<_, Id>(1)?.task(),
        tenant: name!(row, 2, Tenant),
        agent_type: name!(row, 3, TypeName),
        at: row.get::<_, Number>(4)?.time(),
        text,
        label,
        vector,
    };
    let forgotten = row.get::<_, Option<Number>>(5)?;
    Ok((episode, forgotten.map(|number| number.0)))
}

pub(super) fn agent(row: &Row<'_>) -> Decoded<Agent> {
    let number = |column| row.get::<_, Number>(column);
    Ok(Agent {
        id: AgentId {
            agent_type: name!(row, 0, TypeName),
            ordinal: number(1)?.small(),
        },
        revision: number(2)?.0,
        version: number(3)?.small(),
        track: Track {
            tasks: number(4)?.0,
            successes: number(5)?.0,
            escalations: number(6)?.0,
            crashes: number(7)?.0,
        },
        updated_at: number(8)?.time(),
    })
}

pub(super) fn snapshot(row: &Row<'_>) -> Decoded<Snapshot> {
    Ok(Snapshot {
        version: row.get::<_, Number>(2)?.small(),
        body: codec::read_snapshot(bytes(row, 3)?)?,
    })
}

/// A node, its life, and the last claim request that took something.
pub(super) fn node(row: &Row<'_>) -> Decoded<(NodeId, Incarnation, Option<u64>)> {
    Ok((
        name!(row, 0, NodeId),
        Incarnation(row.get::<_, Number>(1)?.0),
        row.get::<_, Option<Number>>(2)?.map(|batch| batch.0),
    ))
}

pub(super) fn change(row: &Row<'_>) -> Decoded<Change> {
    Ok(Change {
        cursor: row.get::<_, Number>(0)?.0,
        task: row.get::<_, Id>(1)?.task(),
        state: row.get::<_, Code>(2)?.0,
        at: row.get::<_, Number>(3)?.time(),
    })
}

pub(super) fn counters(row: &Row<'_>) -> Decoded<Counters> {
    let number = |column| row.get::<_, Number>(column).map(|number| number.0);
    let mut by_state = [0; State::ALL.len()];
    for (count, column) in by_state.iter_mut().zip(4..) {
        *count = number(column)?;
    }
    Ok(Counters {
        accepted: number(1)?,
        cursor: number(2)?,
        changes_kept_from: number(3)?,
        by_state,
        outbox: number(12)?,
        episodes: number(13)?,
        highest: Timestamp::from_micros(number(14)?),
        writes: number(15)?,
    })
}

/// Who the ledger is, and who may write it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) id: Uuid,
    pub(super) schema: u32,
    pub(super) oldest_schema: u32,
    /// The checksum over the definitions of tables and indexes.
    pub(super) tables: u32,
}

pub(super) fn meta(row: &Row<'_>) -> Decoded<Meta> {
    let number = |column| row.get::<_, Number>(column).map(Number::small);
    Ok(Meta {
        id: row.get::<_, Id>(1)?.0,
        schema: number(2)?,
        oldest_schema: number(3)?,
        tables: number(4)?,
    })
}

pub(super) fn quarantined(row: &Row<'_>) -> Decoded<Quarantined> {
    Ok(Quarantined {
        table: row.get(0)?,
        key: row.get(1)?,
        reason: row.get(2)?,
        at: row.get::<_, Number>(3)?.time(),
    })
}
