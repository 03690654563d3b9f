//! One worker owns one model and one thread, and answers many callers.
//!
//! ```text
//! callers ──► tokens ──► Intake (bounded; refuses) ──► order ──► engine thread ──► replies
//!             on their     permit from admission        core::    one model call
//!             own thread   to reply                     batch     for many rows
//! ```
//!
//! The thread never dies of a request: an error or panic of the engine is the answer of the rows
//! that were in the call, and after too many panics in a row the worker refuses everything.

mod embed;
mod generate;
mod intake;
mod prefixes;
mod row;

use std::any::Any;

pub use embed::EmbedWorker;
pub use generate::GenerateWorker;

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
