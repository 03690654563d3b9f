//! The book: what was acknowledged is written here, and survives.
//!
//! One [`Ledger`] trait, two engines: [`sqlite`] for a node's own data directory and [`memory`], which
//! loses what was not synced, for the simulator and the market bench. Both pass one conformance suite.

mod ledger;

pub use ledger::{
    Agent, Approval, ApprovalFilter, Change, Claim, ClaimRef, ClaimRequest, Commit, Counts, Cursor,
    Episode, Ledger, LedgerError, NewTask, OutboxRecord, Policy, Question, Submitted, TaskFilter,
    Then, Track,
};
