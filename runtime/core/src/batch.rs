//! Which waiting requests a model works on next.
//!
//! ```text
//!   waiting (in order of arrival) ──► FairQueue::order ──► encode_next: one batch, padded
//!                                                 └──► decode_next: who joins the running rows now
//! ```
//! Called by the inference workers, whose queues hold the requests; here is only the choice. Promises:
//!
//! - urgent before less urgent, but whoever waited [`MAX_WAIT`] goes before all others, so nobody
//!   starves behind a stream of urgent requests;
//! - between equally urgent ones tenants take turns, whatever the length of their queues;
//! - who stands first is always served first: others may fill up the batch beside it, never delay it;
//! - whoever is past its deadline is named and never run;
//! - the token budget holds, padding included, except for a single request larger than the budget;
//! - whoever was in a call that failed is computed alone, before all others ([`blame`]).
//!
//! Nobody waits for a batch to fill up: the next one gathers by itself while the present one is computed.

mod recovery;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use self::recovery::{Blame, CallFailure, PANICS_ALONE_MAX, blame, reopen_delay};
use crate::{
    id::Tenant,
    task::Priority,
    unit::{Ratio, Timestamp},
};

/// After this wait a request is overdue and goes before all others. Longer than any queue of a healthy node.
pub const MAX_WAIT: Duration = Duration::from_secs(10);

/// A waiting request as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Tokens of its text or prompt.
    pub tokens: usize,
    /// Most tokens of its answer; 0 for an encoder.
    pub answer_tokens: usize,
    /// When it came.
    pub enqueued_at: Timestamp,
    /// After this moment nobody wants the answer.
    pub deadline: Option<Timestamp>,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is.
    pub tenant: Tenant,
    /// A call that it was in has failed: it is computed alone.
    pub alone: bool,
}

/// What to do with the waiting requests, by their numbers in the slice handed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Run these: for an encoder shortest first, for a decoder in the order of joining.
    pub run: Vec<usize>,
    /// Their deadline has passed: answer so, and drop them.
    pub late: Vec<usize>,
}

/// Limits of an encoder's batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderLimits {
    /// Most rows of a batch.
    pub rows_max: usize,
    /// Most tokens of a batch, padding included: rows × longest row.
    pub tokens_max: usize,
    /// Most padding, as a share of the batch's tokens.
    pub padding_max: Ratio,
}

impl Default for EncoderLimits {
    fn default() -> Self {
        Self {
            // Measured on two cores: nothing is gained from 8 to 32 rows, and latency is lost.
            rows_max: 32,
            tokens_max: 2_048,
            // Half: above it two batches would be cheaper than one.
            padding_max: Ratio::clamped(0.5),
        }
    }
}

/// Limits of a decoder's running rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Most rows that decode at once.
    pub rows_max: usize,
    /// Most tokens all rows may come to, prompts and longest answers.
    pub cache_tokens_max: usize,
    /// Most prompt tokens read between two decode steps; the first to join is always read whole.
    pub prefill_tokens_max: usize,
}

impl Default for DecoderLimits {
    fn default() -> Self {
        Self {
            rows_max: 16,
            cache_tokens_max: 8_192,
            prefill_tokens_max: 512,
        }
    }
}

/// What a decoder has under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Running {
    /// Rows that decode.
    pub rows: usize,
    /// Tokens they may come to, prompts and longest answers.
    pub cache_tokens: usize,
    /// The one row there is has to stay alone ([`Waiting::alone`]).
    pub alone: bool,
}

/// Fair shares: how often each tenant with waiting requests was served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FairQueue {
    served: BTreeMap<Tenant, u64>,
}

impl FairQueue {
    /// The numbers of `waiting` (in order of arrival) in the order in which to serve them: the
    /// overdue, then by priority, then tenants in turn, then by arrival.
    pub fn order(&mut self, waiting: &[Waiting], now: Timestamp) -> Vec<usize> {
        // A tenant that returns starts level with the one served least: no credit for absence.
        let present: BTreeSet<&Tenant> = waiting.iter().map(|it| &it.tenant).collect();
        self.served.retain(|tenant, _| present.contains(tenant));
        let least = self.served.values().min().copied().unwrap_or(0);
        let mut turns: BTreeMap<&Tenant, u64> = BTreeMap::new();
        for tenant in present {
            let served = self.served.entry(tenant.clone()).or_insert(least);
            turns.insert(tenant, *served);
        }
        let mut keys: Vec<_> = waiting
            .iter()
            .enumerate()
            .map(|(number, it)| {
                let turn = turns.entry(&it.tenant).or_insert(least);
                *turn += 1;
                let overdue = now.since(it.enqueued_at) >= MAX_WAIT;
                // The overdue are served strictly by arrival, whatever their urgency.
                let urgency = (!overdue).then_some((Reverse(it.priority), *turn));
                (urgency, number)
            })
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, number)| number).collect()
    }

    fn note_served(&mut self, tenant: &Tenant) {
        if let Some(served) = self.served.get_mut(tenant) {
            *served += 1;
        }
    }
}

/// Chooses an encoder's next batch: the first in order, and after it, in order, everybody who fits
/// beside it without breaking a limit.
#[must_use]
pub fn encode_next(
    waiting: &[Waiting],
    fair_queue: &mut FairQueue,
    limits: &EncoderLimits,
    now: Timestamp,
) -> Plan {
    let late = late(waiting, now);
    if let Some(number) = first_alone(waiting, &late) {
        let run = vec![number];
        return Plan { run, late };
    }
    let (mut run, mut longest, mut tokens) = (Vec::new(), 0, 0);
    for number in fair_queue.order(waiting, now) {
        if late.contains(&number) {
            continue;
        }
        if run.len() >= limits.rows_max.max(1) {
            break;
        }
        let own = waiting[number].tokens;
        let (with_it, sum) = (longest.max(own), tokens + own);
        let padded = (run.len() + 1) * with_it;
        let fits = padded <= limits.tokens_max && padding(padded, sum) <= limits.padding_max;
        if run.is_empty() || fits {
            (longest, tokens) = (with_it, sum);
            run.push(number);
        }
    }
    for number in &run {
        fair_queue.note_served(&waiting[*number].tenant);
    }
    run.sort_by_key(|number| waiting[*number].tokens);
    Plan { run, late }
}

/// Chooses who joins a decoder's running rows before the next step. Nobody overtakes the first whose
/// cache does not fit yet: it would wait for ever behind smaller ones.
#[must_use]
pub fn decode_next(
    waiting: &[Waiting],
    running: Running,
    fair_queue: &mut FairQueue,
    limits: &DecoderLimits,
    now: Timestamp,
) -> Plan {
    let late = late(waiting, now);
    let mut run = Vec::new();
    let Running {
        mut rows,
        mut cache_tokens,
        alone,
    } = running;
    if alone {
        return Plan { run, late };
    }
    if let Some(number) = first_alone(waiting, &late) {
        if rows == 0 {
            run.push(number);
        }
        return Plan { run, late };
    }
    let mut prefill_tokens = 0;
    for number in fair_queue.order(waiting, now) {
        if late.contains(&number) {
            continue;
        }
        let it = &waiting[number];
        let with_it = cache_tokens + it.tokens + it.answer_tokens;
        // Alone, a request larger than the cache is let through: the worker has to refuse it at admission.
        let has_place =
            rows < limits.rows_max.max(1) && (rows == 0 || with_it <= limits.cache_tokens_max);
        let read = prefill_tokens + it.tokens;
        if !has_place || !(run.is_empty() || read <= limits.prefill_tokens_max) {
            break;
        }
        (rows, cache_tokens, prefill_tokens) = (rows + 1, with_it, read);
        fair_queue.note_served(&it.tenant);
        run.push(number);
    }
    Plan { run, late }
}

fn late(waiting: &[Waiting], now: Timestamp) -> Vec<usize> {
    let is_late = |it: &Waiting| it.deadline.is_some_and(|deadline| deadline <= now);
    (0..waiting.len())
        .filter(|number| is_late(&waiting[*number]))
        .collect()
}

/// The first that is to be computed alone.
fn first_alone(waiting: &[Waiting], late: &[usize]) -> Option<usize> {
    (0..waiting.len()).find(|number| waiting[*number].alone && !late.contains(number))
}

/// The share of `padded` tokens that are padding.
#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn padding(padded: usize, tokens: usize) -> Ratio {
    if padded == 0 {
        return Ratio::ZERO;
    }
    Ratio::clamped((padded - tokens) as f64 / padded as f64)
}

#[cfg(test)]
mod tests;
