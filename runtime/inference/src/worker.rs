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
#[cfg(test)]
mod testing;

use std::any::Any;

use tokio::sync::oneshot;

pub use embed::EmbedWorker;
pub use generate::GenerateWorker;

use crate::{error::InferenceError, observe::Counters};

/// The answer of a worker that is shut to a caller that still waits, or a note that it left.
fn answer_shut<T>(
    model: &str,
    counters: &Counters,
    reply: oneshot::Sender<Result<T, InferenceError>>,
) {
    Counters::add(&counters.withdrawn, usize::from(reply.is_closed()));
    // Who left needs no answer.
    let _ = reply.send(Err(InferenceError::Shut {
        model: model.to_owned(),
    }));
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
