//! `colony bench`: figures of this machine, each printed by the code that users run.
//!
//! | module | what is measured |
//! | --- | --- |
//! | [`actors`] | bare actors of the library that the node is built on, for comparison |
//! | [`market`] | a whole node: six steps a task, through the market and 1,000 agents |
//! | [`ledger`] | durable tasks on a disk |
//! | [`embed`], [`generate`] | what batching is worth |
//!
//! Every bench repeats its run and reports the median with all runs beside it. What is compared (sampling
//! on and off, alone and batched) is measured side by side within each run, so that a noisy neighbour
//! disturbs both.

mod actors;
mod embed;
mod figure;
mod generate;
mod ledger;
mod market;
mod models;

use std::time::Duration;

use self::figure::Figure;
use crate::{
    args::{BenchArgs, Subject},
    errors::Failure,
    output::Output,
};

/// Agents of the actor and market benches: what the README promises of one machine.
const AGENTS: u32 = 1_000;

/// `colony bench`.
pub(crate) async fn run(args: BenchArgs, out: Output) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        out.note("this is a debug build; figures count from a release build only");
    }
    let all = [
        Subject::Actors,
        Subject::Market,
        Subject::Ledger,
        Subject::Embed,
        Subject::Generate,
    ];
    let subjects = all
        .into_iter()
        .filter(|subject| args.subject == Subject::All || args.subject == *subject);
    for subject in subjects {
        forget_peak_rss();
        let figure = measure(subject, args.runs, out).await?;
        figure.print(peak_rss_bytes(), out)?;
    }
    Ok(())
}

async fn measure(subject: Subject, runs: u32, out: Output) -> Result<Figure, Failure> {
    match subject {
        Subject::Actors => actors::measure(runs, out).await,
        Subject::Market => market::measure(runs, out).await,
        Subject::Ledger => ledger::measure(runs, out).await,
        Subject::Embed => embed::measure(runs, out).await,
        Subject::Generate => generate::measure(runs, out).await,
        Subject::All => Err(Failure::usage("one bench at a time is measured")),
    }
}

/// Lets the peak begin anew, so that one bench's memory is not reported for the next. Where the system
/// does not allow it the peak is that of the whole process.
fn forget_peak_rss() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Processor time of this process so far, over all threads; zero where the system does not tell.
fn cpu_time() -> Duration {
    /// Linux counts in hundredths of a second towards programs, whatever its own clock.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    // User and system time are the 14th and 15th of all, the name being the second.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    TICK.saturating_mul(ticks)
}

/// Highest resident memory of this process so far, in bytes; 0 where the system does not tell.
pub(crate) fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
