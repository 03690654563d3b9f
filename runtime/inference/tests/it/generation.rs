//! The language model behind its worker: the rest of a batch must not change an answer, nor may a cached
//! beginning, and a schema holds.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

use colony_inference::{
    ChatMessage, ChatRole, FinishReason, GenerateLimits, GenerateRequest, GenerateWorker,
    Generated, Generator, InferenceError, ModelStore, NoObserver, OrtDecoder, Sampling,
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{embedding::StoppedClock, fixture};

pub(crate) fn worker(store: &ModelStore, limits: &GenerateLimits) -> Arc<GenerateWorker> {
    let (store, threads) = (store.clone(), limits.threads);
    let engine = move || OrtDecoder::open(&store, "smollm2", threads);
    GenerateWorker::start(engine, limits, Arc::new(StoppedClock), Arc::new(NoObserver)).unwrap()
}

const SYSTEMS: [&str; 2] = [
    "You sort the tickets of a help desk. Answer with one word.",
    "You are a helpful assistant who answers briefly and likes ants.",
];

const QUESTIONS: [&str; 8] = [
    "What is the capital of France?",
    "Write a JSON object with the keys name and age.",
    "List three colours.",
    "Explain what a load balancer does, for a child that has never seen a computer.",
    "2+2?",
    "My card was charged twice for the order 1234567 and nobody answers my letters since May.",
    "Name an ocean.",
    "Zażółć gęślą jaźń 🐜",
];

fn question(number: usize, tokens_max: u32) -> GenerateRequest {
    let system = SYSTEMS[number / QUESTIONS.len() % SYSTEMS.len()];
    let mut request = GenerateRequest::chat(vec![
        ChatMessage::new(ChatRole::System, system),
        ChatMessage::new(ChatRole::User, QUESTIONS[number % QUESTIONS.len()]),
    ]);
    request.tokens_max = tokens_max;
    request
}

/// Everything about an answer that the rest of its batch must not change.
fn essence(answer: &Generated) -> (String, u32, FinishReason, u64) {
    let sum = answer.logprob_sum.to_bits();
    (
        answer.text.clone(),
        answer.completion_tokens,
        answer.finish,
        sum,
    )
}

/// One request of a random crowd.
#[derive(Debug, Clone)]
struct Ask {
    question: usize,
    tokens_max: u32,
    seed: Option<u64>,
    /// Other requests admitted so far are given this many chances to be worked on first.
    pause: u8,
    /// Given up after about so many tokens of time.
    cancel_after: Option<u8>,
}

fn ask() -> impl Strategy<Value = Ask> {
    let cancel = prop::option::weighted(0.2, 0_u8..12);
    (
        0..16_usize,
        1..24_u32,
        prop::option::of(0..3_u64),
        0..8_u8,
        cancel,
    )
        .prop_map(|(question, tokens_max, seed, pause, cancel_after)| Ask {
            question,
            tokens_max,
            seed,
            pause,
            cancel_after,
        })
}

fn request(ask: &Ask) -> GenerateRequest {
    let mut request = question(ask.question, ask.tokens_max);
    if let Some(seed) = ask.seed {
        request.sampling = Sampling {
            temperature: 0.8,
            top_p: 0.95,
            seed,
        };
    }
    request
}

/// Waits until the worker has done something more, `times` times.
async fn let_work(worker: &GenerateWorker, times: u8) {
    for _ in 0..times {
        let seen = worker.observe();
        while worker.observe().batches == seen.batches && worker.observe().waiting > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_the_rest_of_its_batch() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    // Three rows at most, so that most of a crowd joins when another one leaves.
    let limits = GenerateLimits {
        rows_max: 3,
        ..GenerateLimits::default()
    };
    let crowded = worker(&store, &limits);
    let alone = worker(&store, &limits);
    let known = RefCell::new(BTreeMap::new());
    let batched = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    });
    let crowd = prop::collection::vec(ask(), 2..9);
    runner
        .run(&crowd, |asks| {
            let answers = runtime.block_on(async {
                let mut tasks = Vec::new();
                for ask in &asks {
                    let_work(&crowded, ask.pause).await;
                    let (worker, ask) = (Arc::clone(&crowded), ask.clone());
                    tasks.push(runtime.spawn(async move {
                        let answer = worker.generate(request(&ask));
                        match ask.cancel_after {
                            None => Some(answer.await.unwrap()),
                            Some(tokens) => tokio::select! {
                                biased;
                                answer = answer => Some(answer.unwrap()),
                                () = let_work(&worker, tokens) => None,
                            },
                        }
                    }));
                }
                let mut answers = Vec::new();
                for task in tasks {
                    answers.push(task.await.unwrap());
                }
                answers
            });
            for (ask, answer) in asks.iter().zip(answers) {
                let Some(answer) = answer else {
                    continue;
                };
                batched.set(batched.get() + u32::from(answer.stats.batch_size > 1));
                let key = (ask.question, ask.tokens_max, ask.seed);
                let mut known = known.borrow_mut();
                let solo = known.entry(key).or_insert_with(|| {
                    essence(&runtime.block_on(alone.generate(request(ask))).unwrap())
                });
                prop_assert_eq!(&essence(&answer), solo);
            }
            Ok(())
        })
        .unwrap();
    let batched = batched.get();
    assert!(batched > 10, "only {batched} answers were batched");
    while crowded.observe().waiting > 0 {
        std::thread::yield_now();
    }
    assert_eq!(crowded.observe().failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_beginning_does_not_change_the_answer() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let cached = worker(&store, &GenerateLimits::default());
    let plain = worker(
        &store,
        &GenerateLimits {
            prefixes_max: 0,
            ..GenerateLimits::default()
        },
    );
    for number in [0, 1, 5, 0, 8, 9, 13, 0] {
        let with = cached.generate(question(number, 16)).await.unwrap();
        let without = plain.generate(question(number, 16)).await.unwrap();
        assert_eq!(with.text, without.text, "question {number}");
    }
    assert!(
        cached.observe().prefix_tokens > 100,
        "{:?}",
        cached.observe()
    );
    assert_eq!(plain.observe().prefix_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_random_answers_all_fit_their_schema() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let worker = worker(&store, &GenerateLimits::default());
    let labels = [
        "refund",
        "card_lost",
        "card_stolen",
        "password reset",
        "größe",
    ];
    let label_only = Arc::new(json!({"type": "object", "required": ["label"],
        "additionalProperties": false, "properties": {"label": {"enum": labels}}}));
    let with_note = Arc::new(json!({"type": "object", "required": ["label", "note"],
        "additionalProperties": false, "properties":
        {"label": {"enum": labels}, "note": {"type": "string", "maxLength": 12}}}));
    let tasks: Vec<_> = (0..200_u64)
        .map(|seed| {
            let mut request = question(usize::try_from(seed % 16).unwrap(), 64);
            let schema = if seed % 2 == 0 {
                &label_only
            } else {
                &with_note
            };
            request.schema = Some(Arc::clone(schema));
            request.sampling = Sampling {
                temperature: 1.5,
                top_p: 1.0,
                seed,
            };
            let worker = Arc::clone(&worker);
            tokio::runtime::Handle::current().spawn(async move { worker.generate(request).await })
        })
        .collect();
    let mut seen = BTreeMap::<String, u32>::new();
    for (number, task) in tasks.into_iter().enumerate() {
        let answer = task.await.unwrap().unwrap();
        assert_eq!(answer.finish, FinishReason::Stop, "{answer:?}");
        let value: Value = serde_json::from_str(&answer.text).expect(&answer.text);
        let label = value["label"].as_str().unwrap();
        assert!(labels.contains(&label), "{answer:?}");
        assert!(answer.logprob_sum <= 0.0 && answer.logprob_mean >= answer.logprob_sum);
        let keys = value.as_object().unwrap().len();
        if number % 2 == 0 {
            assert_eq!(keys, 1);
        } else {
            assert!(keys == 2 && value["note"].as_str().unwrap().chars().count() <= 12);
        }
        *seen.entry(label.to_owned()).or_default() += 1;
    }
    assert!(seen.len() >= 3, "the draws are not random: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_what_is_wrong() {
    let Some(store) = fixture::smollm2() else {
        return;
    };
    let worker = worker(&store, &GenerateLimits::default());
    let refused = |request: GenerateRequest| async { worker.generate(request).await.unwrap_err() };
    let long = refused(question(0, 100_000)).await;
    assert!(
        matches!(long, InferenceError::TooLong { max: 8_192, .. }),
        "{long}"
    );
    let mut request = question(0, 8);
    request.schema = Some(Arc::new(json!({"type": "nonsense"})));
    let schema = refused(request).await;
    assert!(matches!(schema, InferenceError::Schema { .. }), "{schema}");
    let mut request = question(0, 8);
    request.sampling.temperature = f32::NAN;
    let sampling = refused(request).await;
    assert!(
        matches!(sampling, InferenceError::Request { .. }),
        "{sampling}"
    );
    let missing = OrtDecoder::open(&store, "no-such-model", 1).unwrap_err();
    assert!(missing.to_string().contains("no-such-model"), "{missing}");
    assert_eq!(worker.observe().waiting, 0);
}
