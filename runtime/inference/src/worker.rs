//! One worker owns one model and one thread, and answers many callers.
//!
//! ```text
//! callers ──► tokens ──► AdmissionQueue ──► order ──► engine thread ──► replies
//!             on their   bounded; refuses   core::    one model call
//!             own thread permit until reply batch     for many rows
//! ```
//!
//! An engine that panics is opened again; a request that makes it panic alone is refused for good,
//! and costs the others of its batch no more than a second try (`engine_loop`).

mod admission_queue;
mod embed;
mod engine_loop;
mod engine_thread;
mod generate;
mod pending;
mod prefix_cache;
mod row;
#[cfg(test)]
mod testing;

pub use embed::EmbedWorker;
pub use generate::GenerateWorker;

/// What an engine is asked before it counts as open. Any model can read it.
const WARM_UP_TEXT: &str = "a";
