//! The book: what was acknowledged is written here, and survives.
//!
//! One [`Ledger`] trait, two engines: SQLite ([`SqliteLedger`]) for a node's own data directory and [`memory`], which
//! loses what was not synced, for the simulator and the market bench. Both pass one conformance suite.

mod blob;
mod ledger;
pub mod memory;
pub mod property;
mod rules;
mod sqlite;

pub use ledger::{
    Agent, Approval, ApprovalFilter, CHANGES_KEPT, Change, Claim, ClaimRef, ClaimRequest, Commit,
    Counts, Cursor, Episode, Ledger, LedgerError, NewTask, OutboxRecord, PAGE_MAX, Policy,
    Question, Submitted, TaskFilter, Then, Track,
};
pub use memory::MemoryLedger;
pub use sqlite::SqliteLedger;
