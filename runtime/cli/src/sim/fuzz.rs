//! `colony sim fuzz`: random worlds, and what is left of one that fails.

use std::{
    collections::BTreeMap, ops::Range, path::Path, process::Command, sync::Mutex, time::Duration,
};

use colony_sim::{Failed, Failures, OnFailure, Progress, fuzz as search, shrink};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    errors::Failure,
    output::{Output, say},
};

/// How long a failure is made simpler: what is found after that is not worth the wait.
const SHRINK_FOR: Duration = Duration::from_secs(60);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) fn fuzz(
    seeds: Range<u64>,
    keep: &Path,
    threads: usize,
    on_failure: OnFailure,
    out: Output,
) -> Result<(), Failure> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        some => some,
    };
    let bar = Bar::new(seeds.end.saturating_sub(seeds.start), out);
    let searched = search(seeds.clone(), threads, on_failure, &|progress| {
        bar.show(progress);
    });
    bar.bar.finish_and_clear();
    match searched {
        Ok(progress) => {
            let said = json!({
                "from": seeds.start,
                "seeds": progress.done,
                "tasks": progress.tasks,
                "faults": progress.faults,
                "failed": 0,
            });
            out.result(&said, || {
                format!(
                    "{} worlds with seeds {} to {}: {} tasks ended, {} faults, no property broken",
                    progress.done,
                    seeds.start,
                    seeds.end.saturating_sub(1),
                    progress.tasks,
                    progress.faults
                )
            })
        }
        Err(failed) => Err(all_kept(failed, keep, out)),
    }
}

/// Shrinks and keeps the first failure of each property.
fn all_kept(failed: BTreeMap<String, Failures>, folder: &Path, out: Output) -> Failure {
    let mut details = Vec::new();
    let mut last = None;
    let properties = failed.len();
    for (property, Failures { first, worlds }) in failed {
        let (what, hint) = kept(first, folder, out);
        details.push(format!("{property} in {worlds} worlds: {what}; {hint}"));
        last = Some(Failure::failed(what).with_hint(&hint));
    }
    match last {
        Some(only) if properties == 1 => only,
        _ => Failure::failed(format!("{properties} properties are broken")).with_details(details),
    }
}

/// Shrinks what fails and keeps it: what is wrong, and how to see it again.
fn kept(failed: Failed, folder: &Path, out: Output) -> (String, String) {
    out.note(&format!(
        "seed {} fails: {}; making it simpler",
        failed.seed, failed.error
    ));
    let began = Instant::now();
    let mut line_at = began + LINE_EVERY;
    let simplest = shrink(failed, &mut |runs, tasks| {
        if Instant::now() >= line_at {
            out.note(&format!("{runs} runs, {tasks} tasks left"));
            line_at = Instant::now() + LINE_EVERY;
        }
        began.elapsed() < SHRINK_FOR
    });
    let hint = match simplest.keep(folder, &commit()) {
        Ok(path) => format!(
            "it fails again: colony sim run {} --seed {}",
            path.display(),
            simplest.seed
        ),
        Err(error) => format!(
            "the workload could not be kept in {}: {error}\n{}",
            folder.display(),
            simplest.workload.to_toml()
        ),
    };
    (format!("seed {}: {}", simplest.seed, simplest.error), hint)
}

/// The commit that is checked out, as git names it.
fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

/// Progress on stderr: a bar where it is a terminal, a line now and then where it is not.
struct Bar {
    bar: ProgressBar,
    began: Instant,
    /// When the next line is due; none on a terminal.
    line_at: Option<Mutex<Instant>>,
}

impl Bar {
    fn new(seeds: u64, out: Output) -> Self {
        let target = if out.is_talkative() {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        let template = "worlds {wide_bar:.green} {pos}/{len}  {msg}  {eta} left";
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(seeds), target).with_style(style);
        let began = Instant::now();
        let line_at = bar.is_hidden() && out.is_talkative();
        Self {
            bar,
            began,
            line_at: line_at.then(|| Mutex::new(began + LINE_EVERY)),
        }
    }

    fn show(&self, progress: Progress) {
        let Progress {
            done,
            of,
            tasks,
            faults,
        } = progress;
        let message = format!("{tasks} tasks · {faults} faults");
        if let Some(line_at) = &self.line_at
            && let Ok(mut due) = line_at.lock()
            && Instant::now() >= *due
        {
            *due = Instant::now() + LINE_EVERY;
            let left = of.saturating_sub(done);
            let each = self.began.elapsed().as_secs_f64() / (done.max(1) as f64);
            let eta = Duration::from_secs_f64(each * left as f64);
            say(&format!(
                "{done}/{of} worlds · {message} · {} s left",
                eta.as_secs()
            ));
        }
        self.bar.set_message(message);
        self.bar.set_position(done);
    }
}
