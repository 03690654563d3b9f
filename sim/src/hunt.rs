//! Whether the simulator finds a fault that was put back: the kept workloads first, then random worlds.

use std::path::Path;

pub use colony_core::mutants::Mutant;
use colony_core::mutants::activate;

use crate::{fuzz::kept, fuzz::replay, workload::Workload};

/// What found a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The property that was broken.
    pub property: String,
    /// The world: a kept workload's name, or `random`.
    pub world: String,
    /// Its seed.
    pub seed: u64,
    /// Runs until then, this one included.
    pub runs: u64,
}

/// Activates a mutant on this thread and looks for it until it is caught or `may_go_on` says no, which is
/// asked before each run with the number of runs so far. A world that fails without the mutant too says nothing.
pub fn hunt(
    mutant: Mutant,
    regressions: &Path,
    may_go_on: &mut dyn FnMut(u64) -> bool,
) -> Option<Caught> {
    let kept = kept(regressions).unwrap_or_default();
    let kept = kept.into_iter().map(|(path, workload)| {
        let seed = workload.found.as_ref().map_or(1, |found| found.seed);
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), seed, workload)
    });
    let random = (1..).map(|seed| ("random".to_owned(), seed, Workload::random(seed)));
    for ((world, seed, workload), runs) in kept.chain(random).zip(0..) {
        if !may_go_on(runs) {
            return None;
        }
        activate(Some(mutant));
        let failed = replay(&workload, seed).err();
        activate(None);
        if let Some(error) = failed
            && replay(&workload, seed).is_ok()
        {
            return Some(Caught {
                property: error.property().to_owned(),
                world,
                seed,
                runs: runs + 1,
            });
        }
    }
    None
}
