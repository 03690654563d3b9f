//! The rules of the colony: types and pure decisions.
//!
//! Nothing here reads a clock, draws a random number, opens a file or awaits. `now` and `rng` are
//! arguments; iteration order is part of every result, so collections are ordered. The components that
//! act on these decisions live in `colony-node` under the same names.

pub mod admission;
pub mod batch;
pub mod breaker;
pub mod cycle;
pub mod escalation;
pub mod field;
pub mod id;
pub mod journal;
pub mod ledger;
pub mod market;
pub mod memory;
pub mod mutants;
pub mod port;
pub mod property;
pub mod span;
pub mod task;
pub mod text;
pub mod unit;
