//! The field: what agents leave in the air for each other, and how it fades.
//!
//! ```text
//!   deposit (cell, strength, when) ─► slot of (cell, origin) ─► sense: sum over origins, at most 1
//!                                          │   ▲
//!                              entries     ▼   │ merge (maximum per slot)
//!                                        other nodes
//! ```
//! A cell is (tenant, location, signal, subject). Every origin (a node in one of its lives) keeps one
//! number per cell, `L = ln Σ dᵢ·e^{λ(tᵢ−T₀)}`: forward decay in the log domain. Reading is
//! `Σ e^{L−λ(now−T₀)}` over the origins, saturated at 1. `L` only ever grows, so merging is the maximum:
//! idempotent, commutative, associative, safe under loss, doubling, reordering and partition. Nothing
//! is ever deleted by message; *decay is the tombstone*, and every node sweeps up for itself.
//!
//! `T₀` and the half-life of each signal are fixed when the colony is created: nodes that disagreed on
//! them would read different fields. Decay is exponential only. Linear decay to a time to live needs
//! a mergeable ring of time buckets per slot, and nothing asks for it yet: left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Incarnation, NodeId, Tenant},
    unit::{Ratio, Timestamp},
};

mod place;
mod shard;

pub use place::{Location, PlaceError, Subject};
pub use shard::{Entry, Level, Shard};

/// How far in the future a deposit or a peer's slot may lie. More than honest clocks differ; a clock
/// further ahead would fill cells that then take long to fade.
pub const FUTURE_MAX: Duration = Duration::from_secs(5);

/// Readings below this are swept up: a hundredth of the weakest strength.
pub const FLOOR: f64 = 0.001;

/// What a deposit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Work is waiting here.
    Task,
    /// Something useful is available here.
    Resource,
    /// Things go wrong here.
    Danger,
    /// Things go well here.
    Success,
    /// Someone here can do this.
    Capability,
    /// Here is too much or too little to do.
    LoadBalancing,
    /// Somebody is on it.
    Coordination,
}

impl Signal {
    /// All seven, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Task,
        Self::Resource,
        Self::Danger,
        Self::Success,
        Self::Capability,
        Self::LoadBalancing,
        Self::Coordination,
    ];

    /// The name used on the wire, in colony.toml and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Resource => "resource",
            Self::Danger => "danger",
            Self::Success => "success",
            Self::Capability => "capability",
            Self::LoadBalancing => "load_balancing",
            Self::Coordination => "coordination",
        }
    }
}

/// Where a deposit is kept. Sorts by tenant, then location with everything below it, then signal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// Whose field; tenants never see each other's cells.
    pub tenant: Tenant,
    /// Where, such as `finance.reconciliation`.
    pub location: Location,
    /// What it says.
    pub signal: Signal,
    /// About what: an agent, a label, a tool.
    pub subject: Subject,
}

/// Who deposited: a node in one of its lives. A restarted node may have lost its slots, so it
/// starts new ones rather than continue them too low.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Which node.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
}

/// One deposit.
#[derive(Debug, Clone, PartialEq)]
pub struct Deposit {
    /// Where it goes.
    pub cell: Cell,
    /// How strong it is; 0 leaves nothing.
    pub strength: Ratio,
    /// When it was made.
    pub at: Timestamp,
}

/// Half-lives per signal. Raising one makes the colony remember longer and react later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalfLives {
    /// Waiting work: a queue drains in seconds.
    pub task: Duration,
    /// Resources come and go slower.
    pub resource: Duration,
    /// Danger outlasts the next few attempts, not the repair.
    pub danger: Duration,
    /// Success outlasts the hour's quiet moments.
    pub success: Duration,
    /// Capabilities change least.
    pub capability: Duration,
    /// Load changes fastest.
    pub load_balancing: Duration,
    /// As long as one would wait for somebody else.
    pub coordination: Duration,
}

impl Default for HalfLives {
    fn default() -> Self {
        Self {
            task: Duration::from_secs(30),
            resource: Duration::from_secs(600),
            danger: Duration::from_secs(300),
            success: Duration::from_secs(600),
            capability: Duration::from_secs(3_600),
            load_balancing: Duration::from_secs(10),
            coordination: Duration::from_secs(60),
        }
    }
}

impl HalfLives {
    /// The half-life of one signal.
    #[must_use]
    pub const fn of(&self, signal: Signal) -> Duration {
        match signal {
            Signal::Task => self.task,
            Signal::Resource => self.resource,
            Signal::Danger => self.danger,
            Signal::Success => self.success,
            Signal::Capability => self.capability,
            Signal::LoadBalancing => self.load_balancing,
            Signal::Coordination => self.coordination,
        }
    }
}

/// How the field of one colony fades: the moment `T₀` and the rate λ of each signal, fixed for ever.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DecayLaw {
    epoch: Timestamp,
    half_lives: HalfLives,
}

impl DecayLaw {
    /// How fast signals fade, for ever.
    #[must_use]
    pub const fn half_lives(&self) -> &HalfLives {
        &self.half_lives
    }

    /// The law of a colony created at `epoch`.
    ///
    /// # Errors
    /// [`Error::HalfLife`] when a half-life is 0.
    pub fn new(epoch: Timestamp, half_lives: HalfLives) -> Result<Self, Error> {
        match Signal::ALL
            .into_iter()
            .find(|s| half_lives.of(*s).is_zero())
        {
            Some(signal) => Err(Error::HalfLife { signal }),
            None => Ok(Self { epoch, half_lives }),
        }
    }

    /// ln of the growth since the epoch, λ(t−T₀): what a reading of 1 at `t` has as its level.
    fn growth(&self, signal: Signal, at: Timestamp) -> f64 {
        let rate = std::f64::consts::LN_2 / self.half_lives.of(signal).as_secs_f64();
        rate * seconds_between(self.epoch, at)
    }
}

/// Seconds from `start` to `end`, negative when `end` is earlier.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact to the microsecond for 285 years"
)]
fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    let (start, end) = (start.as_micros(), end.as_micros());
    if end >= start {
        (end - start) as f64 / 1e6
    } else {
        -((start - end) as f64 / 1e6)
    }
}

/// Why the field refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The deposit or slot lies further ahead than [`FUTURE_MAX`]: someone's clock is wrong.
    #[error("deposit lies {ahead:?} in the future, the limit is {FUTURE_MAX:?}")]
    Future {
        /// How far.
        ahead: Duration,
    },
    /// A half-life of nothing.
    #[error("half-life of {} is 0, and nothing would ever be felt", signal.as_str())]
    HalfLife {
        /// Of which signal.
        signal: Signal,
    },
    /// A peer sent a level that is no number.
    #[error("level {level} is not a number")]
    Level {
        /// What it sent.
        level: f64,
    },
}

#[cfg(test)]
mod tests;
