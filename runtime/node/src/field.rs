//! The field: the colony's pheromones on this node.
//!
//! ```text
//!   agents ── mark ──┐                         ┌── sense, sense_within ──► gateway, status
//!                    ├─► shard (lock, law) ◄───┤
//!   peers  ── merge ─┘                         └── attraction ──► market
//! ```
//! Deposits never pass through a mailbox: a cell's shard is found by a hash that is the same on every run,
//! locked for the arithmetic, and let go. How signals fade and merge is the law of `colony_core::field`;
//! its epoch and half-lives are written down when the colony is created and never change.

use std::sync::Arc;

use colony_core::{
    field::{
        Cell, DecayLaw, Deposit, Entry, Error, HalfLives, Location, Origin, Shard, Signal, Subject,
    },
    id::{AgentId, Tenant, TypeName},
    port::Clock,
    unit::{Ratio, Timestamp},
};
use colony_store::{Ledger, LedgerError};
use parking_lot::Mutex;

use crate::snapshots::Snapshots;

/// Locks; more than the cores that could wait for one another.
const SHARDS: usize = 16;
/// The draw of the field to an agent without pheromones: neither drawn nor repelled.
pub(crate) const NEUTRAL: Ratio = Ratio::HALF;
/// The snapshot that fixes the decay law of the colony.
const LAW: &str = "field/law";
/// The snapshot of the pheromones.
const TRAILS: &str = "field/pheromones";
/// The layout of both.
const VERSION: u32 = 1;

/// The way to the field.
#[derive(Debug, Clone)]
pub struct Field {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    law: DecayLaw,
    origin: Origin,
    clock: Arc<dyn Clock>,
    snapshots: Snapshots,
    shards: Vec<Mutex<Shard>>,
}

impl Field {
    /// Opens the field: with the law and the pheromones of the ledger, or as a new one.
    ///
    /// # Errors
    /// Storage.
    pub async fn open(
        half_lives: HalfLives,
        cells_max: usize,
        origin: Origin,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        let snapshots = Snapshots::new(ledger, origin.node.clone());
        let known: Option<DecayLaw> = snapshots.load(LAW, VERSION).await?;
        if known.is_some_and(|law| *law.half_lives() != half_lives) {
            tracing::warn!(
                "field.half_lives was set to something else when this ledger was made, and that stays"
            );
        }
        // Trails of another law would be misread.
        let pheromones: Option<Vec<Entry>> = match known {
            Some(_) => snapshots.load(TRAILS, VERSION).await?,
            None => None,
        };
        let law = match known {
            Some(law) => law,
            None => {
                let law = DecayLaw::new(clock.now(), half_lives).map_err(|error| {
                    LedgerError::Storage {
                        what: error.to_string(),
                    }
                })?;
                snapshots.save(LAW, VERSION, &law).await?;
                law
            }
        };
        let shards = (0..SHARDS)
            .map(|_| Mutex::new(Shard::new(cells_max.div_ceil(SHARDS))))
            .collect();
        let field = Self {
            inner: Arc::new(Inner {
                law,
                origin,
                clock,
                snapshots,
                shards,
            }),
        };
        for entry in pheromones.into_iter().flatten() {
            if let Err(error) = field.merge(entry) {
                tracing::debug!(%error, "a pheromone was left out");
            }
        }
        Ok(field)
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn shard(&self, cell: &Cell) -> &Mutex<Shard> {
        // FNV-1a: the same on every run, so that nothing depends on the process.
        let text = [
            cell.tenant.as_str(),
            cell.location.as_str(),
            cell.subject.as_str(),
        ];
        let hash = text
            .into_iter()
            .flat_map(str::bytes)
            .fold(0xcbf2_9ce4_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
        &self.inner.shards[hash as usize % SHARDS]
    }

    /// Leaves a signal in a cell.
    ///
    /// # Errors
    /// [`Error::Future`], never in practice: the clock that dates the deposit also checks it.
    pub fn deposit(&self, cell: Cell, strength: Ratio) -> Result<(), Error> {
        let now = self.now();
        let deposit = Deposit {
            cell,
            strength,
            at: now,
        };
        let mut shard = self.shard(&deposit.cell).lock();
        shard.deposit(&self.inner.law, deposit, &self.inner.origin, now)
    }

    /// Takes a slot over that another node, or a former life, has written.
    ///
    /// # Errors
    /// When it lies in the future.
    pub fn merge(&self, entry: Entry) -> Result<bool, Error> {
        let now = self.now();
        self.shard(&entry.cell)
            .lock()
            .merge(&self.inner.law, entry, now)
    }

    /// The reading of one cell.
    #[must_use]
    pub fn sense(&self, cell: &Cell) -> Ratio {
        let now = self.now();
        self.shard(cell).lock().sense(&self.inner.law, cell, now)
    }

    /// The readings of a tenant's cells at `location` and below it, in order.
    #[must_use]
    pub fn sense_within(&self, tenant: &Tenant, location: &Location) -> Vec<(Cell, Ratio)> {
        let now = self.now();
        let mut found = Vec::new();
        for shard in &self.inner.shards {
            let shard = shard.lock();
            let cells = shard.sense_within(&self.inner.law, tenant, location, now);
            found.extend(cells.map(|(cell, share)| (cell.clone(), share)));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Strengthens one of an agent's pheromones.
    pub(crate) fn reinforce(&self, cell: &Cell, strength: Ratio) {
        if let Err(error) = self.deposit(cell.clone(), strength) {
            tracing::debug!(%error, "deposit refused");
        }
    }

    /// How the field draws tasks to the agent of these pheromones: success draws, danger repels; half where there is
    /// neither.
    #[must_use]
    pub(crate) fn attraction(&self, pheromones: &Pheromones) -> Ratio {
        let read = |cell| self.sense(cell).get();
        Ratio::clamped(0.5 + (read(&pheromones.success) - read(&pheromones.danger)) / 2.0)
    }

    /// Sweeps faded cells up; returns how many.
    pub fn compact(&self) -> usize {
        let now = self.now();
        self.inner
            .shards
            .iter()
            .map(|shard| shard.lock().compact(&self.inner.law, now))
            .sum()
    }

    /// Writes the pheromones down, as before a stop. A crash forgets those since the last time.
    ///
    /// # Errors
    /// Storage.
    pub async fn save(&self) -> Result<(), LedgerError> {
        let mut pheromones: Vec<Entry> = Vec::new();
        for shard in &self.inner.shards {
            pheromones.extend(shard.lock().entries());
        }
        self.inner
            .snapshots
            .save(TRAILS, VERSION, &pheromones)
            .await
    }
}

/// Where it is marked how one tenant's tasks went with one agent. An agent keeps those of the tenant
/// it last worked for, rather than name its cells anew for every task.
#[derive(Debug)]
pub(crate) struct Pheromones {
    /// It did well.
    pub(crate) success: Cell,
    /// Something went wrong where it works.
    pub(crate) danger: Cell,
}

impl Pheromones {
    /// Those of `agent` with `tenant`; none for a type whose name is no place.
    pub(crate) fn new(tenant: &Tenant, agent: &AgentId) -> Option<Self> {
        let success = Cell {
            tenant: tenant.clone(),
            location: location(&agent.agent_type)?,
            signal: Signal::Success,
            subject: Subject::new(&agent.ordinal.to_string()).ok()?,
        };
        let danger = Cell {
            signal: Signal::Danger,
            ..success.clone()
        };
        Some(Self { success, danger })
    }

    /// Whose tasks it is about.
    pub(crate) const fn tenant(&self) -> &Tenant {
        &self.success.tenant
    }
}

fn location(agent_type: &TypeName) -> Option<Location> {
    Location::new(agent_type.as_str()).ok()
}

#[cfg(test)]
mod tests;
