//! What reads. Each read is one transaction, so it sees one moment.

use std::sync::Arc;

use colony_core::{
    id::{AgentId, TaskId, Tenant, TypeName},
    journal::{EffectKey, Entry},
    task::{Record, Spec, State},
    unit::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    pen::Tally,
    row::{Code, Id, Number, Stop, agent, code, name},
};
use crate::{
    blob,
    ledger::{
        Agent, Approval, ApprovalFilter, Change, Cursor, Episode, LedgerError, OutboxRecord,
        TaskFilter, Track,
    },
    rules,
};

type Read<T> = Result<T, Stop>;

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    Ok(row.get_ref(column)?.as_blob()?)
}

fn spec(row: &Row<'_>, column: usize) -> Read<Arc<Spec>> {
    Ok(Arc::new(blob::read_spec(bytes(row, column)?)?))
}

const LIVE: &str = "SELECT t.id, t.state, t.fence, t.deliveries, t.agent_type, t.agent_ordinal,
     t.submitted_us, t.updated_us, NULL, s.body FROM live t CROSS JOIN specs s USING (id)";
const FINISHED: &str = "SELECT t.id, t.state, t.fence, t.deliveries, t.agent_type, t.agent_ordinal,
     t.submitted_us, t.updated_us, t.ending, s.body FROM finished t CROSS JOIN specs s USING (id)";

fn record(row: &Row<'_>) -> Read<Record> {
    let ending = match row
        .get_ref(8)?
        .as_blob_or_null()
        .map_err(rusqlite::Error::from)?
    {
        Some(ending) => Some(blob::read_ending(ending)?),
        None => None,
    };
    Ok(Record {
        id: row.get::<_, Id>(0)?.task(),
        state: row.get::<_, Code>(1)?.0,
        fence: colony_core::id::Fence(row.get::<_, Number>(2)?.0),
        deliveries: row.get::<_, Number>(3)?.small(),
        agent: agent(row, 4)?,
        submitted_at: row.get::<_, Number>(6)?.time(),
        updated_at: row.get::<_, Number>(7)?.time(),
        ending,
        spec: spec(row, 9)?,
    })
}

pub(super) fn get(db: &Connection, id: TaskId) -> Read<Record> {
    for table in [LIVE, FINISHED] {
        let mut statement = db.prepare_cached(&format!("{table} WHERE t.id = ?1"))?;
        let mut rows = statement.query([Id::from(id)])?;
        if let Some(row) = rows.next()? {
            return record(row);
        }
    }
    Err(LedgerError::NoTask(id).into())
}

pub(super) fn list(db: &Connection, filter: &TaskFilter) -> Read<Vec<Record>> {
    let all = filter.states.is_empty();
    let wanted = |state: &State| all || filter.states.contains(state);
    let limit = rules::page(filter.limit);
    let (finished, live): (Vec<State>, Vec<State>) = State::ALL
        .into_iter()
        .filter(wanted)
        .partition(|s| s.is_final());
    let mut page = Vec::new();
    for (table, states, count) in [(LIVE, live, 3), (FINISHED, finished, 5)] {
        if states.is_empty() {
            continue;
        }
        if states.len() == count {
            page.extend(some(db, filter, table, "", limit)?);
            continue;
        }
        // One state at a time: each finds its index.
        for state in states {
            let only = format!("AND t.state = {}", code(state));
            page.extend(some(db, filter, table, &only, limit)?);
        }
    }
    page.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
    page.truncate(limit);
    Ok(page)
}

fn some(
    db: &Connection,
    filter: &TaskFilter,
    table: &str,
    only: &str,
    limit: usize,
) -> Read<Vec<Record>> {
    let sql = format!(
        "{table} WHERE t.id < ?1 AND (?2 IS NULL OR t.tenant = ?2)
         AND (?3 IS NULL OR t.type = ?3) {only} ORDER BY t.id DESC LIMIT ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let before = filter.before.map_or(Id(uuid::Uuid::max()), Id::from);
    let mut rows = statement.query(params![
        before,
        filter.tenant.as_ref().map(Tenant::as_str),
        filter.agent_type.as_ref().map(TypeName::as_str),
        Number(limit as u64)
    ])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(record(row)?);
    }
    Ok(page)
}

pub(super) fn journal(db: &Connection, id: TaskId) -> Read<Vec<Entry>> {
    let mut statement = db.prepare_cached(
        "SELECT sequence, at_us, body FROM journal WHERE task = ?1 ORDER BY sequence",
    )?;
    let mut rows = statement.query([Id::from(id)])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = row.get::<_, Number>(0)?.small();
        let at = row.get::<_, Number>(1)?.time();
        entries.push(blob::read_entry(sequence, at, bytes(row, 2)?)?);
    }
    if entries.is_empty() {
        let known: Option<i64> = db
            .prepare_cached("SELECT 1 FROM specs WHERE id = ?1")?
            .query_row([Id::from(id)], |row| row.get(0))
            .optional()?;
        known.ok_or(LedgerError::NoTask(id))?;
    }
    Ok(entries)
}

pub(super) fn approvals(db: &Connection, filter: &ApprovalFilter) -> Read<Vec<Approval>> {
    let only = if filter.closed_too {
        ""
    } else {
        "AND a.closed = 0"
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT a.id, a.task, a.asked_us, a.closed, a.question, a.decision, s.body
         FROM approvals a CROSS JOIN specs s ON s.id = a.task
         WHERE a.id > ?1 AND (?2 IS NULL OR a.tenant = ?2) {only} ORDER BY a.id LIMIT ?3"
    ))?;
    let mut rows = statement.query(params![
        filter.after.map_or(Id(uuid::Uuid::nil()), Id::from),
        filter.tenant.as_ref().map(Tenant::as_str),
        Number(rules::page(filter.limit) as u64)
    ])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get::<_, Id>(0)?.approval();
        let decision = match row
            .get_ref(5)?
            .as_blob_or_null()
            .map_err(rusqlite::Error::from)?
        {
            Some(decision) => Some(blob::read_decision(decision)?),
            None => None,
        };
        page.push(Approval {
            question: blob::read_question(id, bytes(row, 4)?)?,
            task: row.get::<_, Id>(1)?.task(),
            spec: spec(row, 6)?,
            asked_at: row.get::<_, Number>(2)?.time(),
            decision,
            closed: row.get(3)?,
        });
    }
    Ok(page)
}

pub(super) fn tally(db: &Connection) -> Read<Tally> {
    Ok(Tally::read(db)?)
}

pub(super) fn changes(db: &Connection, after: Cursor, limit: u32) -> Read<Vec<Change>> {
    db.prepare_cached(
        "SELECT cursor, task, state, at_us FROM changes WHERE cursor > ?1 ORDER BY cursor LIMIT ?2",
    )?
    .query_map(params![Number(after), limit], |row| {
        Ok(Change {
            cursor: row.get::<_, Number>(0)?.0,
            task: row.get::<_, Id>(1)?.task(),
            state: row.get::<_, Code>(2)?.0,
            at: row.get::<_, Number>(3)?.time(),
        })
    })?
    .collect::<Result<_, _>>()
    .map_err(Stop::from)
}

pub(super) fn next_due(db: &Connection, now: Timestamp) -> Read<Option<Timestamp>> {
    let earliest: Option<Number> = db
        .prepare_cached(
            "SELECT min(at) FROM (
                 SELECT (SELECT min(due_us) FROM live WHERE due_us > ?1) AS at
                 UNION ALL SELECT (SELECT min(deadline_us) FROM live WHERE deadline_us > ?1))",
        )?
        .query_row([Number::from(now)], |row| row.get(0))?;
    Ok(earliest.map(Number::time))
}

pub(super) fn outbox(
    db: &Connection,
    queue: &str,
    after: u64,
    limit: u32,
) -> Read<Vec<(u64, OutboxRecord)>> {
    let mut statement = db.prepare_cached(
        "SELECT number, key, task, body FROM outbox WHERE queue = ?1 AND number > ?2
         ORDER BY number LIMIT ?3",
    )?;
    let mut rows = statement.query(params![queue, Number(after), limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let record = OutboxRecord {
            key: EffectKey::from(row.get::<_, String>(1)?),
            task: row.get::<_, Id>(2)?.task(),
            queue: queue.to_owned(),
            payload: blob::read_delivery(bytes(row, 3)?)?,
        };
        page.push((row.get::<_, Number>(0)?.0, record));
    }
    Ok(page)
}

pub(super) fn episodes(db: &Connection, after: u64, limit: u32) -> Read<Vec<Episode>> {
    let mut statement = db.prepare_cached(
        "SELECT number, task, tenant, type, at_us, body FROM episodes WHERE number > ?1
         ORDER BY number LIMIT ?2",
    )?;
    let mut rows = statement.query(params![Number(after), limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let (text, label, vector) = blob::read_episode(bytes(row, 5)?)?;
        page.push(Episode {
            number: row.get::<_, Number>(0)?.0,
            task: row.get::<_, Id>(1)?.task(),
            tenant: name(2, Tenant::new(&row.get::<_, Box<str>>(2)?))?,
            agent_type: name(3, TypeName::new(&row.get::<_, Box<str>>(3)?))?,
            at: row.get::<_, Number>(4)?.time(),
            text,
            label,
            vector,
        });
    }
    Ok(page)
}

pub(super) fn agents(db: &Connection) -> Read<Vec<Agent>> {
    db.prepare_cached(
        "SELECT type, ordinal, version, tasks, successes, escalations, crashes, updated_us
         FROM agents ORDER BY type, ordinal",
    )?
    .query_map([], |row| {
        let number = |column| row.get::<_, Number>(column);
        Ok(Agent {
            id: AgentId {
                agent_type: name(0, TypeName::new(&row.get::<_, Box<str>>(0)?))?,
                ordinal: number(1)?.small(),
            },
            version: number(2)?.small(),
            track: Track {
                tasks: number(3)?.0,
                successes: number(4)?.0,
                escalations: number(5)?.0,
                crashes: number(6)?.0,
            },
            updated_at: number(7)?.time(),
        })
    })?
    .collect::<Result<_, _>>()
    .map_err(Stop::from)
}

pub(super) fn snapshot(db: &Connection, name: &str) -> Read<Option<Vec<u8>>> {
    let body: Option<Vec<u8>> = db
        .prepare_cached("SELECT body FROM snapshots WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(match body {
        Some(body) => Some(blob::read_snapshot(&body)?),
        None => None,
    })
}
