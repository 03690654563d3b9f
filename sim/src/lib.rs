//! A seeded world around real nodes, and a search for what breaks them.
//!
//! ```text
//!   seed ─► workload (clients, reviewer, agents, faults)
//!             ├─► clients, reviewer ── tonic over turmoil ──► the real node ─► ports:
//!             │                                                 ├ ledger (memory, loses what was not synced)
//!             ├─► faults: at moments, at calls of ports ───────►├ models (echo, away now and then)
//!             │                                                 ├ sinks outside (go on when the node crashes)
//!             │                                                 └ clock, chance
//!             └─► watch (during the run), check (at its end) ─► history, its hash ─► report
//! ```
//! One seed makes everything: the same seed gives the same history, bit for bit, on the same binary.
//! Safety is looked for all the time; when the last fault is over, everything must end ([`run`]). What is
//! swapped are the node's ports; its components, actors and APIs are the real ones. [`fuzz`] runs random
//! workloads and makes what fails as simple as it can. Proved elsewhere, by process tests: SQLite, real
//! sockets, real kills. docs/guides/simulator.md is for people, docs/properties.md lists what is looked for.

mod check;
mod clients;
mod facts;
mod fuzz;
mod history;
mod host;
#[cfg(feature = "mutants")]
mod hunt;
mod late;
mod ledger;
mod models;
mod net;
mod recall;
mod reviewer;
mod run;
mod scripted;
mod sinks;
mod watch;
mod workload;
mod world;

pub use fuzz::{Failed, Failures, OnFailure, Progress, fuzz, kept, replay, shrink};
#[cfg(feature = "mutants")]
pub use hunt::{Caught, Mutant, hunt};
pub use run::{Report, RunError, run};
pub use watch::Broken;
pub use workload::{
    Agents, Call, Client, Fault, Found, InFlight, Matter, OutageMode, Phase, Port, Reviewer,
    SinkKind, Tasks, Workload, WorkloadError, World,
};
