//! A part of the field: cells with their slots, and which of them peers have not seen yet.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Cell, DecayLaw, Deposit, Error, FLOOR, FUTURE_MAX, Location, Origin, Signal, Subject};
use crate::{
    id::Tenant,
    unit::{Ratio, Timestamp},
};

/// A slot's `L`. Written as its 64 bits: a decimal form that loses the last bit would undo "only grows".
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Level(f64);

impl From<u64> for Level {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Level> for u64 {
    fn from(level: Level) -> Self {
        level.0.to_bits()
    }
}

impl Level {
    /// What a slot of this level reads as at `now`: e^{L−λ(now−T₀)}.
    fn reading(self, law: &DecayLaw, signal: Signal, now: Timestamp) -> f64 {
        libm::exp(self.0 - law.growth(signal, now))
    }
}

/// One slot on its way to a peer or into a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which cell.
    pub cell: Cell,
    /// Whose slot.
    pub origin: Origin,
    /// How high it stands.
    pub level: Level,
}

/// A part of the field, or all of it. Plain state: the caller brings law and time, and holds the lock.
#[derive(Debug, Default)]
pub struct Shard {
    cells: BTreeMap<Cell, BTreeMap<Origin, Level>>,
    cells_max: usize,
}

impl Shard {
    /// An empty shard of at most `cells_max` cells, at least 1; beyond it the faintest are dropped.
    #[must_use]
    pub const fn new(cells_max: usize) -> Self {
        Self {
            cells: BTreeMap::new(),
            cells_max: if cells_max == 0 { 1 } else { cells_max },
        }
    }

    /// Adds a deposit to the slot of `origin`. The slot stops where it alone reads 1 at `now`.
    ///
    /// # Errors
    /// [`Error::Future`]; nothing has changed then.
    pub fn deposit(
        &mut self,
        law: &DecayLaw,
        deposit: Deposit,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<(), Error> {
        let ahead = deposit.at.since(now);
        if ahead > FUTURE_MAX {
            return Err(Error::Future { ahead });
        }
        let strength = deposit.strength.get();
        if strength <= 0.0 {
            return Ok(());
        }
        let signal = deposit.cell.signal;
        let added = libm::log(strength) + law.growth(signal, deposit.at);
        let slots = match self.cells.get_mut(&deposit.cell) {
            Some(slots) => slots,
            None => {
                self.make_room(law, &deposit.cell, now);
                self.cells.entry(deposit.cell).or_default()
            }
        };
        let old = slots.get(origin).map_or(f64::NEG_INFINITY, |level| level.0);
        let new = log_add_exp(old, added)
            .min(law.growth(signal, now))
            .max(old);
        match slots.get_mut(origin) {
            Some(level) => *level = Level(new),
            None => {
                slots.insert(origin.clone(), Level(new));
            }
        }
        Ok(())
    }

    /// Takes a slot from a peer or a snapshot: the higher level wins. True when that changed
    /// something. What has faded below [`FLOOR`] is ignored, or peers would hand each other the dead
    /// for ever.
    ///
    /// # Errors
    /// [`Error::Level`] for what is no number, [`Error::Future`] for a slot that reads above 1 even
    /// at the limit for the future; nothing has changed then.
    pub fn merge(&mut self, law: &DecayLaw, entry: Entry, now: Timestamp) -> Result<bool, Error> {
        let Level(level) = entry.level;
        if level.is_nan() {
            return Err(Error::Level { level });
        }
        let signal = entry.cell.signal;
        let reading = entry.level.reading(law, signal, now);
        if reading < FLOOR {
            return Ok(false);
        }
        // How far ahead a reading of 1 would lie, with a hair of slack for rounding.
        let rate = std::f64::consts::LN_2 / law.half_lives.of(signal).as_secs_f64();
        let ahead = (level - law.growth(signal, now)) / rate;
        if ahead > FUTURE_MAX.as_secs_f64() + 1e-6 {
            let ahead = Duration::try_from_secs_f64(ahead).unwrap_or(Duration::MAX);
            return Err(Error::Future { ahead });
        }
        let known = self
            .cells
            .get(&entry.cell)
            .and_then(|slots| slots.get(&entry.origin));
        if known.is_some_and(|known| known.0 >= level) {
            return Ok(false);
        }
        self.make_room(law, &entry.cell, now);
        self.cells
            .entry(entry.cell)
            .or_default()
            .insert(entry.origin, entry.level);
        Ok(true)
    }

    /// The reading of one cell.
    #[must_use]
    pub fn sense(&self, law: &DecayLaw, cell: &Cell, now: Timestamp) -> Ratio {
        self.cells
            .get(cell)
            .map_or(Ratio::ZERO, |slots| reading(law, cell.signal, slots, now))
    }

    /// The readings of all cells at a location and below it, in the order of the cells; what has
    /// faded below [`FLOOR`] is left out.
    pub fn sense_within<'a>(
        &'a self,
        law: &'a DecayLaw,
        tenant: &Tenant,
        location: &Location,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a Cell, Ratio)> + use<'a> {
        let (tenant, location) = (tenant.clone(), location.clone());
        let start = Cell {
            tenant: tenant.clone(),
            location: location.clone(),
            signal: Signal::ALL[0],
            subject: Subject::first(),
        };
        self.cells
            .range((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(cell, _)| cell.tenant == tenant && location.contains(&cell.location))
            .map(move |(cell, slots)| (cell, reading(law, cell.signal, slots, now)))
            .filter(|(_, share)| share.get() >= FLOOR)
    }

    /// Sweeps up: forgets slots that read below [`FLOOR`], and cells without slots. Returns how many
    /// cells went.
    pub fn compact(&mut self, law: &DecayLaw, now: Timestamp) -> usize {
        let before = self.cells.len();
        self.cells.retain(|cell, slots| {
            slots.retain(|_, level| level.reading(law, cell.signal, now) >= FLOOR);
            !slots.is_empty()
        });
        before - self.cells.len()
    }

    /// Every slot, in order: for snapshots and anti-entropy.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.cells.iter().flat_map(|(cell, slots)| {
            slots.iter().map(|(origin, level)| Entry {
                cell: cell.clone(),
                origin: origin.clone(),
                level: *level,
            })
        })
    }

    /// How many cells it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// When a new cell finds every place taken: sweeps up, and if that was not enough drops the faintest
    /// eighth, so that the search for them is paid by many deposits. Signals are hints: losing a
    /// faint one costs less than refusing a new one.
    fn make_room(&mut self, law: &DecayLaw, cell: &Cell, now: Timestamp) {
        if self.cells.len() < self.cells_max || self.cells.contains_key(cell) {
            return;
        }
        self.compact(law, now);
        if self.cells.len() < self.cells_max {
            return;
        }
        let mut readings: Vec<f64> = self
            .cells
            .iter()
            .map(|(cell, slots)| reading(law, cell.signal, slots, now).get())
            .collect();
        let dropped = (readings.len() / 8).min(readings.len().saturating_sub(1));
        let (_, bar, _) = readings.select_nth_unstable_by(dropped, f64::total_cmp);
        let bar = *bar;
        // Equal readings go in the order of their cells.
        let mut left = dropped + 1;
        self.cells.retain(|cell, slots| {
            let is_faint = left > 0 && reading(law, cell.signal, slots, now).get() <= bar;
            left -= usize::from(is_faint);
            !is_faint
        });
    }
}

/// The sum over all origins, at most 1.
fn reading(
    law: &DecayLaw,
    signal: Signal,
    slots: &BTreeMap<Origin, Level>,
    now: Timestamp,
) -> Ratio {
    let sum = slots
        .values()
        .map(|level| level.reading(law, signal, now))
        .sum();
    Ratio::clamped(sum)
}

/// ln(eᵃ + eᵇ) without leaving the range of numbers.
fn log_add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        return high;
    }
    high + libm::log1p(libm::exp(low - high))
}
