//! What batching is worth, measured. Not a test: run it by hand on a quiet machine with
//! `cargo test --release -p colony-inference --test it -- --ignored figures --nocapture`.

#![expect(clippy::print_stdout, reason = "figures are read from the output")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use colony_core::{port::Clock, unit::Timestamp};
use colony_inference::{
    BatchKind, BatchObserver, BatchReport, ChatMessage, ChatRole, EmbedLimits, EmbedRequest,
    EmbedWorker, Embedder, GenerateLimits, GenerateRequest, GenerateWorker, Generator, Item,
    OrtDecoder, OrtEncoder,
};

use crate::fixture;

#[derive(Debug)]
struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::default().after(self.0.elapsed())
    }
}

#[expect(clippy::disallowed_methods, reason = "this measures real time")]
fn real_clock() -> Arc<RealClock> {
    Arc::new(RealClock(Instant::now()))
}

#[derive(Debug, Default)]
struct Reports(Mutex<Vec<BatchReport>>);

impl BatchObserver for Reports {
    fn batch_ran(&self, report: &BatchReport) {
        self.0.lock().unwrap().push(report.clone());
    }
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures_of_the_embedding_worker() {
    let Some(home) = fixture::home_with(&[Item::Runtime, Item::Minilm]) else {
        return;
    };
    let limits = EmbedLimits {
        batch_rows_max: 16,
        ..EmbedLimits::default()
    };
    let engine = OrtEncoder::open(&home, "minilm", limits.threads).unwrap();
    let clock = real_clock();
    let observer = Arc::new(Reports::default());
    let worker = EmbedWorker::start(engine, &limits, Arc::clone(&clock) as _, observer).unwrap();
    let text = |number: usize| {
        format!(
            "I was charged twice for order {number} and would like my money back before Friday please, thank you"
        )
    };
    for company in [1, 16, 64] {
        let mut rates = Vec::new();
        for _ in 0..5 {
            let began = clock.now();
            let mut done = 0;
            while done < 128 {
                let tasks: Vec<_> = (done..done + company)
                    .map(|number| {
                        let (worker, text) = (Arc::clone(&worker), text(number));
                        tokio::runtime::Handle::current().spawn(async move {
                            worker.embed(EmbedRequest::new(text)).await.unwrap()
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                done += company;
            }
            rates.push(rate(done, clock.now().since(began)));
        }
        println!("embed, {company} at once: {:.0} texts/s", median(rates));
    }
    println!("{:?}", worker.observe());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures_of_the_generating_worker() {
    let Some(home) = fixture::smollm2() else {
        return;
    };
    for prefixes_max in [0, 8] {
        let limits = GenerateLimits {
            prefixes_max,
            ..GenerateLimits::default()
        };
        let engine = OrtDecoder::open(&home, "smollm2", limits.threads).unwrap();
        let clock = real_clock();
        let reports = Arc::new(Reports::default());
        let worker = GenerateWorker::start(
            engine,
            &limits,
            Arc::clone(&clock) as _,
            Arc::clone(&reports) as _,
        )
        .unwrap();
        for company in [1_usize, 4, 8, 16] {
            let mut rates = Vec::new();
            let mut prefill = Vec::new();
            let mut decode = Vec::new();
            for run in 0..5 {
                reports.0.lock().unwrap().clear();
                let began = clock.now();
                let tasks: Vec<_> = (0..company)
                    .map(|number| {
                        let mut request = GenerateRequest::chat(vec![
                            ChatMessage::new(
                                ChatRole::System,
                                "You are a helpful assistant at the help desk of a shop.",
                            ),
                            ChatMessage::new(
                                ChatRole::User,
                                format!(
                                    "Tell a long story about order {number}{run} that got lost."
                                ),
                            ),
                        ]);
                        request.tokens_max = 64;
                        let worker = Arc::clone(&worker);
                        tokio::runtime::Handle::current()
                            .spawn(async move { worker.generate(request).await.unwrap() })
                    })
                    .collect();
                let mut tokens = 0;
                for task in tasks {
                    tokens += task.await.unwrap().completion_tokens as usize;
                }
                rates.push(rate(tokens, clock.now().since(began)));
                let reports = reports.0.lock().unwrap();
                let of = |kind, rows| {
                    let of = reports
                        .iter()
                        .filter(|it| it.kind == kind && it.rows == rows);
                    let (tokens, time) = of.fold((0, Duration::ZERO), |(tokens, time), it| {
                        (tokens + it.tokens, time + it.computed)
                    });
                    rate(tokens, time)
                };
                prefill.push(of(BatchKind::Prefill, 1));
                decode.push(of(BatchKind::Decode, company));
            }
            println!(
                "generate, prefix cache {prefixes_max}, {company} at once: {:.0} tokens/s end to \
                 end, {:.0} decode only, {:.0} prompt tokens/s",
                median(rates),
                median(decode),
                median(prefill)
            );
        }
        println!("{:?}", worker.observe());
    }
}
