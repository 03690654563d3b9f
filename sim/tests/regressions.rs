//! What once failed, and must not fail again; and whether a failure becomes as simple as it can.

use std::{fs, path::Path};

use colony_sim::{Fault, Workload, kept, replay};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn what_once_failed_does_not_fail_again() {
    for (path, workload) in kept(&folder("regressions")).expect("legal workloads") {
        let found = workload.found.as_ref().expect("how it was found");
        if let Err(error) = replay(&workload, found.seed) {
            panic!("{} with seed {}: {error}", path.display(), found.seed);
        }
    }
}

#[test]
fn a_few_random_worlds_break_no_property() {
    for seed in 1..=6 {
        if let Err(error) = replay(&Workload::random(seed), seed) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn crowds_of_which_nobody_asks_for_some_are_drawn() {
    let asked = |workload: &Workload, name: &str| {
        let mut groups = workload.clients.iter().flat_map(|client| &client.tasks);
        groups.any(|tasks| tasks.agent_type == name)
    };
    let crowded = (0..300).map(Workload::random).filter(|workload| {
        let claim_max = workload.world.claim_max;
        let mut idle = workload
            .agents
            .iter()
            .filter(|(name, _)| !asked(workload, name));
        idle.any(|(_, agents)| agents.count == 256 && agents.count >= claim_max)
    });
    assert!(crowded.count() > 5);
}

#[test]
fn every_kind_of_fault_is_drawn() {
    let kinds = (0..300).flat_map(|seed| Workload::random(seed).faults);
    let mut kinds: Vec<String> = kinds
        .map(|fault| match fault {
            Fault::Cut { .. } => "cut",
            Fault::Crash { .. } => "crash",
            Fault::CrashAtCall { .. } => "crash_at_call",
            Fault::Restart { .. } => "restart",
            Fault::Storage { .. } => "storage",
            Fault::Unknown { .. } => "unknown",
            Fault::Unreadable { .. } => "unreadable",
            Fault::Copy { .. } => "copy",
            Fault::SlowDisk { .. } => "slow_disk",
            Fault::Outage { .. } => "outage",
        })
        .map(str::to_owned)
        .collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    let guide = fs::read_to_string(folder("../docs/guides/simulator.md")).expect("a guide");
    for kind in kinds {
        assert!(
            guide.contains(&format!("| `{kind}` |")),
            "{kind} is in no table"
        );
    }
}
