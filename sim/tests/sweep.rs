//! One small workload under every pair of a sync time and the moment of a crash: whether what is under way at a
//! crash is durable, and what its node has heard of that, changes from one pair to the next.

use std::path::Path;

use colony_sim::{Fault, InFlight, Workload, replay};

/// Times of a sync, in milliseconds.
const SYNCS: std::ops::Range<u64> = 0..20;
/// Moments of the crash: the first twenty are within the life of the tasks with a quick disk, with a slow one
/// they are tried over more of it.
const CRASHES: std::ops::Range<u64> = 0..20;

#[test]
fn a_crash_at_any_moment_with_any_disk_breaks_no_property() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/small.toml");
    let mut workload = Workload::read(&path).expect("a workload");
    for sync_ms in SYNCS {
        for crash in CRASHES {
            let at_ms = 5 + crash * (3 + sync_ms);
            workload.world.sync_ms = sync_ms;
            workload.faults = vec![Fault::Crash {
                at_ms,
                for_ms: 20,
                in_flight: if crash % 2 == 0 {
                    InFlight::Dropped
                } else {
                    InFlight::Written
                },
                clock_step_ms: 0,
            }];
            if let Err(error) = replay(&workload, 1) {
                panic!("a sync of {sync_ms} ms, a crash at {at_ms} ms: {error}");
            }
        }
    }
}
