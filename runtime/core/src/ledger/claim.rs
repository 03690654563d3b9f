//! Claiming: which ready tasks a node gets, and what taking one does.
//!
//! ```text
//!   ReadyGroup per (tenant, queue) ─┐
//!   free agents per queue ──────────┼─► plan_claim ─► Pick per (tenant, queue) ─► Select::Claimable ─► take
//!   Shares (who had how much) ──────┘
//! ```
//! Wanted properties: no (tenant, queue) starves while it has ready tasks and there are free agents for
//! them, whatever other nodes claim elsewhere; tenants that both have backlog are served in proportion to
//! their weights, in any stretch of claims, however few slots each claim has; who was away earns nothing by
//! it; inside a (tenant, queue) the lowest sort key comes first.
//!
//! The model is smooth weighted round robin, as nginx balances with it: for each task, everybody who could
//! have it earns its weight, and the richest gets it and pays what all have earned together; first among
//! tenants, then among the queues of the tenant. Credits are relative, exact, and stand still while one
//! cannot be served, so a tenant is not charged in one queue for what it had in another without
//! competition. Stride scheduling, which was here before, did: there a tenant's tasks starved in one
//! queue while another node served it in a second.

use std::collections::{BTreeMap, BTreeSet};

use super::{Holder, Policy, Stamp, TaskHead, Transition};
use crate::{
    id::{Incarnation, NodeId, QueueName, Tenant},
    mutant,
    task::State,
    unit::Timestamp,
};

/// The largest weight that has an effect of its own.
pub const WEIGHT_MAX: u32 = 10_000;

/// Ready tasks of one tenant in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyGroup {
    /// Whose.
    pub tenant: Tenant,
    /// Where.
    pub queue: QueueName,
    /// How many are claimable ([`Select::Claimable`](super::Select::Claimable)); a plan never takes more.
    pub count: u64,
}

/// Tasks to be taken from one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Whose.
    pub tenant: Tenant,
    /// Where.
    pub queue: QueueName,
    /// How many, the lowest sort keys first.
    pub count: u32,
}

/// The credit of each tenant and of each of its queues. Kept by the engine between claims, not durable:
/// after a restart everybody begins level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    tenants: BTreeMap<Tenant, Ratio>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ratio {
    credit: i64,
    queues: BTreeMap<QueueName, i64>,
}

impl Shares {
    /// Forgets who has nothing ready, and lets newcomers in behind all others: who comes back has earned
    /// nothing. What is remembered is bounded by what is ready.
    fn follow(&mut self, ready: &[ReadyGroup]) {
        let mut present: BTreeMap<&Tenant, BTreeSet<&QueueName>> = BTreeMap::new();
        for group in ready.iter().filter(|group| group.count > 0) {
            let queues = present.entry(&group.tenant).or_default();
            queues.insert(&group.queue);
        }
        self.tenants
            .retain(|tenant, _| present.contains_key(tenant));
        let last = self.tenants.values().map(|share| share.credit).min();
        for (tenant, present) in present {
            if !self.tenants.contains_key(tenant) {
                let share = Ratio {
                    credit: last.unwrap_or(0),
                    queues: BTreeMap::new(),
                };
                self.tenants.insert(tenant.clone(), share);
            }
            let Some(Ratio { queues, .. }) = self.tenants.get_mut(tenant) else {
                continue;
            };
            queues.retain(|queue, _| present.contains(queue));
            let last = queues.values().copied().min().unwrap_or(0);
            for queue in present {
                if !queues.contains_key(queue) {
                    queues.insert(queue.clone(), last);
                }
            }
        }
    }
}

/// A tenant that waits for a task to be given.
struct Contender<'a> {
    tenant: &'a Tenant,
    weight: i64,
    credit: &'a mut i64,
    lines: Vec<Line<'a>>,
}

/// One of its queues.
struct Line<'a> {
    queue: &'a QueueName,
    credit: &'a mut i64,
    /// Which of the claim's slots it takes.
    slot: usize,
    left: u64,
    taken: u32,
}

/// Whoever takes part in the round robin.
trait Earns {
    fn weight(&self) -> i64;
    fn credit(&mut self) -> &mut i64;
    fn is_open(&self, free: &[u32]) -> bool;
}

impl Earns for Contender<'_> {
    fn weight(&self) -> i64 {
        self.weight
    }

    fn credit(&mut self) -> &mut i64 {
        self.credit
    }

    fn is_open(&self, free: &[u32]) -> bool {
        self.lines.iter().any(|line| line.is_open(free))
    }
}

impl Earns for Line<'_> {
    fn weight(&self) -> i64 {
        1
    }

    fn credit(&mut self) -> &mut i64 {
        self.credit
    }

    fn is_open(&self, free: &[u32]) -> bool {
        self.left > 0 && free[self.slot] > 0
    }
}

/// Lets everybody who is open earn; the richest, the first among equals, is served and pays for it.
fn serve<'c, C: Earns>(all: &'c mut [C], free: &[u32]) -> Option<&'c mut C> {
    let mut earned = 0;
    let mut richest: Option<(usize, i64)> = None;
    for (index, one) in all.iter_mut().enumerate() {
        if one.is_open(free) {
            let weight = one.weight();
            earned += weight;
            let credit = one.credit();
            *credit += weight;
            if richest.is_none_or(|(_, most)| *credit > most && !mutant!(C1)) {
                richest = Some((index, *credit));
            }
        }
    }
    let served = &mut all[richest?.0];
    *served.credit() -= earned;
    Some(served)
}

/// Decides how many tasks are taken from which group: never more than `free` agents per queue have
/// slots for, and `total` in all. `ready` are the groups of the whole ledger, also those that this claim
/// has no agents for: who is not among them is forgotten by `shares`.
#[must_use]
pub fn plan_claim(
    ready: &[ReadyGroup],
    free: &BTreeMap<QueueName, u32>,
    shares: &mut Shares,
    total: u32,
    policy: &Policy,
) -> Vec<Pick> {
    shares.follow(ready);
    let mut contenders = contenders(ready, free, shares, policy);
    let mut free: Vec<u32> = free.values().copied().collect();
    for _ in 0..total {
        let served = serve(&mut contenders, &free);
        let Some(line) = served.and_then(|tenant| serve(&mut tenant.lines, &free)) else {
            break;
        };
        line.left -= 1;
        line.taken += 1;
        free[line.slot] -= 1;
    }
    let mut picks = Vec::new();
    for Contender { tenant, lines, .. } in contenders {
        picks.extend(lines.iter().filter(|line| line.taken > 0).map(|line| Pick {
            tenant: tenant.clone(),
            queue: line.queue.clone(),
            count: line.taken,
        }));
    }
    picks
}

/// Who waits for one of the free agents, in the order of names.
fn contenders<'a>(
    ready: &[ReadyGroup],
    free: &'a BTreeMap<QueueName, u32>,
    shares: &'a mut Shares,
    policy: &Policy,
) -> Vec<Contender<'a>> {
    let mut counts: BTreeMap<(&Tenant, &QueueName), u64> = BTreeMap::new();
    for group in ready {
        *counts.entry((&group.tenant, &group.queue)).or_default() += group.count;
    }
    let slots: BTreeMap<&QueueName, usize> = free.keys().zip(0..).collect();
    let mut contenders = Vec::new();
    for (tenant, share) in &mut shares.tenants {
        let lines = share.queues.iter_mut().filter_map(|(queue, credit)| {
            Some(Line {
                slot: *slots.get(queue)?,
                left: *counts.get(&(tenant, queue))?,
                queue,
                credit,
                taken: 0,
            })
        });
        let lines: Vec<_> = lines.collect();
        if !lines.is_empty() {
            let weight = policy.tenant_weights.get(tenant).copied().unwrap_or(1);
            contenders.push(Contender {
                tenant,
                weight: i64::from(weight.clamp(1, WEIGHT_MAX)),
                credit: &mut share.credit,
                lines,
            });
        }
    }
    contenders
}

/// What a claim request is, by what the ledger knows of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A new one: take tasks.
    Fresh,
    /// The last one once more: answer what it still holds, take nothing.
    Repeat,
    /// A copy of an older one, or a former life of the node: nobody waits for the answer, take nothing.
    Stale,
}

/// Tells a new claim from a repeat and from a copy that comes late. `known` is the incarnation that the
/// node registered last and the highest batch it was answered, none before its first claim.
#[must_use]
pub fn asked(
    known: Option<(Incarnation, Option<u64>)>,
    incarnation: Incarnation,
    batch: u64,
) -> Asked {
    match known {
        Some(_) if mutant!(StaleClaim) => Asked::Fresh,
        Some((current, last)) if current == incarnation => match last {
            Some(last) if batch == last => Asked::Repeat,
            Some(last) if batch < last => Asked::Stale,
            Some(_) | None => Asked::Fresh,
        },
        Some(_) | None => Asked::Stale,
    }
}

/// A node takes a claimable task.
#[must_use]
pub fn take(
    head: &TaskHead,
    node: &NodeId,
    incarnation: Incarnation,
    batch: u64,
    now: Timestamp,
) -> Transition {
    let mut after = head.clone();
    after.state = State::Claimed;
    after.revision += 1;
    if !mutant!(SameFence) {
        after.fence.0 += 1;
    }
    after.holder = Some(Holder {
        node: node.clone(),
        incarnation,
        batch,
    });
    after.updated_at = now;
    Transition::of(head, Stamp::of(head), after)
}

/// The wait of a ready task is over: it is claimable.
#[must_use]
pub fn due(head: &TaskHead) -> Transition {
    let mut after = head.clone();
    after.revision += 1;
    after.not_before = None;
    Transition::of(head, Stamp::of(head), after)
}
