//! The ledger's numbers: one row, written in the transaction that changes one of them.

use std::collections::BTreeMap;

use colony_core::{task::State, unit::Timestamp};
use rusqlite::{Connection, params};

use super::{
    row,
    tables::{COUNTERS, Found, columns, select},
    value::{Code, Number, code},
};
use crate::ledger::Cursor;

/// The numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) cursor: Cursor,
    pub(super) changes_kept_from: Cursor,
    /// In the order of [`State::ALL`].
    pub(super) by_state: [u64; State::ALL.len()],
    /// The last numbers that were given.
    pub(super) outbox: u64,
    pub(super) episodes: u64,
    /// The highest stamp written.
    pub(super) highest: Timestamp,
    /// Durable writes since the ledger began.
    pub(super) writes: u64,
}

impl Counters {
    /// As the row has them; none: there is no row.
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Option<Found<Self>>> {
        COUNTERS.one(db, select!(counters), [], row::counters)
    }

    pub(super) fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        let [n0, n1, n2, n3, n4, n5, n6, n7] = self.by_state.map(Number);
        COUNTERS.write(
            db,
            concat!(
                "INSERT OR REPLACE INTO counters (",
                columns!(counters),
                ", checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ),
            params![
                1,
                Number(self.accepted),
                Number(self.cursor),
                Number(self.changes_kept_from),
                n0,
                n1,
                n2,
                n3,
                n4,
                n5,
                n6,
                n7,
                Number(self.outbox),
                Number(self.episodes),
                Number::from(self.highest),
                Number(self.writes),
            ],
        )?;
        Ok(())
    }

    /// What the other tables say they must be: the numbers themselves where they can be counted, and no
    /// less than what is found where they cannot.
    pub(super) fn counted(&self, db: &Connection) -> rusqlite::Result<Self> {
        let mut counted = *self;
        counted.by_state = [0; State::ALL.len()];
        counted.count_states(db, "live")?;
        counted.count_states(db, "finished")?;
        counted.accepted = counted.by_state.iter().sum();
        let least = |sql: &str| db.query_row(sql, [], |row| row.get::<_, Number>(0));
        let last = least("SELECT coalesce(max(cursor), 0) FROM changes")?.0;
        counted.cursor = counted.cursor.max(last);
        let first = least("SELECT coalesce(min(cursor), 0) FROM changes")?.0;
        counted.changes_kept_from = if first == 0 {
            counted.cursor + 1
        } else {
            first
        };
        let outbox = least("SELECT coalesce(max(number), 0) FROM outbox")?.0;
        counted.outbox = counted.outbox.max(outbox);
        let episodes = least(
            "SELECT max(coalesce(max(number), 0), coalesce(max(forgotten), 0)) FROM episodes",
        )?;
        counted.episodes = counted.episodes.max(episodes.0);
        let highest = least("SELECT coalesce(max(at_us), 0) FROM changes")?.time();
        counted.highest = counted.highest.max(highest);
        Ok(counted)
    }

    /// These, as far as they have come since `stored` was found to be wrong and `counted` to be right.
    pub(super) fn mended(&self, stored: &Self, counted: &Self) -> Self {
        let mend =
            |now: u64, stored: u64, counted: u64| now.wrapping_add(counted.wrapping_sub(stored));
        let mut mended = *self;
        mended.accepted = mend(self.accepted, stored.accepted, counted.accepted);
        for (index, count) in mended.by_state.iter_mut().enumerate() {
            *count = mend(*count, stored.by_state[index], counted.by_state[index]);
        }
        mended.cursor = self.cursor.max(counted.cursor);
        mended.outbox = self.outbox.max(counted.outbox);
        mended.episodes = self.episodes.max(counted.episodes);
        mended.highest = self.highest.max(counted.highest);
        mended
    }

    fn count_states(&mut self, db: &Connection, table: &str) -> rusqlite::Result<()> {
        let sql = format!("SELECT state, count(*) FROM {table} GROUP BY state");
        let mut statement = db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // A state that none of ours has: the row is damaged, and found by whoever reads it.
            if let Ok(state) = row.get::<_, Code>(0) {
                *self.count(state.0) += row.get::<_, Number>(1)?.0;
            }
        }
        Ok(())
    }

    /// Whether the live ones are counted right, and every accepted task is in one state. The finished ones
    /// are not counted one by one: there is no bound on how many they are.
    pub(super) fn fit_live(&self, db: &Connection) -> rusqlite::Result<bool> {
        let mut counted = Self {
            by_state: [0; State::ALL.len()],
            ..*self
        };
        counted.count_states(db, "live")?;
        let live = State::ALL.into_iter().filter(|state| !state.is_final());
        let fits = |state| counted.by_state[usize::from(code(state))] == self.of(state);
        Ok(self.accepted == self.by_state.iter().sum::<u64>() && live.into_iter().all(fits))
    }

    pub(super) fn by_state(&self) -> BTreeMap<State, u64> {
        State::ALL.into_iter().zip(self.by_state).collect()
    }

    pub(super) fn count(&mut self, state: State) -> &mut u64 {
        &mut self.by_state[usize::from(code(state))]
    }

    fn of(&self, state: State) -> u64 {
        self.by_state[usize::from(code(state))]
    }

    pub(super) fn live(&self) -> u64 {
        let live = State::ALL.into_iter().filter(|state| !state.is_final());
        live.map(|state| self.of(state)).sum()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: 0,
            cursor: 0,
            changes_kept_from: 1,
            by_state: [0; State::ALL.len()],
            outbox: 0,
            episodes: 0,
            highest: Timestamp::default(),
            writes: 0,
        }
    }
}
