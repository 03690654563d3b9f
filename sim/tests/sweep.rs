//! One small workload under every pair of a sync time and the moment of a crash: whether what is under way at a
//! crash is durable, and what its node has heard of that, changes from one pair to the next.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use colony_sim::{Fault, InFlight, Workload, replay};

/// Times of a sync: from 0 to so many milliseconds.
const SYNCS: u64 = 20;
/// Moments of the crash for each: over the whole life of the tasks, which is longer with a slow disk.
const CRASHES: u64 = 20;

#[test]
fn a_crash_at_any_moment_with_any_disk_breaks_no_property() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/small.toml");
    let small = Workload::read(&path).expect("a workload");
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let pair = next.fetch_add(1, Ordering::Relaxed);
                    if pair >= SYNCS * CRASHES {
                        return;
                    }
                    crash(small.clone(), pair / CRASHES, pair % CRASHES);
                }
            });
        }
    });
}

fn crash(mut workload: Workload, sync_ms: u64, crash: u64) {
    let at_ms = 5 + crash * (3 + sync_ms);
    workload.world.sync_ms = sync_ms;
    workload.faults = vec![Fault::Crash {
        at_ms,
        for_ms: 20,
        in_flight: if crash.is_multiple_of(2) {
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
