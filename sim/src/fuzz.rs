//! Random worlds, one seed each, until one fails or all have been run; then the simplest workload that fails in the
//! same way.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    run::{Report, RunError, run},
    workload::{Found, Workload, WorkloadError},
};

/// Seeds that a simpler workload is tried with. A race that one seed meets is missed with the same seed as soon as
/// anything is taken away, and met with another.
const SHRINK_SEEDS: u64 = 3;

/// A workload that fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// The workload.
    pub workload: Workload,
    /// What is wrong.
    pub error: RunError,
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Seeds that have been run.
    pub done: u64,
    /// Seeds in all.
    pub of: u64,
    /// Tasks that have ended in them.
    pub tasks: u64,
    /// Faults that were met.
    pub faults: u64,
}

/// What to do when a world fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// No other world is begun.
    Stop,
    /// All worlds are run.
    GoOn,
}

/// The worlds of a search that break one property.
#[derive(Debug, Clone, PartialEq)]
pub struct Failures {
    /// The one with the lowest seed, not shrunk.
    pub first: Failed,
    /// How many.
    pub worlds: u64,
}

/// Runs the random workloads of these seeds on `threads` threads. `on_progress` is told after every run that is safe.
///
/// # Errors
/// What failed, by property. With [`OnFailure::Stop`] one: the lowest seed that was seen to fail.
pub fn fuzz(
    seeds: std::ops::Range<u64>,
    threads: usize,
    on_failure: OnFailure,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Result<Progress, BTreeMap<String, Failures>> {
    let next = AtomicU64::new(seeds.start);
    let found = AtomicBool::new(false);
    let failed: Mutex<BTreeMap<String, Failures>> = Mutex::default();
    let of = seeds.end.saturating_sub(seeds.start);
    let progress = Mutex::new(Progress {
        done: 0,
        of,
        tasks: 0,
        faults: 0,
    });
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while on_failure == OnFailure::GoOn || !found.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let workload = Workload::random(seed);
                    match replay(&workload, seed) {
                        Ok(report) => {
                            let mut progress =
                                progress.lock().unwrap_or_else(PoisonError::into_inner);
                            progress.done += 1;
                            progress.tasks += report.ended;
                            progress.faults += report.faults as u64;
                            on_progress(*progress);
                        }
                        Err(error) => {
                            found.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            let this = Failed {
                                seed,
                                workload,
                                error,
                            };
                            keep_first(&mut failed, this);
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if on_failure == OnFailure::Stop {
        let lowest = failed.values().map(|failures| failures.first.seed).min();
        failed.retain(|_, failures| Some(failures.first.seed) == lowest);
    }
    if failed.is_empty() {
        Ok(progress
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    } else {
        Err(failed)
    }
}

/// Counts a failure with those that break the same property.
fn keep_first(failed: &mut BTreeMap<String, Failures>, this: Failed) {
    let property = this.error.property().to_owned();
    match failed.get_mut(&property) {
        None => {
            let worlds = 1;
            failed.insert(
                property,
                Failures {
                    first: this,
                    worlds,
                },
            );
        }
        Some(known) => {
            known.worlds += 1;
            if this.seed < known.first.seed {
                known.first = this;
            }
        }
    }
}

/// [`run`], with a panic of the simulated world as one more failure.
///
/// # Errors
/// [`RunError`].
pub fn replay(workload: &Workload, seed: u64) -> Result<Report, RunError> {
    catch_unwind(AssertUnwindSafe(|| run(workload, seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let what = format!("it panicked: {}", text.unwrap_or_default());
        Err(RunError::World { what })
    })
}

/// The simplest workload found that fails by the same property, with a seed with which it does. `may_go_on` is asked
/// before every run, with the number of runs and the tasks of the simplest workload so far.
pub fn shrink(failed: Failed, may_go_on: &mut dyn FnMut(u32, u64) -> bool) -> Failed {
    let mut simplest = failed;
    let mut runs = 0;
    // What has been tried in vain is not tried again before everything else was.
    let mut place = 0;
    let mut made_simpler = false;
    'steps: loop {
        let Some(workload) = simplest.workload.simpler().into_iter().nth(place) else {
            if !std::mem::take(&mut made_simpler) {
                return simplest;
            }
            place = 0;
            continue;
        };
        for seed in simplest.seed..simplest.seed.saturating_add(SHRINK_SEEDS) {
            if !may_go_on(runs, simplest.workload.tasks()) {
                return simplest;
            }
            runs += 1;
            if let Err(error) = replay(&workload, seed)
                && error.property() == simplest.error.property()
            {
                simplest = Failed {
                    seed,
                    workload,
                    error,
                };
                made_simpler = true;
                continue 'steps;
            }
        }
        place += 1;
    }
}

impl Failed {
    /// Keeps the workload in a folder, with how it was found; gives its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, folder: &Path, commit: &str) -> std::io::Result<PathBuf> {
        let found = Found {
            seed: self.seed,
            commit: commit.to_owned(),
            broken: self.error.to_string(),
        };
        let workload = Workload {
            found: Some(found),
            ..self.workload.clone()
        };
        std::fs::create_dir_all(folder)?;
        let name = format!(
            "{}-{}.toml",
            self.error.property().to_lowercase(),
            self.seed
        );
        let path = folder.join(name);
        std::fs::write(&path, workload.to_toml())?;
        Ok(path)
    }
}

/// The workloads kept in a folder, by name.
///
/// # Errors
/// [`WorkloadError`].
pub fn kept(folder: &Path) -> Result<Vec<(PathBuf, Workload)>, WorkloadError> {
    let unreadable = |source| WorkloadError::Read {
        path: folder.display().to_string(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| Workload::read(&path).map(|workload| (path, workload)))
        .collect()
}
