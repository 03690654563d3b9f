#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use colony_core::id::{Incarnation, NodeId};
use colony_store::{MemoryLedger, Policy};

use super::*;

/// A clock that a test moves by hand.
#[derive(Debug)]
struct Hand(AtomicU64);

impl Hand {
    fn at(second: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(second * 1_000_000)))
    }

    fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

fn origin(incarnation: u64) -> Origin {
    Origin {
        node: NodeId::new("node-1").unwrap(),
        incarnation: Incarnation(incarnation),
    }
}

fn place(location: &str, subject: u32) -> Cell {
    Cell {
        tenant: Tenant::default(),
        location: Location::new(location).unwrap(),
        signal: Signal::Danger,
        subject: Subject::new(&subject.to_string()).unwrap(),
    }
}

async fn open(ledger: &Arc<dyn Ledger>, clock: &Arc<Hand>, life: u64, half_life: u64) -> Field {
    let half_lives = HalfLives {
        danger: Duration::from_secs(half_life),
        ..HalfLives::default()
    };
    let clock: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
    Field::open(half_lives, 10_000, origin(life), Arc::clone(ledger), clock)
        .await
        .unwrap()
}

fn ledger() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new(Policy::default(), Hand::at(0)))
}

fn near(share: Ratio, expected: f64) -> bool {
    (share.get() - expected).abs() < 1e-6
}

#[tokio::test]
async fn trails_fade_while_the_node_is_down_and_keep_their_law() {
    let (ledger, clock) = (ledger(), Hand::at(1_000));
    let field = open(&ledger, &clock, 1, 100).await;
    field.deposit(place("it", 1), Ratio::clamped(0.8)).unwrap();
    field.save().await.unwrap();
    drop(field);
    clock.pass(Duration::from_secs(100));
    // Another half-life in the configuration does not change a colony that exists.
    let field = open(&ledger, &clock, 2, 7).await;
    assert!(near(field.sense(&place("it", 1)), 0.4));
    // The new life adds to what the former one left.
    field.deposit(place("it", 1), Ratio::clamped(0.3)).unwrap();
    assert!(near(field.sense(&place("it", 1)), 0.7));
    clock.pass(Duration::from_secs(2_000));
    assert_eq!(field.compact(), 1);
    assert_eq!(field.sense(&place("it", 1)), Ratio::ZERO);
}

#[tokio::test]
async fn sensing_within_a_place_joins_all_shards_in_order() {
    let (ledger, clock) = (ledger(), Hand::at(1_000));
    let field = open(&ledger, &clock, 1, 100).await;
    for subject in 0..100 {
        field
            .deposit(place("it.network", subject), Ratio::ONE)
            .unwrap();
        field.deposit(place("itself", subject), Ratio::ONE).unwrap();
    }
    let found = field.sense_within(&Tenant::default(), &Location::new("it").unwrap());
    assert_eq!(found.len(), 100);
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let shards = field.inner.shards.iter();
    assert!(shards.filter(|shard| !shard.lock().is_empty()).count() > SHARDS / 2);
    let foreign = Tenant::new("other").unwrap();
    let it = Location::new("it").unwrap();
    assert!(field.sense_within(&foreign, &it).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deposits_from_many_sides_all_count() {
    let (ledger, clock) = (ledger(), Hand::at(1_000));
    let field = open(&ledger, &clock, 1, 100).await;
    let strength = Ratio::clamped(0.01);
    let sides = (0..8).map(|_| {
        let field = field.clone();
        tokio::task::spawn_blocking(move || {
            for subject in 0..10 {
                field.deposit(place("it", subject), strength).unwrap();
            }
        })
    });
    for side in sides.collect::<Vec<_>>() {
        side.await.unwrap();
    }
    for subject in 0..10 {
        assert!(near(field.sense(&place("it", subject)), 0.08));
    }
}

#[tokio::test]
async fn success_draws_and_danger_repels() {
    let (ledger, clock) = (ledger(), Hand::at(1_000));
    let field = open(&ledger, &clock, 1, 100).await;
    let pheromones = |ordinal| {
        let agent_type = TypeName::new("triage").unwrap();
        let agent = AgentId {
            agent_type,
            ordinal,
        };
        Pheromones::new(&Tenant::default(), &agent).unwrap()
    };
    field.reinforce(&pheromones(1).success, Ratio::clamped(0.5));
    field.reinforce(&pheromones(2).danger, Ratio::clamped(0.5));
    let attraction = |ordinal| field.attraction(&pheromones(ordinal));
    assert!(near(attraction(1), 0.75) && near(attraction(2), 0.25) && near(attraction(3), 0.5));
}
