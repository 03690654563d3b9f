//! What every engine decides in the same way. Pure: `now` is an argument.

use std::time::Duration;

use colony_core::{
    task::{Ending, Spec},
    unit::Timestamp,
};

use crate::ledger::{PAGE_MAX, Policy};

/// Why a cancelled task has no answer.
pub(crate) const CANCELLED: &str = "cancelled by its submitter";
/// Why an expired task has no answer.
pub(crate) const EXPIRED: &str = "its deadline passed";
/// Why a claim of a former life was lost.
pub(crate) const RESTARTED: &str = "its node stopped while it worked";
/// Most writes that wait for the disk; beyond it the answer is `Busy`. 64 submitters of 64 tasks each.
pub(crate) const QUEUE_MAX: usize = 4_096;

/// Where a task stands in its queue, the lowest first: its submission time in µs, moved ahead by one
/// head start for each step of priority. A fixed key, so waiting tasks age without being touched.
pub(crate) fn sort_key(spec: &Spec, submitted_at: Timestamp, policy: &Policy) -> i64 {
    let head_start = i64::try_from(policy.head_start.as_micros()).unwrap_or(i64::MAX);
    let ahead = head_start.saturating_mul(i64::from(spec.priority.get()));
    i64::try_from(submitted_at.as_micros())
        .unwrap_or(i64::MAX)
        .saturating_sub(ahead)
}

/// What becomes of a task after its claim ended abnormally for the `deliveries`-th time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Ready again at this moment.
    Again(Timestamp),
    /// Deliveries are used up.
    Dead,
}

/// Decides on it. `deliveries` counts the end that has just come.
pub(crate) fn fate(deliveries: u32, now: Timestamp, policy: &Policy) -> Fate {
    if deliveries >= policy.deliveries_max {
        return Fate::Dead;
    }
    let doublings = deliveries.saturating_sub(1).min(32);
    let wait = policy
        .backoff_base
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(policy.backoff_max);
    Fate::Again(now.after(wait))
}

/// The reason kept with a task that died, was cancelled or expired.
pub(crate) fn without_answer(reason: &str) -> Ending {
    Ending::Failed {
        reason: reason.to_owned(),
    }
}

/// The length of a page that was asked for.
pub(crate) fn page(limit: u32) -> usize {
    let limit = if limit == 0 { PAGE_MAX } else { limit };
    usize::try_from(limit.min(PAGE_MAX)).unwrap_or(usize::MAX)
}

/// A count as the platform counts.
pub(crate) fn size(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How long a deduplication key that was used at `now` is remembered.
pub(crate) fn remembered_until(now: Timestamp, ttl: Duration) -> Timestamp {
    now.after(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use colony_core::{id::TypeName, task::Priority};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_critical_task_overtakes_but_nobody_waits_for_ever() {
        let policy = Policy::default();
        let normal = Spec::new(TypeName::new("t").expect("legal"), "x");
        let mut critical = normal.clone();
        critical.priority = Priority::CRITICAL;
        let waiting = sort_key(&normal, at(10_000), &policy);
        assert!(sort_key(&critical, at(10_299), &policy) < waiting);
        assert!(sort_key(&critical, at(10_301), &policy) > waiting);
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_then_the_task_is_dead() {
        let policy = Policy {
            deliveries_max: 40,
            ..Policy::default()
        };
        let wait = |deliveries| match fate(deliveries, at(1), &policy) {
            Fate::Again(due) => Some(due.since(at(1))),
            Fate::Dead => None,
        };
        assert_eq!(wait(1), Some(Duration::from_millis(100)));
        assert_eq!(wait(2), Some(Duration::from_millis(200)));
        assert_eq!(wait(39), Some(policy.backoff_max));
        assert_eq!(wait(40), None);
    }
}
