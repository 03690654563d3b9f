//! What batching is worth to embeddings: one text after the other, and 16 at once, by the worker of a node.

use std::{sync::Arc, time::Duration};

use colony_inference::{
    EmbedLimits, EmbedRequest, EmbedWorker, Embedder as _, Item, NoObserver, OrtEncoder,
};
use colony_node::ports::SystemClock;
use tokio::{task::JoinSet, time::Instant};

use super::{
    figure::Figure,
    models::{COMPANY, all, home_with, open},
};
use crate::{errors::Failure, output::Output, stats::rate};

/// Texts of one half of a run, a multiple of [`COMPANY`].
const TEXTS: usize = 512;

/// Rates and waits of one half of a run.
#[derive(Debug)]
struct Half {
    rate: f64,
    waits: Vec<Duration>,
}

/// The batched rate over the solo rate.
pub(super) async fn measure(runs: u32, out: Output) -> Result<Figure, Failure> {
    let home = home_with(&[Item::Runtime, Item::Minilm])?;
    let limits = EmbedLimits::default();
    let worker = open(move || {
        let threads = limits.threads;
        EmbedWorker::start(
            move || OrtEncoder::open(&home, Item::Minilm.name(), threads),
            &limits,
            Arc::new(SystemClock::start()),
            Arc::new(NoObserver),
        )
    })
    .await?;
    // The engine's first calls lay out its memory.
    half(&worker, COMPANY).await?;
    let (mut solo, mut batched, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut waits = Vec::new();
    for run in 1..=runs {
        out.note(&format!("embed: run {run} of {runs}"));
        let alone = half(&worker, 1).await?;
        let mut together = half(&worker, COMPANY).await?;
        ratios.push(together.rate / alone.rate);
        solo.push(alone.rate);
        batched.push(together.rate);
        waits.append(&mut together.waits);
    }
    Ok(Figure::new("embed", "times the solo rate", ratios)
        .with_latency("text to vector, 16 at once", waits)
        .with_runs("solo_texts_per_s", &solo)
        .with_runs("batched_texts_per_s", &batched)
        .with("at_once", COMPANY))
}

/// Embeds [`TEXTS`] texts, `company` at once: each of them asks for its next as soon as it is answered.
async fn half(worker: &Arc<EmbedWorker>, company: usize) -> Result<Half, Failure> {
    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for first in 0..company {
        let worker = Arc::clone(worker);
        asked.spawn(async move {
            let mut waits = Vec::new();
            for number in (first..TEXTS).step_by(company) {
                let asked = Instant::now();
                worker.embed(EmbedRequest::new(text(number))).await?;
                waits.push(asked.elapsed());
            }
            Ok(waits)
        });
    }
    let waits = all(asked).await?.concat();
    Ok(Half {
        rate: rate(TEXTS as u64, begun.elapsed()),
        waits,
    })
}

fn text(number: usize) -> String {
    format!(
        "I was charged twice for order {number} and would like my money back before Friday please, thank you"
    )
}
