#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const T0: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Work fades by half in a minute here.
fn half_lives() -> HalfLives {
    HalfLives {
        task: Duration::from_secs(60),
        ..HalfLives::default()
    }
}

fn law() -> DecayLaw {
    DecayLaw::new(T0, half_lives()).unwrap()
}

fn second(s: f64) -> Timestamp {
    T0.after(Duration::from_secs_f64(s))
}

fn cell(location: &str, signal: Signal) -> Cell {
    Cell {
        tenant: Tenant::default(),
        location: Location::new(location).unwrap(),
        signal,
        subject: Subject::new("triage/7").unwrap(),
    }
}

fn task_cell() -> Cell {
    cell("finance.reconciliation", Signal::Task)
}

fn origin(number: u64) -> Origin {
    Origin {
        node: NodeId::new(&format!("node-{number}")).unwrap(),
        incarnation: Incarnation(1),
    }
}

fn deposit(shard: &mut Shard, strength: f64, at: f64, origin: &Origin, now: f64) {
    let deposit = Deposit {
        cell: task_cell(),
        strength: Ratio::new(strength).unwrap(),
        at: second(at),
    };
    shard.deposit(&law(), deposit, origin, second(now)).unwrap();
}

fn sensed(shard: &Shard, now: f64) -> f64 {
    shard.sense(&law(), &task_cell(), second(now)).get()
}

#[test]
fn a_reading_halves_with_every_half_life() {
    for signal in Signal::ALL {
        let half_life = half_lives().of(signal).as_secs_f64();
        let mut shard = Shard::new(1);
        let cell = cell("a", signal);
        let deposit = Deposit {
            cell: cell.clone(),
            strength: Ratio::clamped(0.7),
            at: second(100.0),
        };
        shard
            .deposit(&law(), deposit, &origin(1), second(100.0))
            .unwrap();
        for lives in 0..8 {
            let now = second(100.0 + f64::from(lives) * half_life);
            let expected = 0.7 / f64::from(1 << lives);
            let read = shard.sense(&law(), &cell, now).get();
            assert!(
                (read - expected).abs() < 1e-6,
                "{signal:?} after {lives}: {read}"
            );
        }
    }
}

#[test]
fn a_slot_stops_at_one_and_the_sum_too() {
    let mut shard = Shard::new(8);
    for _ in 0..50 {
        deposit(&mut shard, 0.7, 10.0, &origin(1), 10.0);
        deposit(&mut shard, 1.0, 14.0, &origin(2), 10.0);
    }
    assert!((sensed(&shard, 10.0) - 1.0).abs() < 1e-12);
    // Two full slots: it takes one half-life before the sum is below one.
    assert!((sensed(&shard, 70.0) - 1.0).abs() < 1e-6);
    assert!((sensed(&shard, 130.0) - 0.5).abs() < 1e-6);
}

#[test]
fn the_future_is_refused() {
    let mut shard = Shard::new(8);
    let early = Deposit {
        cell: task_cell(),
        strength: Ratio::ONE,
        at: second(6.0),
    };
    let refused = shard.deposit(&law(), early, &origin(1), second(0.5));
    let ahead = Duration::from_millis(5_500);
    assert_eq!(refused, Err(Error::Future { ahead }));
    assert!(shard.is_empty());

    let mut liar = Shard::new(8);
    deposit(&mut liar, 1.0, 600.0, &origin(1), 600.0);
    let entry = liar.entries().next().unwrap();
    assert!(matches!(
        shard.merge(&law(), entry.clone(), second(1.0)),
        Err(Error::Future { .. })
    ));
    assert_eq!(shard.merge(&law(), entry.clone(), second(596.0)), Ok(true));
    let nonsense = Entry {
        level: Level::from(f64::NAN.to_bits()),
        ..entry.clone()
    };
    assert!(matches!(
        shard.merge(&law(), nonsense, second(1.0)),
        Err(Error::Level { .. })
    ));
    let endless = Entry {
        level: Level::from(f64::INFINITY.to_bits()),
        ..entry
    };
    assert!(matches!(
        shard.merge(&law(), endless, second(1.0)),
        Err(Error::Future { .. })
    ));
}

#[test]
fn decay_is_the_tombstone() {
    let mut shard = Shard::new(8);
    deposit(&mut shard, 0.5, 0.0, &origin(1), 0.0);
    let entry = shard.entries().next().unwrap();
    assert_eq!(shard.compact(&law(), second(60.0)), 0);
    assert_eq!(shard.compact(&law(), second(600.0)), 1);
    assert_eq!(shard.merge(&law(), entry, second(600.0)), Ok(false));
    assert!(shard.is_empty());
}

#[test]
fn sensing_within_a_place_sees_all_below_and_nothing_beside() {
    let mut shard = Shard::new(100);
    for location in [
        "finance",
        "finance-x",
        "finance.a",
        "finance.a.b",
        "financed",
        "legal",
    ] {
        let deposit = Deposit {
            cell: cell(location, Signal::Danger),
            strength: Ratio::ONE,
            at: second(0.0),
        };
        shard
            .deposit(&law(), deposit, &origin(1), second(0.0))
            .unwrap();
    }
    let foreign = Tenant::new("other").unwrap();
    let finance = Location::new("finance").unwrap();
    let law = law();
    let seen = |tenant: &Tenant| -> Vec<String> {
        shard
            .sense_within(&law, tenant, &finance, second(1.0))
            .map(|(cell, _)| cell.location.to_string())
            .collect()
    };
    assert_eq!(
        seen(&Tenant::default()),
        ["finance", "finance.a", "finance.a.b"]
    );
    assert!(seen(&foreign).is_empty());
}

#[test]
fn a_full_shard_drops_the_faintest() {
    let mut shard = Shard::new(16);
    let put = |shard: &mut Shard, number: u32| {
        let deposit = Deposit {
            cell: cell(&format!("place-{number:02}"), Signal::Task),
            strength: Ratio::clamped(f64::from(number) / 100.0),
            at: second(0.0),
        };
        shard
            .deposit(&law(), deposit, &origin(1), second(0.0))
            .unwrap();
    };
    for number in (1..=17).rev() {
        put(&mut shard, number);
    }
    let places: Vec<String> = shard
        .entries()
        .map(|e| e.cell.location.to_string())
        .collect();
    assert_eq!(places.len(), 14);
    assert_eq!(
        places[..2],
        ["place-01", "place-05"],
        "the newest is let in, three faint ones went"
    );
    // What has faded goes first, and nothing else with it.
    let mut shard = Shard::new(2);
    deposit(&mut shard, 0.5, 0.0, &origin(1), 0.0);
    put(&mut shard, 50);
    let fresh = Deposit {
        cell: cell("elsewhere", Signal::Task),
        strength: Ratio::ONE,
        at: second(3_000.0),
    };
    shard
        .deposit(&law(), fresh, &origin(1), second(3_000.0))
        .unwrap();
    assert_eq!(shard.len(), 1);
}

#[test]
fn places_are_checked() {
    for bad in [
        "",
        ".",
        "a..b",
        "a.",
        "A",
        "a b",
        "ä",
        "a\0",
        "1.2.3.4.5.6.7.8.9",
    ] {
        assert!(Location::new(bad).is_err(), "{bad:?}");
    }
    assert!(Location::new(&"a".repeat(129)).is_err());
    assert!(Location::new("finance.reconciliation").is_ok());
    assert!(Subject::new("").is_err() && Subject::new("a\nb").is_err());
    assert!(Subject::new("card lost ☂").is_ok());
    let none = HalfLives {
        task: Duration::ZERO,
        ..HalfLives::default()
    };
    assert_eq!(
        DecayLaw::new(T0, none),
        Err(Error::HalfLife {
            signal: Signal::Task
        })
    );
}

/// (strength, moment in seconds, origin)
fn deposits() -> impl Strategy<Value = Vec<(f64, f64, u64)>> {
    proptest::collection::vec((0.0..0.05_f64, 0.0..120.0_f64, 0_u64..3), 1..20)
}

fn filled(deposits: &[(f64, f64, u64)]) -> Shard {
    let mut shard = Shard::new(8);
    for (strength, at, from) in deposits {
        deposit(&mut shard, *strength, *at, &origin(*from), 120.0);
    }
    shard
}

fn merged(into: &mut Shard, from: &Shard) {
    for entry in from.entries() {
        into.merge(&law(), entry, second(120.0)).unwrap();
    }
}

fn content(shard: &Shard) -> Vec<Entry> {
    shard.entries().collect()
}

proptest! {
    #[test]
    fn the_order_of_deposits_does_not_matter(deposits in deposits()) {
        let mut backwards = deposits.clone();
        backwards.reverse();
        let (a, b) = (filled(&deposits), filled(&backwards));
        for now in [120.0, 150.0, 300.0] {
            prop_assert!((sensed(&a, now) - sensed(&b, now)).abs() < 1e-9);
        }
        let truth: f64 = deposits.iter()
            .map(|(d, at, _)| d * libm::exp(-std::f64::consts::LN_2 / 60.0 * (120.0 - at)))
            .sum();
        prop_assert!((sensed(&a, 120.0) - truth.min(1.0)).abs() < 1e-6);
    }

    #[test]
    fn merging_is_idempotent_commutative_and_associative(
        a in deposits(), b in deposits(), c in deposits()
    ) {
        let (a, b, c) = (filled(&a), filled(&b), filled(&c));
        let union = |parts: &[&Shard]| {
            let mut all = Shard::new(8);
            parts.iter().for_each(|part| merged(&mut all, part));
            all
        };
        prop_assert_eq!(content(&union(&[&a, &a])), content(&union(&[&a])));
        prop_assert_eq!(content(&union(&[&a, &b])), content(&union(&[&b, &a])));
        let left = union(&[&union(&[&a, &b]), &c]);
        let right = union(&[&a, &union(&[&b, &c])]);
        prop_assert_eq!(content(&left), content(&right));
    }

    #[test]
    fn readings_stay_between_nothing_and_one_and_only_fall(
        strengths in proptest::collection::vec((0.0..=1.0_f64, 0_u64..3), 1..40)
    ) {
        let mut shard = Shard::new(8);
        for (i, (strength, from)) in strengths.iter().enumerate() {
            deposit(&mut shard, *strength, i as f64, &origin(*from), i as f64);
        }
        let readings: Vec<f64> = (40..200).map(|now| sensed(&shard, f64::from(now))).collect();
        prop_assert_eq!(crate::property::fades(&readings), Ok(()));
    }

    #[test]
    fn a_level_survives_json_to_the_last_bit(deposits in deposits()) {
        let before = content(&filled(&deposits));
        let text = serde_json::to_string(&before).unwrap();
        prop_assert_eq!(before, serde_json::from_str::<Vec<Entry>>(&text).unwrap());
    }
}
