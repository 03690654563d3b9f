//! After a failed model call: who is to blame, and when the engine is opened again.
//!
//! ```text
//!   call of many fails ──► each is computed alone ──► answered          it was innocent
//!                                                 ├─► error             failed: the engine refuses it
//!                                                 └─► panic, panic      poisoned: never computed again
//! ```
//! An engine that panicked is opened anew before the next call, so the second panic of a request cannot be
//! what the first one left behind. Every request is in at most `2 + PANICS_ALONE_MAX` calls.

use std::time::Duration;

/// Panics over a request that was computed alone, after which it is not tried again. The first may be
/// chance; two in a row, on an engine that answered a probe between them, are the request's.
pub const PANICS_ALONE_MAX: u32 = 2;

/// Pause after the first opening that failed. A file that is being replaced is whole again by then.
const REOPEN_DELAY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two openings: what is repaired by hand is noticed within it.
const REOPEN_DELAY_MAX: Duration = Duration::from_secs(30);
const _: () = assert!(REOPEN_DELAY_FIRST.as_millis() < REOPEN_DELAY_MAX.as_millis());

/// How a model call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// The engine returned an error and can go on.
    Error,
    /// It panicked: what it holds is not to be trusted.
    Panic,
}

/// What becomes of a request whose call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It is computed again, by itself.
    RetryAlone {
        /// Panics over it alone so far.
        panics_alone: u32,
    },
    /// The engine returned an error for it alone.
    Failed,
    /// The engine panicked over it alone, [`PANICS_ALONE_MAX`] times.
    Poisoned,
}

/// Decides for one of the `rows` requests of a failed call, over which the engine panicked `panics_alone`
/// times before while it was alone.
#[must_use]
pub fn blame(rows: usize, panics_alone: u32, failure: CallFailure) -> Blame {
    match (rows, failure) {
        (2.., _) => Blame::RetryAlone { panics_alone },
        (_, CallFailure::Error) => Blame::Failed,
        (_, CallFailure::Panic) if panics_alone + 1 < PANICS_ALONE_MAX => Blame::RetryAlone {
            panics_alone: panics_alone + 1,
        },
        (_, CallFailure::Panic) => Blame::Poisoned,
    }
}

/// How long to wait before the engine is opened again, after `failures` openings that failed in a row:
/// not at all after a panic, then twice as long each time, 30 s at most.
#[must_use]
pub fn reopen_delay(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    REOPEN_DELAY_FIRST
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(REOPEN_DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_blamed_only_for_what_happened_to_it_alone() {
        let alone = |panics_alone| Blame::RetryAlone { panics_alone };
        for failure in [CallFailure::Error, CallFailure::Panic] {
            assert_eq!(blame(16, 0, failure), alone(0));
        }
        assert_eq!(blame(1, 0, CallFailure::Error), Blame::Failed);
        assert_eq!(blame(1, 0, CallFailure::Panic), alone(1));
        assert_eq!(blame(1, 1, CallFailure::Panic), Blame::Poisoned);
    }

    #[test]
    fn the_pause_between_openings_doubles_up_to_its_bound() {
        let delays: Vec<u128> = (0..4).map(|n| reopen_delay(n).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400]);
        assert_eq!(reopen_delay(u32::MAX), REOPEN_DELAY_MAX);
    }
}
