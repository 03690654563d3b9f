//! One seed, one history: in two processes.

use std::{path::Path, process::Command};

use colony_sim::{Report, Workload, run};

/// Set in the child process: the seed to run, whose hash it prints.
const SEED: &str = "COLONY_SIM_TEST_SEED";

fn quickstart(seed: u64) -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/quickstart.toml");
    let workload = Workload::read(&path).expect("a workload");
    run(&workload, seed).expect("a run that is safe and ends")
}

fn in_another_process(seed: u64) -> String {
    let this = std::env::current_exe().expect("this test");
    let output = Command::new(this)
        .args(["--exact", "child", "--nocapture", "--ignored"])
        .env(SEED, seed.to_string())
        .output()
        .expect("a child");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("history_hash="));
    line.unwrap_or_else(|| panic!("no hash in {text}"))
        .to_owned()
}

#[test]
#[ignore = "run by the other test in a process of its own"]
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn child() {
    if let Ok(seed) = std::env::var(SEED) {
        let report = quickstart(seed.parse().expect("a seed"));
        println!("\nhistory_hash={}", report.history_hash);
    }
}

#[test]
fn one_seed_gives_one_history_in_two_processes_and_another_seed_another() {
    let first = in_another_process(7);
    let second = in_another_process(7);
    assert_eq!(first, second);
    assert_ne!(first, in_another_process(8));
}

#[test]
fn everything_acknowledged_ends_in_spite_of_a_cut_and_a_crash() {
    let report = quickstart(11);
    assert_eq!(report.acknowledged, 180);
    assert_eq!(report.ended, 180);
    assert!(report.retries > 0, "the faults were not felt");
}
