#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn kind(name: &str) -> TypeName {
    TypeName::new(name).unwrap()
}

fn agent(ordinal: u32) -> AgentId {
    AgentId {
        agent_type: kind("triage"),
        ordinal,
    }
}

fn task(number: u8, priority: Priority) -> TaskSummary {
    TaskSummary {
        task: TaskId::new(crate::unit::Timestamp::default(), [number; 10]),
        agent_type: kind("triage"),
        priority,
    }
}

fn plain() -> TaskSummary {
    task(1, Priority::NORMAL)
}

fn indifferent(_: &TaskSummary, _: &AgentId) -> Ratio {
    Ratio::ZERO
}

fn offers(agents: u32, rules: Rules) -> OfferBook {
    let mut offers = OfferBook::new(rules);
    for ordinal in 1..=agents {
        offers.offer(Offer::new(agent(ordinal)));
    }
    offers
}

/// Runs `rounds` batches of `batch` tasks; every agent succeeds with its own probability.
fn work(offers: &mut OfferBook, rounds: u32, batch: usize, rate: impl Fn(u32) -> f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let tasks = vec![plain(); batch];
    for _ in 0..rounds {
        for award in offers
            .award(&tasks, &indifferent, &mut rng)
            .into_iter()
            .flatten()
        {
            let lucky = f64::from(rng.next_u32()) / f64::from(u32::MAX);
            let outcome = if lucky <= rate(award.agent.ordinal) {
                Outcome::Success
            } else {
                Outcome::Failure
            };
            offers.free(&award.agent, outcome).unwrap();
        }
    }
}

fn counts(offers: &OfferBook) -> Vec<u64> {
    let awarded = offers.awarded(&kind("triage"));
    awarded.into_iter().map(|(_, count)| count).collect()
}

#[test]
fn equal_agents_get_equal_work() {
    for rate in [1.0, 0.9, 0.5] {
        let mut offers = offers(1_000, Rules::default());
        work(&mut offers, 400, 64, |_| rate);
        let counts = counts(&offers);
        let gini = gini(&counts);
        assert_eq!(counts.iter().sum::<u64>(), 25_600);
        assert!(gini < 0.3, "gini {gini} at success rate {rate}");
        let median = {
            let mut sorted = counts;
            sorted.sort_unstable();
            sorted[500]
        };
        assert!(median >= 20, "median {median} at success rate {rate}");
    }
}

#[test]
fn a_newcomer_gets_work_among_veterans() {
    let mut offers = offers(50, Rules::default());
    work(&mut offers, 100, 20, |_| 1.0);
    offers.offer(Offer::new(agent(51)));
    work(&mut offers, 50, 20, |_| 1.0);
    let newcomer = counts(&offers)[50];
    assert!(newcomer >= 20, "{newcomer} of 1000 tasks");
}

#[test]
fn a_failing_agent_gets_less_but_not_nothing() {
    let mut offers = offers(20, Rules::default());
    work(
        &mut offers,
        500,
        10,
        |ordinal| if ordinal == 1 { 0.2 } else { 0.95 },
    );
    let counts = counts(&offers);
    let mean = counts.iter().sum::<u64>() / 20;
    assert!(counts[0] * 2 < mean, "{} of a mean of {mean}", counts[0]);
    assert!(counts[0] > 0);
}

#[test]
fn doubt_shrinks_with_every_task() {
    assert!((SuccessCount::upper_bound(3.0, 1.0) - SuccessCount::NEWCOMER).abs() < 1e-15);
    let mut last = Ratio::clamped(1.1);
    for tasks in 0..100 {
        let bound = SuccessCount {
            tasks,
            successes: tasks,
        }
        .ucb();
        assert!(tasks == 0 || bound < last, "at {tasks}");
        last = bound;
    }
    let bad = SuccessCount {
        tasks: 10,
        successes: 2,
    };
    assert!(bad.ucb() < last);
}

#[test]
fn the_better_bid_wins() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let winner =
        |list: &[Offer], attraction: &dyn Fn(&TaskSummary, &AgentId) -> Ratio, rng: &mut _| {
            let mut offers = OfferBook::new(Rules::default());
            list.iter().cloned().for_each(|offer| offers.offer(offer));
            let award = offers.award(&[plain()], attraction, rng).remove(0).unwrap();
            assert_eq!(award.bidders, 2);
            award.agent.ordinal
        };
    let good = Offer::new(agent(2));
    let worse = Offer {
        track: SuccessCount {
            tasks: 5,
            successes: 1,
        },
        ..Offer::new(agent(1))
    };
    assert_eq!(winner(&[worse, good], &indifferent, &mut rng), 2);
    let equal = [Offer::new(agent(1)), Offer::new(agent(2))];
    assert_eq!(
        winner(&equal, &indifferent, &mut rng),
        1,
        "ties go to the lower number"
    );
    let drawn = |_: &TaskSummary, agent: &AgentId| Ratio::clamped(f64::from(agent.ordinal) / 2.0);
    assert_eq!(winner(&equal, &drawn, &mut rng), 2);
}

#[test]
fn the_urgent_task_gets_the_last_agent() {
    let tasks = [task(1, Priority::LOW), task(2, Priority::CRITICAL)];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let awards = offers(1, Rules::default()).award(&tasks, &indifferent, &mut rng);
    assert!(awards[0].is_none() && awards[1].is_some());
    let fifo = Rules {
        mode: Mode::Fifo,
        ..Rules::default()
    };
    let awards = offers(1, fifo).award(&tasks, &indifferent, &mut rng);
    assert!(awards[0].is_some() && awards[1].is_none());
}

#[test]
fn first_in_first_out_takes_the_longest_free() {
    let mut offers = offers(
        3,
        Rules {
            mode: Mode::Fifo,
            ..Rules::default()
        },
    );
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut next = |offers: &mut OfferBook| {
        offers.award(&[plain()], &indifferent, &mut rng)[0]
            .as_ref()
            .unwrap()
            .agent
            .ordinal
    };
    assert_eq!(next(&mut offers), 1);
    offers.free(&agent(1), Outcome::Neutral).unwrap();
    assert_eq!(next(&mut offers), 2);
    assert_eq!(next(&mut offers), 3);
    assert_eq!(next(&mut offers), 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut offers = offers(1, Rules::default());
    assert_eq!(
        offers.free(&agent(1), Outcome::Success),
        Err(Error::NotBusy(agent(1)))
    );
    assert!(!offers.suspend(&agent(9)));
    assert!(offers.withdraw(&agent(1)) && !offers.withdraw(&agent(1)));
    assert_eq!(
        offers.free(&agent(1), Outcome::Success),
        Err(Error::Unknown(agent(1)))
    );
}

#[test]
fn a_crash_does_not_improve_a_bid() {
    let mut offers = offers(2, Rules::default());
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let bound = |offers: &OfferBook| offers.track(&agent(1)).unwrap().ucb();
    let before = bound(&offers);
    let awarded = loop {
        let award = offers.award(&[plain()], &indifferent, &mut rng)[0].clone();
        let award = award.unwrap();
        if award.agent == agent(1) {
            break counts(&offers)[0];
        }
        offers.free(&award.agent, Outcome::Neutral).unwrap();
    };
    assert!(offers.suspend(&agent(1)));
    assert_eq!(offers.free_slots().values().sum::<u32>(), 1);
    let track = offers.track(&agent(1)).unwrap();
    offers.offer(Offer {
        track,
        ..Offer::new(agent(1))
    });
    assert!(bound(&offers) < before);
    assert_eq!(counts(&offers)[0], awarded, "what it had is remembered");
    assert_eq!(offers.free_slots().values().sum::<u32>(), 2);
}

#[test]
fn gini_knows_its_ends() {
    assert!(gini(&[]).abs() < 1e-12);
    assert!(gini(&[0, 0]).abs() < 1e-12);
    assert!(gini(&[5, 5, 5]).abs() < 1e-12);
    assert!((gini(&[0, 0, 0, 8]) - 0.75).abs() < 1e-12);
}

proptest! {
    /// No slot is awarded twice, none is lost, whatever the order of events.
    #[test]
    fn slots_are_conserved(
        events in proptest::collection::vec((0_u8..5, 1_u32..12, 1_u32..3), 1..200),
        fifo in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mode = if fifo { Mode::Fifo } else { Mode::Auction };
        let mut offers = OfferBook::new(Rules { mode, sample: 3, ..Rules::default() });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut offered: BTreeMap<u32, u32> = BTreeMap::new();
        let mut held: BTreeMap<u32, u32> = BTreeMap::new();
        for (event, ordinal, slots) in events {
            let agent = agent(ordinal);
            match event {
                0 => {
                    offers.offer(Offer { slots, ..Offer::new(agent) });
                    offered.insert(ordinal, slots);
                }
                1 => {
                    prop_assert_eq!(offers.withdraw(&agent), offered.remove(&ordinal).is_some());
                    held.remove(&ordinal);
                }
                2 => {
                    prop_assert_eq!(offers.suspend(&agent), offered.contains_key(&ordinal));
                    if let Some(slots) = offered.get_mut(&ordinal) { *slots = 0; }
                    held.remove(&ordinal);
                }
                3 => {
                    let holds = held.get(&ordinal).copied().unwrap_or(0) > 0;
                    prop_assert_eq!(offers.free(&agent, Outcome::Success).is_ok(), holds);
                    if holds { *held.entry(ordinal).or_default() -= 1; }
                }
                _ => {
                    let tasks = vec![task(1, Priority::NORMAL); 3];
                    for award in offers.award(&tasks, &indifferent, &mut rng).into_iter().flatten() {
                        let held = held.entry(award.agent.ordinal).or_default();
                        prop_assert!(*held < offered[&award.agent.ordinal]);
                        *held += 1;
                    }
                }
            }
            let free: u32 = offered.iter()
                .map(|(o, slots)| slots.saturating_sub(held.get(o).copied().unwrap_or(0)))
                .sum();
            prop_assert_eq!(offers.free_slots().values().sum::<u32>(), free);
        }
    }

    /// While agents are free, every task is awarded, and to different agents.
    #[test]
    fn every_task_finds_a_free_agent(agents in 1_u32..40, tasks in 1_usize..60, seed in any::<u64>()) {
        let mut offers = offers(agents, Rules::default());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let awards = offers.award(&vec![plain(); tasks], &indifferent, &mut rng);
        let winners: BTreeSet<_> = awards.iter().flatten().map(|a| a.agent.clone()).collect();
        prop_assert_eq!(winners.len(), tasks.min(agents as usize));
        prop_assert_eq!(awards.iter().flatten().count(), winners.len());
    }
}

/// Speed, by hand: `cargo test --release -p colony-core market_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a measurement"
)]
fn market_speed() {
    let mut offers = offers(1_000, Rules::default());
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    let tasks = vec![plain(); 64];
    let start = std::time::Instant::now();
    let rounds = 50_000;
    for _ in 0..rounds {
        for award in offers
            .award(&tasks, &indifferent, &mut rng)
            .into_iter()
            .flatten()
        {
            offers.free(&award.agent, Outcome::Success).unwrap();
        }
    }
    let nanos = start.elapsed().as_nanos() / (rounds * 64);
    println!(
        "{nanos} ns an award and free, gini {:.3}",
        gini(&counts(&offers))
    );
}
