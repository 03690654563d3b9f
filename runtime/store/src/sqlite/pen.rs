//! What writes to tasks. Every method checks first and writes then: a refusal has written nothing, so a
//! group of requests shares one transaction without savepoints.

use std::{collections::BTreeMap, sync::Arc};

use colony_core::{
    cycle::Decision,
    id::{ApprovalId, Fence, Incarnation, NodeId, TaskId},
    journal::{Entry, Note},
    task::{Ending, Spec, State},
    unit::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::row::{Code, Id, Number, Stop};
use crate::{
    blob,
    ledger::{
        CHANGES_KEPT, Claim, ClaimRef, ClaimRequest, Commit, Cursor, LedgerError, NewTask, Policy,
        Question, Submitted, Then,
    },
    rules::{self, Fate},
};

/// How many changes too many are kept before they are cut off at once.
const CHANGES_SLACK: u64 = 1_000;

/// The numbers of the book, written with every commit that changes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) accepted: u64,
    pub(super) cursor: Cursor,
    pub(super) changes_kept_from: Cursor,
    /// In the order of [`State::ALL`].
    pub(super) by_state: [u64; 8],
}

impl Tally {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        db.prepare_cached(
            "SELECT accepted, cursor, changes_kept_from, ready, claimed, parked, done, failed,
             cancelled, expired, dead FROM tally",
        )?
        .query_row([], |row| {
            let number = |column| row.get::<_, Number>(column).map(|n| n.0);
            let mut by_state = [0; 8];
            for (count, column) in by_state.iter_mut().zip(3..) {
                *count = number(column)?;
            }
            Ok(Self {
                accepted: number(0)?,
                cursor: number(1)?,
                changes_kept_from: number(2)?,
                by_state,
            })
        })
    }

    pub(super) fn by_state(&self) -> BTreeMap<State, u64> {
        State::ALL.into_iter().zip(self.by_state).collect()
    }

    fn count(&mut self, state: State) -> &mut u64 {
        &mut self.by_state[usize::from(super::row::code(state))]
    }

    fn live(&mut self) -> u64 {
        [State::Ready, State::Claimed, State::Parked]
            .into_iter()
            .map(|s| *self.count(s))
            .sum()
    }
}

/// Writes within one transaction.
#[derive(Debug)]
pub(super) struct Pen<'a> {
    pub(super) db: &'a Connection,
    pub(super) policy: &'a Policy,
    pub(super) tally: Tally,
    /// Whether anything was written: an idle claim needs no sync.
    pub(super) wrote: bool,
}

/// A live task, as far as writers need it.
struct Live {
    state: State,
    fence: Fence,
    deliveries: u32,
    next_sequence: u32,
}

impl Pen<'_> {
    pub(super) fn write(&mut self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.wrote = true;
        self.db.prepare_cached(sql)?.execute(params)
    }

    /// The last thing in a transaction: the numbers, and what is too old.
    pub(super) fn finish(&mut self, before: &Tally) -> rusqlite::Result<()> {
        let kept = self.tally.cursor + 1 - self.tally.changes_kept_from;
        if kept >= CHANGES_KEPT + CHANGES_SLACK {
            let from = self.tally.cursor + 1 - CHANGES_KEPT;
            self.write("DELETE FROM changes WHERE cursor < ?1", [Number(from)])?;
            self.tally.changes_kept_from = from;
        }
        if self.tally == *before {
            return Ok(());
        }
        let Tally {
            accepted,
            cursor,
            changes_kept_from,
            by_state: [n0, n1, n2, n3, n4, n5, n6, n7],
        } = self.tally;
        let numbers = [
            accepted,
            cursor,
            changes_kept_from,
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
        ];
        self.write(
            "UPDATE tally SET accepted = ?1, cursor = ?2, changes_kept_from = ?3, ready = ?4,
             claimed = ?5, parked = ?6, done = ?7, failed = ?8, cancelled = ?9, expired = ?10,
             dead = ?11",
            numbers.map(Number),
        )?;
        Ok(())
    }

    fn entered(&mut self, id: TaskId, state: State, at: Timestamp) -> rusqlite::Result<()> {
        *self.tally.count(state) += 1;
        self.tally.cursor += 1;
        let cursor = Number(self.tally.cursor);
        self.write(
            "INSERT INTO changes (cursor, task, state, at_us) VALUES (?1, ?2, ?3, ?4)",
            params![cursor, Id::from(id), Code(state), Number::from(at)],
        )?;
        Ok(())
    }

    fn moved(&mut self, id: TaskId, from: State, to: State, at: Timestamp) -> rusqlite::Result<()> {
        *self.tally.count(from) -= 1;
        self.entered(id, to, at)
    }

    fn live(&self, id: TaskId) -> rusqlite::Result<Option<Live>> {
        self.db
            .prepare_cached(
                "SELECT state, fence, deliveries, next_sequence FROM live WHERE id = ?1",
            )?
            .query_row([Id::from(id)], |row| {
                Ok(Live {
                    state: row.get::<_, Code>(0)?.0,
                    fence: Fence(row.get::<_, Number>(1)?.0),
                    deliveries: row.get::<_, Number>(2)?.small(),
                    next_sequence: row.get::<_, Number>(3)?.small(),
                })
            })
            .optional()
    }

    /// The state of a task, live or ended.
    fn state(&self, id: TaskId) -> rusqlite::Result<Option<State>> {
        self.db
            .prepare_cached(
                "SELECT state FROM live WHERE id = ?1
                 UNION ALL SELECT state FROM finished WHERE id = ?1",
            )?
            .query_row([Id::from(id)], |row| row.get::<_, Code>(0).map(|c| c.0))
            .optional()
    }

    pub(super) fn begin(&mut self, node: &NodeId, now: Timestamp) -> Result<Incarnation, Stop> {
        self.write(
            "INSERT INTO nodes (name, incarnation) VALUES (?1, 1)
             ON CONFLICT (name) DO UPDATE SET incarnation = incarnation + 1",
            [node.as_str()],
        )?;
        let life = self.life(node)?.unwrap_or(Incarnation(1));
        let lost: Vec<(Id, Number)> = self
            .db
            .prepare_cached(
                "SELECT id, deliveries FROM live
                 WHERE state = 1 AND node = ?1 AND incarnation < ?2 ORDER BY id",
            )?
            .query_map(params![node.as_str(), Number(life.0)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<Result<_, _>>()?;
        for (id, deliveries) in lost {
            self.retry(id.task(), deliveries.small(), rules::RESTARTED, now)?;
        }
        Ok(life)
    }

    fn life(&self, node: &NodeId) -> rusqlite::Result<Option<Incarnation>> {
        self.db
            .prepare_cached("SELECT incarnation FROM nodes WHERE name = ?1")?
            .query_row([node.as_str()], |row| row.get::<_, Number>(0))
            .optional()
            .map(|life| life.map(|n| Incarnation(n.0)))
    }

    pub(super) fn submit(&mut self, tasks: &[NewTask]) -> Result<Vec<Submitted>, Stop> {
        let live = self.tally.live();
        let limit = self.policy.live_max;
        if live + tasks.len() as u64 > limit && live + self.fresh(tasks)? > limit {
            return Err(LedgerError::Full { live, limit }.into());
        }
        // Looked up before anything is written, so that what cannot be read refuses the batch whole.
        let known: Vec<_> = tasks
            .iter()
            .map(|t| self.known(t))
            .collect::<Result<_, _>>()?;
        let mut answers = Vec::with_capacity(tasks.len());
        let mut wrote = false;
        for (task, known) in tasks.iter().zip(known) {
            // A twin within the batch is known only once the first was written.
            let known = match known {
                None if wrote => self.known(task)?,
                known => known,
            };
            answers.push(match known {
                Some(answer) => answer,
                None => {
                    wrote = true;
                    self.submit_one(task)?
                }
            });
        }
        Ok(answers)
    }

    /// How many of these would be accepted.
    fn fresh(&self, tasks: &[NewTask]) -> Result<u64, Stop> {
        let mut ids = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        let mut fresh = 0;
        for task in tasks {
            let key = task.spec.dedupe_key.as_ref();
            let new = self.known(task)?.is_none()
                && ids.insert(task.id)
                && key.is_none_or(|k| keys.insert((&task.spec.tenant, k)));
            fresh += u64::from(new);
        }
        Ok(fresh)
    }

    /// The answer to a task that was submitted before.
    fn known(&self, task: &NewTask) -> Result<Option<Submitted>, Stop> {
        let old: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT body FROM specs WHERE id = ?1")?
            .query_row([Id::from(task.id)], |row| row.get(0))
            .optional()?;
        if let Some(old) = old {
            let same = blob::read_spec(&old)?.same_payload(&task.spec);
            return Ok(Some(known_as(task.id, same)));
        }
        let Some(key) = &task.spec.dedupe_key else {
            return Ok(None);
        };
        let old: Option<(Id, [u8; 32])> = self
            .db
            .prepare_cached(
                "SELECT task, payload FROM dedupe
                 WHERE tenant = ?1 AND key = ?2 AND until_us > ?3",
            )?
            .query_row(
                params![task.spec.tenant.as_str(), key, Number::from(task.now)],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        Ok(old.map(|(id, hash)| known_as(id.task(), hash == blob::payload_hash(&task.spec))))
    }

    fn submit_one(&mut self, task: &NewTask) -> Result<Submitted, Stop> {
        let NewTask { id, spec, now } = task;
        if let Some(key) = &spec.dedupe_key {
            self.remember(*id, spec, key, *now)?;
        }
        self.write(
            "INSERT INTO specs (id, body) VALUES (?1, ?2)",
            params![Id::from(*id), blob::spec(spec)],
        )?;
        self.write(
            "INSERT INTO live (id, tenant, type, state, sort_key, deadline_us, fence, deliveries,
             submitted_us, updated_us, next_sequence) VALUES (?1, ?2, ?3, 0, ?4, ?5, 0, 0, ?6, ?6, 0)",
            params![
                Id::from(*id),
                spec.tenant.as_str(),
                spec.agent_type.as_str(),
                rules::sort_key(spec, *now, self.policy),
                spec.deadline.map(Number::from),
                Number::from(*now),
            ],
        )?;
        self.tally.accepted += 1;
        self.entered(*id, State::Ready, *now)?;
        Ok(Submitted::Accepted(*id))
    }

    fn remember(&mut self, id: TaskId, spec: &Spec, key: &str, now: Timestamp) -> Result<(), Stop> {
        let until = rules::remembered_until(now, self.policy.dedupe_ttl);
        self.write(
            "DELETE FROM dedupe WHERE until_us <= ?1",
            [Number::from(now)],
        )?;
        self.write(
            "INSERT INTO dedupe (tenant, key, task, payload, until_us) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                spec.tenant.as_str(),
                key,
                Id::from(id),
                blob::payload_hash(spec),
                Number::from(until)
            ],
        )?;
        Ok(())
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Result<Vec<Claim>, Stop> {
        let ClaimRequest {
            node,
            incarnation,
            wanted,
            now,
        } = request;
        if self.life(node)?.is_some_and(|life| *incarnation < life) {
            return Ok(Vec::new());
        }
        self.promote(*now)?;
        let mut claims = Vec::new();
        for (agent_type, wanted) in wanted.iter().filter(|(_, n)| **n > 0) {
            let mut statement = self.db.prepare_cached(
                "SELECT live.id, fence, submitted_us, deliveries, next_sequence, body, due_us
                 FROM live CROSS JOIN specs USING (id)
                 WHERE type = ?1 AND state = 0 AND due_us IS NULL
                 AND (deadline_us IS NULL OR deadline_us > ?2)
                 ORDER BY sort_key, live.id LIMIT ?3",
            )?;
            let mut rows =
                statement.query(params![agent_type.as_str(), Number::from(*now), wanted])?;
            while let Some(row) = rows.next()? {
                let fence = Fence(row.get::<_, Number>(1)?.0 + 1);
                claims.push(Claim {
                    reference: ClaimRef {
                        task: row.get::<_, Id>(0)?.task(),
                        fence,
                    },
                    submitted_at: row.get::<_, Number>(2)?.time(),
                    deliveries: row.get::<_, Number>(3)?.small(),
                    has_journal: row.get::<_, Number>(4)?.0 > 0,
                    spec: Arc::new(blob::read_spec(row.get_ref(5)?.as_blob().map_err(column)?)?),
                });
            }
        }
        for claim in &claims {
            let ClaimRef { task, fence } = claim.reference;
            self.write(
                "UPDATE live SET state = 1, fence = ?2, node = ?3, incarnation = ?4, updated_us = ?5
                 WHERE id = ?1",
                params![
                    Id::from(task),
                    Number(fence.0),
                    node.as_str(),
                    Number(incarnation.0),
                    Number::from(*now)
                ],
            )?;
            self.moved(task, State::Ready, State::Claimed, *now)?;
        }
        Ok(claims)
    }

    /// Puts tasks whose wait is over into the queue. Harmless at any time.
    fn promote(&mut self, now: Timestamp) -> Result<(), Stop> {
        let due: Option<i64> = self
            .db
            .prepare_cached("SELECT 1 FROM live WHERE due_us <= ?1 LIMIT 1")?
            .query_row([Number::from(now)], |row| row.get(0))
            .optional()?;
        if due.is_some() {
            self.write(
                "UPDATE live SET due_us = NULL WHERE due_us <= ?1",
                [Number::from(now)],
            )?;
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), Stop> {
        let ClaimRef { task: id, fence } = commit.claim;
        let live = match self.live(id)? {
            Some(live) if live.state == State::Claimed && live.fence == fence => live,
            _ => return Err(self.lost(id, fence)?.into()),
        };
        let mut next = live.next_sequence;
        for entry in &commit.entries {
            if entry.sequence != next {
                return Err(LedgerError::Sequence {
                    task: id,
                    sequence: entry.sequence,
                    expected: next,
                }
                .into());
            }
            next += 1;
        }
        if let Then::Park(question) = &commit.then {
            self.refuse_known(question)?;
        }
        for entry in &commit.entries {
            self.journal(id, entry)?;
        }
        for record in &commit.outbox {
            self.write(
                "INSERT INTO outbox (key, task, queue, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO NOTHING",
                params![
                    record.key.as_str(),
                    Id::from(record.task),
                    record.queue,
                    blob::delivery(&record.payload)
                ],
            )?;
        }
        if next != live.next_sequence || commit.agent.is_some() {
            let agent = commit.agent.as_ref();
            self.write(
                "UPDATE live SET next_sequence = ?2, agent_type = coalesce(?3, agent_type),
                 agent_ordinal = coalesce(?4, agent_ordinal) WHERE id = ?1",
                params![
                    Id::from(id),
                    next,
                    agent.map(|a| a.agent_type.as_str()),
                    agent.map(|a| a.ordinal)
                ],
            )?;
        }
        let now = commit.now;
        match &commit.then {
            Then::Continue => {}
            Then::Park(question) => {
                self.ask(id, question, now)?;
                self.release(id, State::Parked, None, now)?;
            }
            Then::End(ending) => {
                let state = match ending {
                    Ending::Done(_) => State::Done,
                    Ending::Failed { .. } => State::Failed,
                };
                self.end(id, State::Claimed, state, ending, now)?;
            }
            Then::HandBack => self.release(id, State::Ready, None, now)?,
            Then::Retry { reason } => self.retry(id, live.deliveries, reason, now)?,
        }
        Ok(())
    }

    fn lost(&self, task: TaskId, fence: Fence) -> rusqlite::Result<LedgerError> {
        Ok(match self.state(task)? {
            Some(state) => LedgerError::Lost { task, fence, state },
            None => LedgerError::NoTask(task),
        })
    }

    fn journal(&mut self, task: TaskId, entry: &Entry) -> rusqlite::Result<()> {
        self.write(
            "INSERT INTO journal (task, sequence, at_us, body) VALUES (?1, ?2, ?3, ?4)",
            params![
                Id::from(task),
                entry.sequence,
                Number::from(entry.at),
                blob::entry(entry)
            ],
        )?;
        Ok(())
    }

    fn refuse_known(&self, question: &Question) -> Result<(), Stop> {
        let known: Option<i64> = self
            .db
            .prepare_cached("SELECT 1 FROM approvals WHERE id = ?1")?
            .query_row([Id::from(question.id)], |row| row.get(0))
            .optional()?;
        match known {
            None => Ok(()),
            Some(_) => {
                let what = format!("approval {} is there already", question.id);
                Err(LedgerError::Storage { what }.into())
            }
        }
    }

    fn ask(&mut self, task: TaskId, question: &Question, now: Timestamp) -> rusqlite::Result<()> {
        self.write(
            "INSERT INTO approvals (id, task, tenant, asked_us, closed, question)
             SELECT ?1, ?2, tenant, ?3, 0, ?4 FROM live WHERE id = ?2",
            params![
                Id::from(question.id),
                Id::from(task),
                Number::from(now),
                blob::question(question)
            ],
        )?;
        Ok(())
    }

    /// Ends a claim with the task alive.
    fn release(
        &mut self,
        id: TaskId,
        to: State,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        self.write(
            "UPDATE live SET state = ?2, due_us = ?3, updated_us = ?4, node = NULL,
             incarnation = NULL WHERE id = ?1",
            params![
                Id::from(id),
                Code(to),
                due.map(Number::from),
                Number::from(now)
            ],
        )?;
        self.moved(id, State::Claimed, to, now)
    }

    /// A claim ended abnormally; `deliveries` is how many had before.
    fn retry(
        &mut self,
        id: TaskId,
        deliveries: u32,
        reason: &str,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let deliveries = deliveries + 1;
        self.write(
            "UPDATE live SET deliveries = ?2 WHERE id = ?1",
            params![Id::from(id), deliveries],
        )?;
        match rules::fate(deliveries, now, self.policy) {
            Fate::Again(due) => self.release(id, State::Ready, Some(due), now),
            Fate::Dead => {
                let ending = rules::without_answer(reason);
                self.end(id, State::Claimed, State::Dead, &ending, now)
            }
        }
    }

    /// Ends a live task.
    fn end(
        &mut self,
        id: TaskId,
        from: State,
        to: State,
        ending: &Ending,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        self.write(
            "INSERT INTO finished (id, tenant, type, state, fence, deliveries, agent_type,
             agent_ordinal, submitted_us, updated_us, ending)
             SELECT id, tenant, type, ?2, fence, deliveries, agent_type, agent_ordinal,
             submitted_us, ?3, ?4 FROM live WHERE id = ?1",
            params![
                Id::from(id),
                Code(to),
                Number::from(now),
                blob::ending(ending)
            ],
        )?;
        self.write("DELETE FROM live WHERE id = ?1", [Id::from(id)])?;
        if from == State::Parked {
            self.write(
                "UPDATE approvals SET closed = 1 WHERE task = ?1 AND closed = 0",
                [Id::from(id)],
            )?;
        }
        self.moved(id, from, to, now)
    }

    pub(super) fn decide(
        &mut self,
        id: ApprovalId,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<TaskId, Stop> {
        let asked: Option<(Id, bool)> = self
            .db
            .prepare_cached("SELECT task, closed FROM approvals WHERE id = ?1")?
            .query_row([Id::from(id)], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (task, closed) = asked.ok_or(LedgerError::NoApproval(id))?;
        let task = task.task();
        let live = match self.live(task)? {
            Some(live) if !closed && live.state == State::Parked => live,
            _ => {
                let state = self.state(task)?.unwrap_or(State::Done);
                return Err(LedgerError::Closed { id, task, state }.into());
            }
        };
        self.write(
            "UPDATE approvals SET closed = 1, decision = ?2 WHERE id = ?1",
            params![Id::from(id), blob::decision(decision)],
        )?;
        let entry = Entry {
            sequence: live.next_sequence,
            at: now,
            note: Note::Decided(decision.clone()),
        };
        self.journal(task, &entry)?;
        self.write(
            "UPDATE live SET state = 0, next_sequence = ?2, updated_us = ?3 WHERE id = ?1",
            params![Id::from(task), live.next_sequence + 1, Number::from(now)],
        )?;
        self.moved(task, State::Parked, State::Ready, now)?;
        Ok(task)
    }

    pub(super) fn cancel(&mut self, id: TaskId, now: Timestamp) -> Result<State, Stop> {
        let state = self.state(id)?.ok_or(LedgerError::NoTask(id))?;
        if state.is_final() {
            return Err(LedgerError::Ended { task: id, state }.into());
        }
        let ending = rules::without_answer(rules::CANCELLED);
        self.end(id, state, State::Cancelled, &ending, now)?;
        Ok(state)
    }

    pub(super) fn expire(&mut self, now: Timestamp) -> Result<Vec<TaskId>, Stop> {
        let late: Vec<(Id, Code)> = self
            .db
            .prepare_cached(
                "SELECT id, state FROM live WHERE deadline_us <= ?1 ORDER BY deadline_us, id",
            )?
            .query_map([Number::from(now)], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let ending = rules::without_answer(rules::EXPIRED);
        for (id, state) in &late {
            self.end(id.task(), state.0, State::Expired, &ending, now)?;
        }
        Ok(late.into_iter().map(|(id, _)| id.task()).collect())
    }
}

fn known_as(id: TaskId, same_payload: bool) -> Submitted {
    if same_payload {
        Submitted::Duplicate(id)
    } else {
        Submitted::Conflict(id)
    }
}

fn column(error: rusqlite::types::FromSqlError) -> rusqlite::Error {
    rusqlite::Error::from(error)
}
