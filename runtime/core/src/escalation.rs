//! When a human has to decide.
//!
//! What is risky is told by [`risk`], which kinds of agents call before they act on an answer; what is new
//! or uncertain by [`crate::memory`]. What the human is shown beside the question is [`Evidence`].

pub mod risk;

mod due;
mod evidence;
mod label;

pub use due::{DECIDED_BY, Due, Late};
pub use evidence::{Evidence, Finding};
pub use label::{UnknownLabel, known_label};
