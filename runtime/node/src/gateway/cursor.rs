//! Cursors on the wire: where a watcher stands in a stream of the ledger.
//!
//! One is good in the ledger that gave it, as long as what was seen there is what is there now.

use std::fmt::{self, Display};

use colony_store::Cursor;
use tonic::Status;
use uuid::Uuid;

use super::status;

/// Where a watcher stands: `LEDGER:PLACE:SEEN`, without the last where it has seen nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WatchCursor {
    pub(super) ledger: Uuid,
    pub(super) place: Cursor,
    /// The fingerprint of the change that it saw last.
    pub(super) seen: Option<u32>,
}

impl WatchCursor {
    /// Refuses a cursor of another ledger.
    pub(super) fn is_of(&self, ledger: Uuid) -> Result<(), &'static str> {
        if self.ledger == ledger {
            Ok(())
        } else {
            Err("the cursor belongs to another ledger")
        }
    }

    /// Refuses a cursor that saw something else than `now` stands at its place.
    pub(super) fn has_seen(&self, now: Option<u32>) -> Result<(), &'static str> {
        if self.seen.is_none() || self.seen == now {
            Ok(())
        } else {
            Err(
                "the cursor stands behind something else than is there now: an older copy of the ledger was put back",
            )
        }
    }
}

impl Display for WatchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ledger, self.place)?;
        match self.seen {
            Some(seen) => write!(f, ":{seen:08x}"),
            None => Ok(()),
        }
    }
}

pub(super) fn parse_cursor(text: &str) -> Result<WatchCursor, Status> {
    let read = || {
        let (ledger, rest) = text.split_once(':')?;
        let (place, seen) = match rest.split_once(':') {
            Some((place, seen)) => (place, Some(u32::from_str_radix(seen, 16).ok()?)),
            None => (rest, None),
        };
        let ledger = Uuid::parse_str(ledger).ok()?;
        let place = place.parse().ok()?;
        Some(WatchCursor {
            ledger,
            place,
            seen,
        })
    };
    read().ok_or_else(|| {
        status::argument(
            "after_cursor",
            &"is none that this service gave; watch without one to get one",
        )
    })
}
