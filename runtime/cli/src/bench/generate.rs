//! What batching is worth to generation: one answer after the other, and 16 at once, by the worker of a
//! node with its default limits, prefix cache included.
//!
//! Decode-only counts the stretches in which exactly so many rows were written, prompts left out; end to end
//! is everything from the questions to the last answer.

use std::{sync::Arc, time::Duration};

use colony_inference::{
    ChatMessage, ChatRole, GenerateLimits, GenerateRequest, GenerateWorker, Generator as _, Item,
    OrtDecoder,
};
use colony_node::ports::SystemClock;
use tokio::{task::JoinSet, time::Instant};

use super::{
    figure::Figure,
    models::{COMPANY, Decoded, all, home_with, observer, open},
};
use crate::{errors::Failure, output::Output, stats::rate};

/// Answers written one after the other in a run.
const SOLO_ANSWERS: usize = 4;
/// Tokens of one answer.
const ANSWER_TOKENS: u32 = 64;

/// What one half of a run found, in tokens a second.
#[derive(Debug)]
struct Half {
    end_to_end: f64,
    decode: f64,
    waits: Vec<Duration>,
}

/// The batched rates over the solo rates.
pub(super) async fn measure(runs: u32, out: Output) -> Result<Figure, Failure> {
    let home = home_with(&[Item::Runtime, Item::Smollm2])?;
    let decoded = Arc::new(Decoded::default());
    let observer = observer(&decoded);
    let worker = open(move || {
        let limits = GenerateLimits::default();
        let threads = limits.threads;
        let engine = move || OrtDecoder::open(&home, Item::Smollm2.name(), threads);
        GenerateWorker::start(engine, &limits, Arc::new(SystemClock::start()), observer)
    })
    .await?;
    // The engine's first calls lay out its memory, and the shared beginning is read.
    half(&worker, &decoded, 0, 1, 1).await?;
    let (mut solo, mut batched) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        out.note(&format!("generate: run {run} of {runs}"));
        let run = usize::try_from(run).unwrap_or(usize::MAX);
        solo.push(half(&worker, &decoded, run, 1, SOLO_ANSWERS).await?);
        batched.push(half(&worker, &decoded, run, COMPANY, COMPANY).await?);
    }
    let pairs = || batched.iter().zip(&solo);
    let decode = pairs().map(|(b, s)| b.decode / s.decode).collect();
    let end_to_end: Vec<f64> = pairs().map(|(b, s)| b.end_to_end / s.end_to_end).collect();
    let of = |halves: &[Half], value: fn(&Half) -> f64| -> Vec<f64> {
        halves.iter().map(value).collect()
    };
    let waits = batched.iter().flat_map(|half| half.waits.clone()).collect();
    Ok(
        Figure::new("generate", "times the solo rate, decode only", decode)
            .with_latency("question to answer, 16 at once", waits)
            .with_runs("end_to_end", &end_to_end)
            .with_runs("solo_decode_tokens_per_s", &of(&solo, |half| half.decode))
            .with_runs(
                "batched_decode_tokens_per_s",
                &of(&batched, |half| half.decode),
            )
            .with_runs("solo_tokens_per_s", &of(&solo, |half| half.end_to_end))
            .with_runs(
                "batched_tokens_per_s",
                &of(&batched, |half| half.end_to_end),
            )
            .with("answer_tokens", ANSWER_TOKENS)
            .with("at_once", COMPANY),
    )
}

/// Writes `answers` answers, `company` at once.
async fn half(
    worker: &Arc<GenerateWorker>,
    decoded: &Decoded,
    run: usize,
    company: usize,
    answers: usize,
) -> Result<Half, Failure> {
    decoded.begin(company);
    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for first in 0..company {
        let worker = Arc::clone(worker);
        asked.spawn(async move {
            let mut told = Vec::new();
            for number in (first..answers).step_by(company) {
                let asked = Instant::now();
                let answer = worker.generate(question(run, company, number)).await?;
                told.push((u64::from(answer.completion_tokens), asked.elapsed()));
            }
            Ok(told)
        });
    }
    let told = all(asked).await?.concat();
    let time = begun.elapsed();
    let (tokens, computed) = decoded.so_far();
    Ok(Half {
        end_to_end: rate(told.iter().map(|(tokens, _)| tokens).sum(), time),
        decode: rate(tokens, computed),
        waits: told.into_iter().map(|(_, wait)| wait).collect(),
    })
}

/// A question that has not been asked before: the prefix cache may know its beginning only.
fn question(run: usize, company: usize, number: usize) -> GenerateRequest {
    let system = "You are a helpful assistant at the help desk of a shop.";
    let user = format!("Tell a long story about order {run}-{company}-{number} that got lost.");
    let mut request = GenerateRequest::chat(vec![
        ChatMessage::new(ChatRole::System, system),
        ChatMessage::new(ChatRole::User, user),
    ]);
    request.tokens_max = ANSWER_TOKENS;
    request
}
