//! What must hold of a book at any moment, whatever happened before.

use colony_core::task::State;

use crate::ledger::{Change, Counts, Cursor};

/// A property that does not hold, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {number} broken: {what}")]
pub struct Broken {
    /// The property's number.
    pub number: &'static str,
    /// What was seen.
    pub what: String,
}

/// L1, conservation: on any snapshot, every accepted task is in exactly one state.
///
/// # Errors
/// [`Broken`] with the numbers.
pub fn conservation(counts: &Counts) -> Result<(), Broken> {
    let sum: u64 = counts.by_state.values().sum();
    let complete = State::ALL.iter().all(|s| counts.by_state.contains_key(s));
    if sum == counts.accepted && complete {
        return Ok(());
    }
    Err(Broken {
        number: "L1",
        what: format!(
            "{} accepted, {sum} in a state: {:?}",
            counts.accepted, counts.by_state
        ),
    })
}

/// L2, no change is skipped: a page of changes after `after` goes on without a gap.
///
/// # Errors
/// [`Broken`] with the first cursor that does not follow.
pub fn gapless(after: Cursor, page: &[Change]) -> Result<(), Broken> {
    for (expected, change) in (after + 1..).zip(page) {
        if change.cursor != expected {
            return Err(Broken {
                number: "L2",
                what: format!("change {} where {expected} was due", change.cursor),
            });
        }
    }
    Ok(())
}
