//! One group's transaction: loads heads, applies the rules' transitions, counts.
//!
//! ```text
//!   verb (txn/*.rs) ─► load ─► rule (colony_core::ledger) ─► Transition ─► apply ─► live | finished,
//!                                   └─ Refusal ─► TxnError::Refused           changes, counters, hints
//! ```
//! Every verb checks first and writes then: a refusal has written nothing of its request, so a group of
//! requests shares one transaction without savepoints. The exception is damage: a row that cannot be read
//! is set aside whatever becomes of the request that found it.

mod agents;
mod claim;
mod commit;
mod episodes;
mod outbox;
mod quarantine;
mod register;
mod settle;
mod snapshots;
mod submit;

use std::collections::BTreeSet;

use colony_core::{
    id::{NodeId, TaskId},
    ledger::{ClientRequest, Policy, Refusal, TaskHead, Transition, Wait},
    property::{check, lawful},
    task::State,
    unit::Timestamp,
};
use rusqlite::{Connection, Params, ToSql, params};

use super::{
    counters::Counters,
    load,
    ready::WriterCache,
    tables::{CHANGES, FINISHED, LIVE, NODES, REQUESTS, Table, columns, insert},
    value::{Code, Id, Number, request_code, request_key, verb_code},
};
use crate::{
    codec,
    ledger::{CHANGES_KEPT, LedgerError},
};

/// How many changes too many are kept before they are cut off at once.
const CHANGES_SLACK: u64 = 1_000;

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum TxnError {
    /// The ledger says no. Nothing was written for the request.
    Refused(LedgerError),
    /// SQLite or the disk failed: the transaction must be taken back.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for TxnError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for TxnError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<LedgerError> for TxnError {
    fn from(error: LedgerError) -> Self {
        Self::Refused(error)
    }
}

type Done<T> = Result<T, TxnError>;

/// Writes within one transaction.
#[derive(Debug)]
pub(super) struct WriteTxn<'a> {
    pub(super) db: &'a Connection,
    pub(super) policy: &'a Policy,
    /// The group's stamp.
    pub(super) now: Timestamp,
    pub(super) counters: Counters,
    pub(super) cache: &'a mut WriterCache,
    pub(super) effects: Effects,
}

/// What a transaction did beside its rows.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Anything was written: an idle claim needs no sync.
    pub(super) wrote: bool,
    /// A task is claimable, now or at a known time, that was not before.
    pub(super) wakes: bool,
    /// Rows set aside.
    pub(super) quarantined: u64,
    /// Rows that were set aside before, and can be read again.
    pub(super) mended: u64,
    /// A head was written off that could not be read: what it was counted as is unknown.
    pub(super) recount: bool,
    /// Fewer tasks were found than are ready: an index may have lost them.
    pub(super) short: bool,
    /// Nodes whose claims took something.
    claimants: BTreeSet<NodeId>,
}

/// A head as a row: the columns that live and finished have in common, and then those of the one table.
macro_rules! row_of {
    ($head:expr, $($own:expr),+ $(,)?) => {
        params![
            Id::from($head.id),
            $head.tenant.as_str(),
            $head.queue.as_str(),
            Code($head.state),
            Number($head.revision),
            Number($head.fence.0),
            $head.failed_attempts,
            $head.node_losses,
            $head.deadline.map(Number::from),
            $head.sort_key,
            $head.agent.as_ref().map(|agent| agent.agent_type.as_str()),
            $head.agent.as_ref().map(|agent| agent.ordinal),
            Number::from($head.submitted_at),
            Number::from($head.updated_at),
            request_code($head.last_request),
            request_key($head.last_request),
            $($own),+
        ]
    };
}

impl WriteTxn<'_> {
    /// Writes a whole row of `table`.
    fn put(&mut self, table: &Table, sql: &str, row: &[&dyn ToSql]) -> rusqlite::Result<usize> {
        self.effects.wrote = true;
        table.write(self.db, sql, row)
    }

    fn execute(&mut self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.effects.wrote = true;
        self.db.prepare_cached(sql)?.execute(params)
    }

    /// A task's head, live or ended. One that cannot be read is set aside, and what is left of the task
    /// is given.
    fn head(&mut self, id: TaskId) -> Done<TaskHead> {
        let mut found = load::head(self.db, id)?;
        if let Some(Err(damage)) = &found {
            self.set_aside(damage)?;
            found = load::head(self.db, id)?;
        }
        match found {
            Some(Ok(head)) => Ok(head),
            Some(Err(damage)) => Err(unreadable(&damage).into()),
            None => Err(LedgerError::NoTask(id).into()),
        }
    }

    /// Puts the head after a transition in the place of `before`, which was loaded in this transaction.
    fn apply(&mut self, before: &TaskHead, transition: &Transition) -> Done<()> {
        // Between the load and here nobody else writes: there is one writer.
        debug_assert!(transition.expect.matches(before), "{transition:?}");
        check(|| lawful(before, transition));
        if let Some(ClientRequest { id, verb }) = transition.request {
            let row = params![Id::from(transition.id), Id(id.0), verb_code(verb)];
            self.put(&REQUESTS, insert!(requests, "?, ?, ?, ?"), row)?;
        }
        let Some(after) = &transition.head else {
            return Ok(());
        };
        match (before.state.is_final(), after.state.is_final()) {
            (false, false) => self.update_live(after)?,
            (false, true) => {
                self.insert_finished(after)?;
                self.execute("DELETE FROM live WHERE id = ?1", [Id::from(after.id)])?;
            }
            (true, false) => {
                self.insert_live(after)?;
                self.execute("DELETE FROM finished WHERE id = ?1", [Id::from(after.id)])?;
            }
            (true, true) => {}
        }
        if transition.ends() {
            self.close_questions(after.id)?;
        }
        if before.state != after.state {
            let count = self.counters.count(before.state);
            // A wrong number stops nobody; it is mended when it is found.
            *count = count.saturating_sub(1);
            self.entered(after.id, after.state)?;
        }
        self.cache.ready.replaced(Some(before), after);
        self.effects.wakes |= transition.wakes();
        Ok(())
    }

    /// Counts a task in its new state, and tells the watchers.
    fn entered(&mut self, id: TaskId, state: State) -> rusqlite::Result<()> {
        *self.counters.count(state) += 1;
        self.counters.cursor += 1;
        let row = params![
            Number(self.counters.cursor),
            Id::from(id),
            Code(state),
            Number::from(self.now)
        ];
        self.put(&CHANGES, insert!(changes, "?, ?, ?, ?, ?"), row)?;
        Ok(())
    }

    pub(super) fn insert_live(&mut self, head: &TaskHead) -> rusqlite::Result<()> {
        self.write_live(
            insert!(
                live,
                "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            ),
            head,
        )
    }

    /// Leaves out the columns that stay as they are while a task lives: their indexes need no look.
    fn update_live(&mut self, head: &TaskHead) -> rusqlite::Result<()> {
        self.write_live(
            "UPDATE live SET state = ?4, revision = ?5, fence = ?6, failed_attempts = ?7,
             node_losses = ?8, agent_type = ?11, agent_ordinal = ?12, updated_us = ?14,
             last_request = ?15, last_key = ?16, node = ?17, incarnation = ?18, batch = ?19,
             not_before_us = ?20, wait_approval = ?21, checksum = ?22 WHERE id = ?1",
            head,
        )
    }

    fn write_live(&mut self, sql: &str, head: &TaskHead) -> rusqlite::Result<()> {
        let holder = head.holder.as_ref();
        let row = row_of!(
            head,
            holder.map(|holder| holder.node.as_str()),
            holder.map(|holder| Number(holder.incarnation.0)),
            holder.map(|holder| Number(holder.batch)),
            head.not_before.map(Number::from),
            head.wait.map(|Wait::Human(id)| Id::from(id)),
        );
        self.put(&LIVE, sql, row)?;
        Ok(())
    }

    fn insert_finished(&mut self, head: &TaskHead) -> rusqlite::Result<()> {
        let sql = insert!(
            finished,
            "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
        );
        let row = row_of!(head, head.ending.as_ref().map(codec::ending));
        self.put(&FINISHED, sql, row)?;
        Ok(())
    }

    /// The last thing in a transaction: the numbers, and what is too old.
    pub(super) fn finish(&mut self) -> rusqlite::Result<()> {
        for node in std::mem::take(&mut self.effects.claimants) {
            self.write_node(&node)?;
        }
        if !self.effects.wrote {
            return Ok(());
        }
        let kept = self.counters.cursor + 1 - self.counters.changes_kept_from;
        if kept >= CHANGES_KEPT + CHANGES_SLACK {
            let from = self.counters.cursor + 1 - CHANGES_KEPT;
            self.execute("DELETE FROM changes WHERE cursor < ?1", [Number(from)])?;
            self.counters.changes_kept_from = from;
        }
        self.counters.highest = self.now;
        self.counters.writes += 1;
        if self.effects.recount {
            self.counters = self.counters.counted(self.db)?;
        }
        self.counters.write(self.db)
    }

    /// A node's row, as the cache has it.
    fn write_node(&mut self, node: &NodeId) -> rusqlite::Result<()> {
        let Some(row) = self.cache.nodes.get(node) else {
            return Ok(());
        };
        let row = params![
            node.as_str(),
            Number(row.incarnation.0),
            row.batch.map(Number)
        ];
        let sql = concat!(
            "INSERT OR REPLACE INTO nodes (",
            columns!(nodes),
            ", checksum) VALUES (?, ?, ?, ?)"
        );
        self.put(&NODES, sql, row)?;
        Ok(())
    }
}

/// What a caller hears of a row it cannot do without.
pub(super) fn unreadable(damage: &super::tables::Damage) -> LedgerError {
    LedgerError::Unreadable {
        what: damage.to_string(),
    }
}
