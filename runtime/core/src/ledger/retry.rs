//! Whether a task is tried again, how soon, and what it is charged: everything that decides about it.
//!
//! ```text
//!   trouble ─► after ─┬─ Again    the same call once more, after a wait; nothing is written
//!                     ├─ Skip     the task goes on without what it would have learned
//!                     ├─ Fail     the task has failed
//!                     └─ Release ─► charge: counted? how soon? ─► commit ─► retry: ready later, or dead
//! ```
//! A task is charged for its own doing only. Whatever else is in the way counts nothing, however long it stays.

use std::time::Duration;

use super::{AttemptCounts, Policy};
use crate::mutant;

/// First wait before the same call is tried again; doubles up to [`WAIT_MAX`].
const WAIT: Duration = Duration::from_millis(20);
/// Longest wait before another try.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Tries of one step: what is in the way is not the task's fault, and its agent may be of use elsewhere. 0.6 seconds
/// of waits.
const STEP_TRIES_MAX: u32 = 5;
/// Tries to read a journal: 20 seconds of waits.
const READ_TRIES_MAX: u32 = 16;
/// Wait before a task is claimed again for which something was away. Where that is a port, its breaker waits longer.
const RELEASE_DELAY: Duration = Duration::from_secs(1);

/// Wait before a task is claimed again whose rows nobody can read: somebody may mend the file meanwhile.
pub(super) const UNREADABLE_DELAY: Duration = Duration::from_secs(60);

/// What keeps a holder from going on with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A port that the step needs is away, full or slow.
    PortAway,
    /// The ledger does not give what the task needs.
    LedgerAway,
    /// Its step failed, panicked or took too long.
    OwnFailure,
    /// No other try would end otherwise.
    Impossible,
    /// Its agent crashed, not in one of its steps.
    AgentCrashed,
    /// Nobody is there for it: no agent is free, or its agent was let go.
    NoAgent,
    /// Its node stops.
    NodeStops,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call is tried again after this wait.
    Again(Duration),
    /// The task goes on without what the step would have given.
    Skip,
    /// The claim is released, as [`charge`] says.
    Release,
    /// The task has failed.
    Fail,
}

/// Decides what a holder does. `tries` counts the tries of the same call before the one that has just failed;
/// `learning` says whether all but what is learned is done: what is done stays done, and a task does not fail for
/// what it cannot teach.
#[must_use]
pub fn after(trouble: Trouble, learning: bool, tries: u32) -> Disposition {
    let tries_max = match trouble {
        Trouble::PortAway => STEP_TRIES_MAX,
        Trouble::LedgerAway => READ_TRIES_MAX,
        Trouble::OwnFailure
        | Trouble::Impossible
        | Trouble::AgentCrashed
        | Trouble::NoAgent
        | Trouble::NodeStops => 0,
    };
    if tries < tries_max {
        return Disposition::Again(wait_before(tries + 1));
    }
    let of_the_step = match trouble {
        Trouble::PortAway | Trouble::OwnFailure | Trouble::Impossible => true,
        Trouble::LedgerAway | Trouble::AgentCrashed | Trouble::NoAgent | Trouble::NodeStops => {
            false
        }
    };
    if learning && of_the_step && !mutant!(C25) {
        return Disposition::Skip;
    }
    match trouble {
        Trouble::Impossible => Disposition::Fail,
        Trouble::PortAway
        | Trouble::LedgerAway
        | Trouble::OwnFailure
        | Trouble::AgentCrashed
        | Trouble::NoAgent
        | Trouble::NodeStops => Disposition::Release,
    }
}

/// The wait before a call is tried again, so often as `tries` says, 1 for the first time.
#[must_use]
pub fn wait_before(tries: u32) -> Duration {
    WAIT.saturating_mul(1 << tries.saturating_sub(1).min(10))
        .min(WAIT_MAX)
}

/// What a task is charged whose claim is released, and how long it waits at least.
#[must_use]
pub fn charge(trouble: Trouble) -> (AttemptCounts, Duration) {
    match trouble {
        Trouble::PortAway if mutant!(C7) => (AttemptCounts::Failed, Duration::ZERO),
        Trouble::NodeStops if mutant!(C21) => (AttemptCounts::Failed, Duration::ZERO),
        Trouble::PortAway | Trouble::LedgerAway => (AttemptCounts::Not, RELEASE_DELAY),
        Trouble::NoAgent | Trouble::NodeStops => (AttemptCounts::Not, Duration::ZERO),
        Trouble::OwnFailure | Trouble::Impossible | Trouble::AgentCrashed => {
            (AttemptCounts::Failed, Duration::ZERO)
        }
    }
}

/// What becomes of a task after an attempt that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// It is tried again, not before this much time has passed.
    After(Duration),
    /// Its attempts are exhausted.
    Dead,
}

/// Decides on it. `failed_attempts` counts the one that has just failed.
#[must_use]
pub fn retry(failed_attempts: u32, policy: &Policy) -> RetryDecision {
    if failed_attempts >= policy.attempts_max {
        return RetryDecision::Dead;
    }
    let doublings = failed_attempts.saturating_sub(1).min(32);
    let wait = policy
        .backoff_base
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(policy.backoff_max);
    RetryDecision::After(wait)
}
