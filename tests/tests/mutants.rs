//! Whether the simulator would find what it is there to find: faults put back, one at a time.
//!
//! Each has a budget of CPU seconds, which a busy machine does not shorten. `--nocapture` prints the table of
//! docs/evidence/mutants.md.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path, sync::Mutex};

use colony_sim::{Caught, Mutant, hunt};

/// CPU seconds for one mutant: the slowest to be caught takes a quarter of that.
const BUDGET: f64 = 60.0;

/// CPU seconds of this thread so far. Elsewhere than on Linux: none, and the number of runs is the budget.
fn cpu_seconds() -> Option<f64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos: f64 = statistics.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1e9)
}

fn caught(mutant: Mutant) -> (Option<Caught>, f64) {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/regressions");
    let began = cpu_seconds();
    let spent = || cpu_seconds().zip(began).map(|(now, began)| now - began);
    let caught = hunt(mutant, &regressions, &mut |runs| {
        spent().map_or(runs < 500, |seconds| seconds < BUDGET)
    });
    (caught, spent().unwrap_or_default())
}

#[expect(clippy::print_stdout, reason = "the table is what is asked for")]
fn all_are_caught(mutants: &[Mutant]) {
    let next = Mutex::new(mutants.iter());
    let results = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = { next.lock().unwrap().next() } {
                    let result = caught(*mutant);
                    results.lock().unwrap().insert(*mutant, result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    println!(
        "| mutant | what is wrong | caught by | world | runs | CPU s |\n|---|---|---|---|---|---|"
    );
    for (mutant, (caught, seconds)) in &results {
        let what = mutant.what();
        match caught {
            Some(Caught {
                property,
                world,
                seed,
                runs,
            }) => println!(
                "| {mutant} | {what} | {property} | {world} {seed} | {runs} | {seconds:.1} |"
            ),
            None => println!("| {mutant} | {what} | **nothing** | | | {seconds:.1} |"),
        }
    }
    let survivors: Vec<&Mutant> = results
        .iter()
        .filter(|(_, (caught, _))| caught.is_none())
        .map(|(mutant, _)| mutant)
        .collect();
    assert_eq!(survivors, Vec::<&Mutant>::new(), "these survive");
}

#[test]
#[ignore = "minutes: cargo test -p colony-tests --release --features mutants -- --ignored mutants"]
fn all_mutants_are_found() {
    all_are_caught(Mutant::ALL);
}

#[test]
#[ignore = "minutes, as above; the three by which to see that the harness itself works"]
fn three_mutants_are_found() {
    all_are_caught(&[Mutant::C11, Mutant::C20, Mutant::AckBeforeSync]);
}
