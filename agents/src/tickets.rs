//! Help-desk tickets: the demo's own stream, and anybody's from JSON lines.
//!
//! ```text
//!   tickets/handwritten.jsonl ─┐
//!                              ├─► stream(seed, count) ─► train tickets, then test tickets
//!   tickets/templates.toml ────┘
//!   FILE.jsonl ─► parse ─► tickets and the lines that are none
//! ```
//! People repeat each other, and now and then somebody asks something new: most test tickets come from
//! templates that the train part fills with other words, a fifth from texts that it never uses.

mod generate;
mod parse;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use generate::stream;
pub use parse::{LineError, LineFault, Parsed, parse};

/// The label of the demo's tickets that belong to no queue.
pub const OUT_OF_SCOPE: &str = "out_of_scope";

/// What a ticket's label is for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Given as human feedback after the agent answered.
    #[default]
    Train,
    /// Only scored.
    Test,
}

/// A request of somebody to the help desk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// What they wrote; not empty, at most [`colony_core::task::INPUT_BYTES_MAX`] bytes.
    pub text: String,
    /// The queue it belongs to, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What the label is for.
    pub split: Split,
    /// Whether it asks for something that a human must rule on whatever the confidence.
    pub risky: bool,
}
