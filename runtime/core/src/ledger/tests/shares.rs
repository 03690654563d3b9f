//! Who is served by claims: bounds, shares by weight, and that nobody starves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tenant;
use crate::{
    id::{QueueName, Tenant},
    ledger::{Pick, Policy, ReadyGroup, Shares, plan_claim},
};

const TENANTS: [&str; 4] = ["acme", "bell", "core", "zoo"];
const QUEUES: [&str; 3] = ["x", "y", "z"];

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn group(tenant_name: &str, queue_name: &str, count: u64) -> ReadyGroup {
    ReadyGroup {
        tenant: tenant(tenant_name),
        queue: queue(queue_name),
        count,
    }
}

fn free(slots: &[u32]) -> BTreeMap<QueueName, u32> {
    let named = QUEUES.iter().zip(slots);
    named.map(|(name, slots)| (queue(name), *slots)).collect()
}

fn policy(weights: &[(&str, u32)]) -> Policy {
    let weights = weights.iter().map(|(name, weight)| (tenant(name), *weight));
    Policy {
        tenant_weights: weights.collect(),
        ..Policy::default()
    }
}

fn taken(picks: &[Pick], tenant: &Tenant) -> u64 {
    let of = picks.iter().filter(|pick| pick.tenant == *tenant);
    of.map(|pick| u64::from(pick.count)).sum()
}

fn groups() -> impl Strategy<Value = Vec<ReadyGroup>> {
    let counts = prop::collection::vec(prop_oneof![Just(0), 0..3_u64, 0..500_u64], 12);
    counts.prop_map(|counts| {
        let pairs = TENANTS
            .iter()
            .flat_map(|t| QUEUES.iter().map(move |q| (t, q)));
        pairs
            .zip(counts)
            .map(|((t, q), count)| group(t, q, count))
            .collect()
    })
}

fn slots() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![Just(0), 0..3_u32, 0..300_u32], 3)
}

/// Smooth weighted round robin as it is defined, with a look at everybody for every task.
#[derive(Default)]
struct Model {
    tenants: BTreeMap<Tenant, i64>,
    queues: BTreeMap<(Tenant, QueueName), i64>,
}

impl Model {
    fn plan(
        &mut self,
        ready: &[ReadyGroup],
        mut free: BTreeMap<QueueName, u32>,
        total: u32,
        policy: &Policy,
    ) -> BTreeMap<(Tenant, QueueName), u32> {
        let ready = ready.iter().filter(|group| group.count > 0);
        let mut left: BTreeMap<_, _> = ready
            .map(|group| ((group.tenant.clone(), group.queue.clone()), group.count))
            .collect();
        let present = |tenant: &Tenant| left.keys().any(|(present, _)| present == tenant);
        self.tenants.retain(|tenant, _| present(tenant));
        self.queues.retain(|key, _| left.contains_key(key));
        let behind = self.tenants.values().min().copied().unwrap_or(0);
        let queues = self.queues.clone();
        for (tenant, queue) in left.keys() {
            self.tenants.entry(tenant.clone()).or_insert(behind);
            let own = queues.iter().filter(|((owner, _), _)| owner == tenant);
            let behind = own.map(|(_, credit)| *credit).min().unwrap_or(0);
            let key = (tenant.clone(), queue.clone());
            self.queues.entry(key).or_insert(behind);
        }
        let mut taken = BTreeMap::new();
        for _ in 0..total {
            let open: Vec<_> = left
                .iter()
                .filter(|((_, queue), count)| **count > 0 && free.get(queue) > Some(&0))
                .map(|(key, _)| key.clone())
                .collect();
            let mut tenants: Vec<_> = open.iter().map(|(tenant, _)| tenant).collect();
            tenants.dedup();
            let weight = |tenant: &Tenant| i64::from(policy.tenant_weights[tenant]);
            let Some(tenant) = serve(&mut self.tenants, &tenants, |tenant| weight(tenant)) else {
                break;
            };
            let queues: Vec<_> = open.iter().filter(|(owner, _)| *owner == tenant).collect();
            let key = serve(&mut self.queues, &queues, |_| 1).unwrap();
            *left.get_mut(&key).unwrap() -= 1;
            *free.get_mut(&key.1).unwrap() -= 1;
            *taken.entry(key).or_default() += 1;
        }
        taken
    }
}

/// Everybody of `open`, which is in order, earns; the richest, the first among equals, pays for all.
fn serve<K: Ord + Clone>(
    credits: &mut BTreeMap<K, i64>,
    open: &[&K],
    weight: impl Fn(&K) -> i64,
) -> Option<K> {
    for one in open {
        *credits.get_mut(one).unwrap() += weight(one);
    }
    let richest = open.iter().rev().max_by_key(|one| credits[one])?;
    *credits.get_mut(richest).unwrap() -= open.iter().map(|one| weight(one)).sum::<i64>();
    Some((*richest).clone())
}

proptest! {
    /// Never more than is ready, than is free, than was asked for; and never less.
    #[test]
    fn a_claim_takes_all_it_may_and_no_more(
        rounds in prop::collection::vec((groups(), slots(), 0..400_u32), 1..6),
    ) {
        let (policy, mut shares) = (policy(&[("zoo", 3)]), Shares::default());
        for (ready, slots, total) in rounds {
            let free = free(&slots);
            let picks = plan_claim(&ready, &free, &mut shares, total, &policy);
            let mut possible = 0;
            for (queue, slots) in &free {
                let there: u64 = ready.iter().filter(|g| g.queue == *queue).map(|g| g.count).sum();
                possible += there.min(u64::from(*slots));
                let of = picks.iter().filter(|pick| pick.queue == *queue);
                let of: u32 = of.map(|pick| pick.count).sum();
                prop_assert!(of <= *slots, "{of} of {queue}, {slots} are free");
            }
            for pick in &picks {
                let group = ready.iter().find(|g| g.tenant == pick.tenant && g.queue == pick.queue);
                prop_assert!(u64::from(pick.count) <= group.unwrap().count && pick.count > 0);
            }
            let all: u64 = picks.iter().map(|pick| u64::from(pick.count)).sum();
            prop_assert_eq!(all, possible.min(u64::from(total)));
        }
    }

    /// Two tenants with backlog in the same queues get what their weights say, 3 : 1, between any two
    /// claims, however many tasks a claim has and however many slots a queue; with one task a claim that is
    /// any window of tasks.
    #[test]
    fn weights_are_kept_in_any_window(
        claims in prop::collection::vec((slots(), 1..=256_u32), 1..60),
        one_by_one in any::<bool>(),
    ) {
        let (policy, mut shares) = (policy(&[("zoo", 3)]), Shares::default());
        let ready: Vec<_> = QUEUES
            .iter()
            .flat_map(|q| [group("acme", q, 1_000), group("zoo", q, 1_000)])
            .collect();
        // (tasks, tasks of zoo) before each claim and after the last.
        let mut history = vec![(0_u64, 0_u64)];
        for (slots, total) in claims {
            let total = if one_by_one { 1 } else { total };
            let picks = plan_claim(&ready, &free(&slots), &mut shares, total, &policy);
            let (all, zoo) = history[history.len() - 1];
            let zoo_taken = taken(&picks, &tenant("zoo"));
            history.push((all + taken(&picks, &tenant("acme")) + zoo_taken, zoo + zoo_taken));
        }
        for (i, (all, zoo)) in history.iter().enumerate() {
            for (all_later, zoo_later) in &history[i..] {
                let (n, of_zoo) = (all_later - all, zoo_later - zoo);
                prop_assert!((3 * n).abs_diff(4 * of_zoo) <= 8, "{of_zoo} of {n} are zoo's");
            }
        }
    }

    /// Credits, step for step as the model says it.
    #[test]
    fn a_plan_is_what_smooth_weighted_round_robin_gives(
        weights in prop::collection::vec(1..=4_u32, 4),
        claims in prop::collection::vec((groups(), slots(), 0..100_u32), 1..20),
    ) {
        let named: Vec<_> = TENANTS.into_iter().zip(weights).collect();
        let (policy, mut shares) = (policy(&named), Shares::default());
        let mut model = Model::default();
        for (ready, slots, total) in claims {
            let free = free(&slots);
            let picks = plan_claim(&ready, &free, &mut shares, total, &policy);
            let picks = picks.into_iter().map(|pick| ((pick.tenant, pick.queue), pick.count));
            let picks: BTreeMap<_, _> = picks.collect();
            prop_assert_eq!(picks, model.plan(&ready, free, total, &policy));
        }
    }

    /// A claim of many is as many claims of one.
    #[test]
    fn the_size_of_a_claim_changes_nothing(ready in groups(), slots in slots(), total in 1..256_u32) {
        let (policy, free) = (policy(&[("zoo", 3)]), free(&slots));
        let (mut whole, mut parts) = (Shares::default(), Shares::default());
        let picks = plan_claim(&ready, &free, &mut whole, total, &policy);
        let mut sum: BTreeMap<(Tenant, QueueName), u32> = BTreeMap::new();
        let (mut left, mut free) = (ready.clone(), free);
        for _ in 0..total {
            for pick in plan_claim(&left, &free, &mut parts, 1, &policy) {
                let of = |g: &&mut ReadyGroup| g.tenant == pick.tenant && g.queue == pick.queue;
                left.iter_mut().find(of).unwrap().count -= 1;
                *free.get_mut(&pick.queue).unwrap() -= 1;
                *sum.entry((pick.tenant, pick.queue)).or_default() += 1;
            }
        }
        let picks = picks.into_iter().map(|pick| ((pick.tenant, pick.queue), pick.count));
        prop_assert_eq!(picks.collect::<BTreeMap<_, _>>(), sum);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A group with backlog is served at the latest after so many tasks of claims that had a free agent for
    /// it, whatever claims without one did in between, and whoever else comes and goes.
    #[test]
    fn nobody_starves(
        weights in prop::collection::vec(1..=10_u32, 4),
        claims in prop::collection::vec((groups(), slots(), 1..20_u32), 60),
    ) {
        let named: Vec<_> = TENANTS.into_iter().zip(weights.iter().copied()).collect();
        let (policy, mut shares) = (policy(&named), Shares::default());
        let all: u32 = weights.iter().sum();
        // Once around the tenants by weight for each queue, and twice that for those who come and go.
        let bound = u64::from(3 * (all / weights[0] + 4)) * 3;
        let mut waited = 0;
        for (mut ready, slots, total) in claims {
            let mine = ready.iter_mut().find(|g| g.tenant == tenant("acme") && g.queue == queue("x"));
            mine.unwrap().count = 1_000;
            let free = free(&slots);
            let picks = plan_claim(&ready, &free, &mut shares, total, &policy);
            let mine = picks.iter().any(|p| p.tenant == tenant("acme") && p.queue == queue("x"));
            if mine {
                waited = 0;
            } else if slots[0] > 0 {
                waited += picks.iter().map(|pick| u64::from(pick.count)).sum::<u64>();
            }
            prop_assert!(waited <= bound, "waited for {waited} tasks, the bound is {bound}");
        }
    }
}

/// Two nodes with different agents: what one does for a tenant is not charged to it at the other's.
#[test]
fn a_queue_does_not_starve_because_its_tenant_is_served_elsewhere() {
    let (policy, mut shares) = (Policy::default(), Shares::default());
    let ready = [
        group("acme", "x", 100),
        group("acme", "y", 100),
        group("zoo", "x", 100),
    ];
    let (mut of_acme, mut of_zoo) = (0, 0);
    for _ in 0..100 {
        let _ = plan_claim(&ready, &free(&[0, 1]), &mut shares, 1, &policy);
        let picks = plan_claim(&ready, &free(&[1]), &mut shares, 1, &policy);
        of_acme += taken(&picks, &tenant("acme"));
        of_zoo += taken(&picks, &tenant("zoo"));
    }
    assert_eq!((of_acme, of_zoo), (50, 50));
}

#[test]
fn a_tenant_that_was_away_earns_no_burst() {
    let (policy, mut shares) = (policy(&[("zoo", 3)]), Shares::default());
    let both = [group("acme", "x", 1_000), group("zoo", "x", 1_000)];
    let one = free(&[1]);
    for away in [1, 10, 1_000] {
        for _ in 0..away {
            let _ = plan_claim(&both[..1], &one, &mut shares, 1, &policy);
        }
        let mut served = Vec::new();
        for _ in 0..100 {
            let picks = plan_claim(&both, &one, &mut shares, 1, &policy);
            served.push(taken(&picks, &tenant("zoo")));
        }
        let of_zoo: u64 = served.iter().sum();
        assert!(
            (74..=77).contains(&of_zoo),
            "{of_zoo} of 100 after {away} without it"
        );
        assert!(
            served.windows(5).all(|five| five.iter().sum::<u64>() < 5),
            "{served:?}"
        );
    }
}

/// What is not ready is forgotten: tenants and queues come and go without end.
#[test]
fn shares_remember_nobody_who_has_nothing() {
    let (policy, mut shares) = (Policy::default(), Shares::default());
    for n in 0..100 {
        let ready = [
            group(&format!("tenant{n}"), "x", 5),
            group(&format!("tenant{n}"), "y", 5),
        ];
        let _ = plan_claim(&ready, &free(&[3, 3]), &mut shares, 4, &policy);
    }
    let _ = plan_claim(&[], &free(&[3]), &mut shares, 4, &policy);
    assert_eq!(shares, Shares::default());
}

/// What a claim costs where many tenants have backlog.
#[test]
#[ignore = "a bench"]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "it measures"
)]
fn a_claim_among_many_tenants() {
    let (policy, mut shares) = (Policy::default(), Shares::default());
    let ready: Vec<_> = (0..30_000)
        .map(|n| group(&format!("tenant{n}"), "x", 5))
        .collect();
    for total in [1, 16, 256] {
        let began = std::time::Instant::now();
        for _ in 0..20 {
            let picks = plan_claim(&ready, &free(&[256]), &mut shares, total, &policy);
            assert_eq!(picks.iter().map(|pick| pick.count).sum::<u32>(), total);
        }
        println!(
            "{total} of 30,000 tenants: {:?} a claim",
            began.elapsed() / 20
        );
    }
}
