//! The ledger: what was acknowledged is written here, and survives.
//!
//! One [`Ledger`] trait, two engines: SQLite ([`SqliteLedger`]) for a node's own data directory and [`memory`], which
//! loses what was not synced, for the simulator and the market bench. The rules are core's
//! ([`colony_core::ledger`]); both engines pass one conformance suite.

mod codec;
mod error;
mod ledger;
mod limits;
pub mod memory;
pub mod property;
mod refusal;
mod sqlite;

pub use ledger::{
    Agent, Approval, ApprovalFilter, AttemptCounts, CHANGES_KEPT, Change, Claim, ClaimRef,
    ClaimRequest, Claimed, Commit, Committed, Counts, Cursor, Decided, Episode, EpisodeChange,
    EpisodeStream, Health, InboxItem, Ledger, LedgerError, MessageId, NewTask, Others,
    OutboxFilter, OutboxMessage, PAGE_BYTES_MAX, PAGE_MAX, Page, Policy, Posted, Quarantined,
    Question, QuestionState, Record, Registered, Settlement, Snapshot, SnapshotKey, Submitted,
    TaskFilter, TaskHead, Track, Verification,
};
pub use memory::MemoryLedger;
pub use sqlite::SqliteLedger;
