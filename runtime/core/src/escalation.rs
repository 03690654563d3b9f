//! When a human has to decide.
//!
//! What is risky is told by [`risk`], which kinds of agents call before they act on an answer; what is new
//! or uncertain by [`crate::memory`].

pub mod risk;
