//! Waiting for conditions, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short against what is waited for, long against a look's cost.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds something, and gives it back.
///
/// # Errors
/// When `limit` has passed; the message says what was awaited and what the last look found instead.
pub fn eventually_some<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let began = now();
    loop {
        let last = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if began.elapsed() > limit {
            bail!("{what} did not come about within {limit:?}: {last:#}");
        }
        rest();
    }
}

/// Waits until `look` is true.
///
/// # Errors
/// When `limit` has passed.
pub fn eventually(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    eventually_some(
        what,
        limit,
        || {
            if look()? { Ok(()) } else { bail!("not yet") }
        },
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests of real processes live in real time"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition"
)]
fn rest() {
    std::thread::sleep(LOOK_EVERY);
}
