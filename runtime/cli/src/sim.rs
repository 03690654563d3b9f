//! `colony sim`: the real node in seeded worlds, in virtual time.

mod fuzz;

use std::path::{Path, PathBuf};

use colony_sim::{OnFailure, Report, RunError, Workload, replay};
use serde_json::json;

use crate::{
    args::SimCommand,
    errors::{Failure, chain},
    output::Output,
};

pub(crate) async fn command(command: SimCommand, out: Output) -> Result<(), Failure> {
    // A simulated world has a runtime of its own, with its own time.
    let done = tokio::task::spawn_blocking(move || match command {
        SimCommand::Run {
            workload,
            seed,
            history,
        } => simulate(&workload, seed, history, out),
        SimCommand::Fuzz {
            seeds,
            from,
            keep,
            threads,
            keep_going,
        } => {
            let on_failure = if keep_going {
                OnFailure::GoOn
            } else {
                OnFailure::Stop
            };
            fuzz::fuzz(
                from..from.saturating_add(seeds),
                &keep,
                threads,
                on_failure,
                out,
            )
        }
    });
    let broke_off = |panic| Failure::failed(format!("the simulation broke off: {panic}"));
    done.await.map_err(broke_off)?
}

fn simulate(path: &Path, seed: u64, history: Option<PathBuf>, out: Output) -> Result<(), Failure> {
    let workload = Workload::read(path).map_err(|error| Failure::usage(chain(&error)))?;
    let ran = replay(&workload, seed);
    let lines = match &ran {
        Ok(report) => &report.history,
        Err(RunError::Unsafe { history, .. }) => history,
        Err(RunError::World { .. }) => &Vec::new(),
    };
    if let Some(file) = history {
        write_history(&file, lines)?;
    }
    let report = ran.map_err(|error| failed(&error, path, seed))?;
    let said = json!({
        "workload": path.display().to_string(),
        "seed": seed,
        "history_hash": report.history_hash,
        "events": report.events,
        "acknowledged": report.acknowledged,
        "ended": report.ended,
        "retries": report.retries,
        "faults": report.faults,
        "incarnations": report.lives,
        "simulated_ms": report.simulated_ms,
    });
    out.result(&said, || describe(&report, path, seed))
}

fn write_history(file: &Path, lines: &[String]) -> Result<(), Failure> {
    let mut text = lines.join("\n");
    text.push('\n');
    std::fs::write(file, text)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))
}

fn failed(error: &RunError, path: &Path, seed: u64) -> Failure {
    let again = format!(
        "the same seed fails again: colony sim run {} --seed {seed} --history FILE",
        path.display()
    );
    Failure::failed(error.to_string()).with_hint(&again)
}

fn describe(report: &Report, path: &Path, seed: u64) -> String {
    format!(
        "{} with seed {seed}: {} of {} tasks acknowledged and ended, {} faults, {} incarnations of the node, {} requests \
         repeated, {:.1} simulated seconds\nhistory_hash={}",
        path.display(),
        report.ended,
        report.acknowledged,
        report.faults,
        report.lives,
        report.retries,
        std::time::Duration::from_millis(report.simulated_ms).as_secs_f64(),
        report.history_hash
    )
}
