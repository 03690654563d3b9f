//! What must hold of a ledger at any moment, whatever happened before: the properties of
//! [`colony_core::property`] that are about its snapshots and its change feed.

use colony_core::{
    property::{Broken, conserved},
    task::State,
};

use crate::ledger::{Change, Counts, Cursor};

/// P1, conservation: on any snapshot, every accepted task is in exactly one state, and every state is
/// counted.
///
/// # Errors
/// [`Broken`] with the numbers.
pub fn conservation(counts: &Counts) -> Result<(), Broken> {
    let missing = State::ALL
        .iter()
        .find(|state| !counts.by_state.contains_key(state));
    match missing {
        Some(state) => Err(Broken {
            number: "P1",
            what: format!("tasks that are {state} are not counted"),
        }),
        None => conserved(counts.accepted, &counts.by_state),
    }
}

/// P9, no change is skipped: a page of changes after `after` goes on without a gap.
///
/// # Errors
/// [`Broken`] with the first cursor that does not follow.
pub fn gapless(after: Cursor, page: &[Change]) -> Result<(), Broken> {
    for (expected, change) in (after + 1..).zip(page) {
        if change.cursor != expected {
            return Err(Broken {
                number: "P9",
                what: format!("change {} where {expected} was due", change.cursor),
            });
        }
    }
    Ok(())
}
