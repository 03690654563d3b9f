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

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::{Holder, Policy, Stamp, TaskHead, Transition, retry::UNREADABLE_DELAY};
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
    tenants: BTreeMap<Tenant, TenantCredit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TenantCredit {
    credit: i64,
    queues: BTreeMap<QueueName, i64>,
}

impl Shares {
    /// Forgets who has nothing ready, and lets newcomers in behind all others: who comes back has earned
    /// nothing. What is remembered is bounded by what is ready.
    fn follow(&mut self, ready: &[(&Tenant, Vec<Backlog<'_>>)]) {
        follow(&mut self.tenants, ready.iter().map(|(tenant, _)| *tenant));
        for (share, (_, backlogs)) in self.tenants.values_mut().zip(ready) {
            follow(
                &mut share.queues,
                backlogs.iter().map(|backlog| backlog.queue),
            );
        }
    }
}

/// What has a credit among others.
trait Credited {
    fn credit(&self) -> i64;
    fn newcomer(credit: i64) -> Self;
}

impl Credited for TenantCredit {
    fn credit(&self) -> i64 {
        self.credit
    }

    fn newcomer(credit: i64) -> Self {
        let queues = BTreeMap::new();
        Self { credit, queues }
    }
}

impl Credited for i64 {
    fn credit(&self) -> i64 {
        *self
    }

    fn newcomer(credit: i64) -> Self {
        credit
    }
}

/// Makes the keys of `known` those that are `present`, which come in order: one walk along both.
fn follow<'a, K: Ord + Clone + 'a, C: Credited>(
    known: &mut BTreeMap<K, C>,
    present: impl Iterator<Item = &'a K>,
) {
    let mut present = present.peekable();
    let mut newcomers = Vec::new();
    known.retain(|key, _| {
        while let Some(newcomer) = present.next_if(|present| *present < key) {
            newcomers.push(newcomer);
        }
        present.next_if(|present| *present == key).is_some()
    });
    newcomers.extend(present);
    let last = known.values().map(C::credit).min().unwrap_or(0);
    for newcomer in newcomers {
        known.insert(newcomer.clone(), C::newcomer(last));
    }
}

/// What a tenant has ready in one queue.
struct Backlog<'a> {
    queue: &'a QueueName,
    count: u64,
}

/// Who has something ready, and where, in the order of names.
fn by_tenant(ready: &[ReadyGroup]) -> Vec<(&Tenant, Vec<Backlog<'_>>)> {
    let mut groups: Vec<&ReadyGroup> = ready.iter().filter(|group| group.count > 0).collect();
    groups.sort_by(|a, b| (&a.tenant, &a.queue).cmp(&(&b.tenant, &b.queue)));
    let tenants = groups.chunk_by(|a, b| a.tenant == b.tenant);
    tenants
        .map(|groups| {
            let queues = groups.chunk_by(|a, b| a.queue == b.queue);
            let backlogs = queues.map(|queue| Backlog {
                queue: &queue[0].queue,
                count: queue.iter().map(|group| group.count).sum(),
            });
            (&groups[0].tenant, backlogs.collect())
        })
        .collect()
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

impl Line<'_> {
    fn is_open(&self, free: &[u32]) -> bool {
        self.left > 0 && free[self.slot] > 0
    }
}

impl Contender<'_> {
    fn is_open(&self, free: &[u32]) -> bool {
        self.lines.iter().any(|line| line.is_open(free))
    }

    /// Gives a task to one of its queues: each that is open earns one, and the richest, the first among equals,
    /// pays for all. Returns the slot it takes.
    fn take(&mut self, free: &[u32]) -> Option<usize> {
        let mut earned = 0;
        let mut richest: Option<(usize, i64)> = None;
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.is_open(free) {
                earned += 1;
                *line.credit += 1;
                if richest.is_none_or(|(_, most)| *line.credit > most && !mutant!(C1)) {
                    richest = Some((index, *line.credit));
                }
            }
        }
        let line = &mut self.lines[richest?.0];
        *line.credit -= earned;
        line.left -= 1;
        line.taken += 1;
        Some(line.slot)
    }
}

/// Gives tasks to tenants one by one. For each of them everybody who is open earns its weight, and the richest, the
/// first among equals, is served and pays what all have earned.
///
/// Tenants of one weight earn alike: what a class has earned is kept once, and only who is served changes its place
/// in it. So a task costs a look at the first of each class, not at every tenant.
struct Round<'r, 'a> {
    contenders: &'r mut [Contender<'a>],
    classes: BTreeMap<i64, Class>,
}

/// The open tenants of one weight.
#[derive(Default)]
struct Class {
    /// What each of them has earned and does not have in its credit yet.
    earned: i64,
    /// By credit, the richest first.
    open: BinaryHeap<(i64, Reverse<usize>)>,
}

impl Class {
    fn put(&mut self, index: usize, credit: i64) {
        let credit = if mutant!(C1) { 0 } else { credit };
        self.open.push((credit, Reverse(index)));
    }

    fn richest(&self) -> Option<(i64, Reverse<usize>)> {
        let (credit, index) = self.open.peek()?;
        Some((credit + self.earned, *index))
    }
}

impl<'r, 'a> Round<'r, 'a> {
    fn begin(contenders: &'r mut [Contender<'a>], free: &[u32]) -> Self {
        let classes = BTreeMap::new();
        let mut round = Self {
            contenders,
            classes,
        };
        round.open(free);
        round
    }

    fn open(&mut self, free: &[u32]) {
        for (index, contender) in self.contenders.iter().enumerate() {
            if contender.is_open(free) {
                let class = self.classes.entry(contender.weight).or_default();
                class.put(index, *contender.credit);
            }
        }
    }

    /// Gives one task. None: nobody is open.
    fn give(&mut self, free: &mut [u32]) -> Option<()> {
        let mut earned = 0;
        let mut richest: Option<(i64, (i64, Reverse<usize>))> = None;
        for (weight, class) in &mut self.classes {
            earned += weight * i64::try_from(class.open.len()).unwrap_or(i64::MAX);
            class.earned += weight;
            if let Some(first) = class.richest()
                && richest.is_none_or(|(_, most)| first > most)
            {
                richest = Some((*weight, first));
            }
        }
        let (weight, (_, Reverse(index))) = richest?;
        let class = self.classes.get_mut(&weight)?;
        class.open.pop();
        let contender = &mut self.contenders[index];
        *contender.credit -= earned;
        let slot = contender.take(free)?;
        free[slot] -= 1;
        if contender.is_open(free) {
            class.put(index, *contender.credit);
        } else {
            *contender.credit += class.earned;
        }
        if free[slot] == 0 {
            // Others may have waited for nothing else.
            self.settle();
            self.open(free);
        }
        Some(())
    }

    /// Everybody has in its credit what it has earned.
    fn settle(&mut self) {
        for class in std::mem::take(&mut self.classes).into_values() {
            for (_, Reverse(index)) in class.open {
                *self.contenders[index].credit += class.earned;
            }
        }
    }
}

/// Decides how many tasks are taken from which group: never more than `free` agents per queue have
/// slots for, and `total` in all. `ready` are the groups of the whole ledger, also those that this claim
/// has no agents for: who is not among them is forgotten by `shares`. Takes time in proportion to the groups,
/// and for each task with the logarithm of their number.
#[must_use]
pub fn plan_claim(
    ready: &[ReadyGroup],
    free: &BTreeMap<QueueName, u32>,
    shares: &mut Shares,
    total: u32,
    policy: &Policy,
) -> Vec<Pick> {
    let ready = by_tenant(ready);
    shares.follow(&ready);
    let mut contenders = contenders(&ready, free, shares, policy);
    let mut free: Vec<u32> = free.values().copied().collect();
    let mut round = Round::begin(&mut contenders, &free);
    for _ in 0..total {
        if round.give(&mut free).is_none() {
            break;
        }
    }
    round.settle();
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

/// Who waits for one of the free agents, in the order of names. `shares` follow `ready`.
fn contenders<'a>(
    ready: &[(&Tenant, Vec<Backlog<'_>>)],
    free: &'a BTreeMap<QueueName, u32>,
    shares: &'a mut Shares,
    policy: &Policy,
) -> Vec<Contender<'a>> {
    let slots: BTreeMap<&QueueName, usize> = free.keys().zip(0..).collect();
    let mut contenders = Vec::new();
    for ((tenant, share), (_, backlogs)) in shares.tenants.iter_mut().zip(ready) {
        let queues = share.queues.iter_mut().zip(backlogs);
        let lines = queues.filter_map(|((queue, credit), backlog)| {
            Some(Line {
                slot: *slots.get(queue)?,
                left: backlog.count,
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

/// A ready task cannot be handed to anybody, for what it needs cannot be read: it waits, and the others go on.
#[must_use]
pub fn postpone(head: &TaskHead, now: Timestamp) -> Transition {
    let mut after = head.clone();
    after.revision += 1;
    after.not_before = Some(now.after(UNREADABLE_DELAY));
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
