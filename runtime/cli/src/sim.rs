//! `colony sim`: the real node in a seeded world, in virtual time.

use std::path::{Path, PathBuf};

use colony_sim::{Report, RunError, Workload, run};
use serde_json::json;

use crate::{
    args::SimCommand,
    errors::{Failure, chain},
    output::Output,
};

pub(crate) async fn command(command: SimCommand, out: Output) -> Result<(), Failure> {
    match command {
        SimCommand::Run {
            workload,
            seed,
            history,
        } => simulate(workload, seed, history, out).await,
    }
}

async fn simulate(
    path: PathBuf,
    seed: u64,
    history: Option<PathBuf>,
    out: Output,
) -> Result<(), Failure> {
    let workload = Workload::read(&path).map_err(|error| Failure::usage(chain(&error)))?;
    // The simulated world has a runtime of its own, with its own time.
    let ran = tokio::task::spawn_blocking(move || run(&workload, seed)).await;
    let report = match ran {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => return Err(failed(&error, &path, seed)),
        Err(panic) => {
            return Err(Failure::failed(format!(
                "the simulation broke off: {panic}"
            )));
        }
    };
    if let Some(file) = history {
        let mut lines = report.history.join("\n");
        lines.push('\n');
        std::fs::write(&file, lines).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", file.display()))
        })?;
    }
    let said = json!({
        "workload": path.display().to_string(),
        "seed": seed,
        "history_hash": report.history_hash,
        "events": report.events,
        "acknowledged": report.acknowledged,
        "ended": report.ended,
        "retries": report.retries,
        "faults": report.faults,
        "simulated_ms": report.simulated_ms,
    });
    out.result(&said, || describe(&report, &path, seed))
}

fn failed(error: &RunError, path: &Path, seed: u64) -> Failure {
    let again = format!(
        "the same seed fails again: colony sim run {} --seed {seed}",
        path.display()
    );
    Failure::failed(error.to_string()).with_hint(&again)
}

fn describe(report: &Report, path: &Path, seed: u64) -> String {
    format!(
        "{} with seed {seed}: {} of {} tasks acknowledged and ended, {} faults, {} submissions repeated, {:.1} \
         simulated seconds\nhistory_hash={}",
        path.display(),
        report.ended,
        report.acknowledged,
        report.faults,
        report.retries,
        std::time::Duration::from_millis(report.simulated_ms).as_secs_f64(),
        report.history_hash
    )
}
