//! A seeded world around real nodes.
//!
//! ```text
//!   seed ─► clock, chance, network (turmoil), ledger (memory, loses what was not synced), engines (echo)
//!             └► the real node ◄── clients over tonic, a reviewer ── history ─► hash
//! ```
//! One seed makes everything: the same seed gives the same history, bit for bit, on the same binary. A run has
//! two phases: faults, while safety must hold; then all faults are healed and everything acknowledged must
//! end. What is swapped are the node's ports; its rooms, actors and doors are the real ones. Proved
//! elsewhere, by process tests: SQLite, real sockets, real kills.

mod client;
mod host;
mod net;
mod run;
mod workload;

pub use run::{Report, RunError, run};
pub use workload::{Agents, Clients, Fault, FaultKind, Network, Workload, WorkloadError};
