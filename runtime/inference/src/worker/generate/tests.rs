#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use std::time::Duration;

use colony_core::{task::TraceContext, unit::Timestamp};
use proptest::prelude::*;
use serde_json::json;
use tokio::{runtime::Handle, task::JoinHandle};

use self::toy::Toy;
use super::*;
use crate::{
    batch_stats::{BatchKind, NoObserver},
    chat::{ChatMessage, ChatRole},
    generator::{FinishReason, Sampling},
    worker::testing::{Reports, StepClock},
};

fn start(toy: &Toy, limits: &GenerateLimits) -> Arc<GenerateWorker> {
    let (toy, clock) = (toy.clone(), Arc::new(StepClock::default()));
    GenerateWorker::start(move || Ok(toy.clone()), limits, clock, Arc::new(NoObserver)).unwrap()
}

fn raw(text: &str, tokens_max: u32) -> GenerateRequest {
    GenerateRequest {
        tokens_max,
        ..GenerateRequest::raw(text)
    }
}

type Asking = JoinHandle<Result<Generated, InferenceError>>;

/// Asks in a task of its own and returns when the worker has admitted it.
async fn ask(worker: &Arc<GenerateWorker>, request: GenerateRequest) -> Asking {
    let before = worker.observe().requests;
    let asking = Arc::clone(worker);
    let task = Handle::current().spawn(async move { asking.generate(request).await });
    while worker.observe().requests == before {
        tokio::task::yield_now().await;
    }
    task
}

/// Waits until the engine has begun another decode step.
async fn another_step(worker: &GenerateWorker) {
    let before = worker.observe().batches;
    while worker.observe().batches == before {
        tokio::task::yield_now().await;
    }
}

#[derive(Debug, Clone)]
struct Ask {
    text: String,
    tokens_max: u32,
    seed: Option<u64>,
    schema: bool,
    pause: u8,
    cancel_after: Option<u8>,
    poison: bool,
}

fn request(ask: &Ask) -> GenerateRequest {
    let text = if ask.poison {
        "!panic in step"
    } else {
        &ask.text
    };
    let mut request = raw(text, ask.tokens_max);
    if let Some(seed) = ask.seed {
        request.sampling = Sampling {
            temperature: 1.0,
            top_p: 0.9,
            seed,
        };
    }
    if ask.schema {
        request.schema = Some(Arc::new(json!({"enum": ["one", "two", "three", "onyx"]})));
    }
    request
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let cancel = prop::option::weighted(0.3, 0_u8..20);
    let seed = prop::option::of(0..9_u64);
    (
        "[a-e]{1,6}",
        1..30_u32,
        seed,
        any::<bool>(),
        0..12_u8,
        cancel,
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(text, tokens_max, seed, schema, pause, cancel_after, poison)| Ask {
                text,
                tokens_max,
                seed,
                schema,
                pause,
                cancel_after,
                poison,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_does_not_depend_on_the_rest_of_its_batch(
        asks in prop::collection::vec(any_ask(), 1..12),
        rows_max in 1..5_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let limits = GenerateLimits { rows_max, ..GenerateLimits::default() };
        let crowded = start(&Toy::default(), &limits);
        let alone = start(&Toy::default(), &GenerateLimits { rows_max: 1, ..limits });
        let answers = runtime.block_on(async {
            let mut tasks = Vec::new();
            for ask in &asks {
                for _ in 0..ask.pause {
                    tokio::task::yield_now().await;
                }
                let (worker, ask) = (Arc::clone(&crowded), ask.clone());
                tasks.push(Handle::current().spawn(async move {
                    let answer = worker.generate(request(&ask));
                    let Some(polls_max) = ask.cancel_after else { return Some(answer.await) };
                    let give_up = async {
                        for _ in 0..polls_max {
                            tokio::task::yield_now().await;
                        }
                    };
                    tokio::select! {
                        biased;
                        answer = answer => Some(answer),
                        () = give_up => None,
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
            let Some(answer) = answer else { continue };
            let solo = runtime.block_on(alone.generate(request(ask)));
            if ask.poison && (answer.is_err() || solo.is_err()) {
                prop_assert_eq!(answer, solo);
                continue;
            }
            let (answer, solo) = (answer.unwrap(), solo.unwrap());
            prop_assert_eq!(&answer.text, &solo.text);
            prop_assert_eq!(answer.logprob_sum.to_bits(), solo.logprob_sum.to_bits());
            prop_assert_eq!((answer.finish, answer.completion_tokens),
                (solo.finish, solo.completion_tokens));
        }
        crowded.close();
        let seen = crowded.observe();
        prop_assert_eq!(seen.waiting, 0);
        prop_assert_eq!(seen.failed, seen.poisoned);
        prop_assert_eq!(seen.answered + seen.cancelled + seen.poisoned, seen.requests);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_row_before_the_next_token() {
    let toy = Toy::endless();
    let worker = start(
        &toy,
        &GenerateLimits {
            rows_max: 1,
            ..GenerateLimits::default()
        },
    );
    let first = ask(&worker, raw("first", 4_000)).await;
    another_step(&worker).await;
    let second = ask(&worker, raw("second", 3)).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().completion_tokens, 3);
    let seen = worker.observe();
    assert_eq!((seen.cancelled, seen.answered, seen.waiting), (1, 1, 0));
}

#[tokio::test]
async fn a_deadline_ends_an_answer_between_two_tokens() {
    let worker = start(&Toy::endless(), &GenerateLimits::default());
    let deadline = Some(
        worker
            .thread
            .shared
            .clock
            .now()
            .after(Duration::from_millis(500)),
    );
    let error = worker
        .generate(GenerateRequest {
            deadline,
            ..raw("late", 8_000)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(error, InferenceError::DeadlinePassed { .. }),
        "{error}"
    );
    let past = Some(Timestamp::default());
    let error = worker
        .generate(GenerateRequest {
            deadline: past,
            ..raw("x", 1)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(error, InferenceError::DeadlinePassed { .. }),
        "{error}"
    );
    assert_eq!((worker.observe().late, worker.observe().waiting), (2, 0));
}

#[tokio::test]
async fn a_prompt_that_panics_is_refused_and_the_rest_of_its_batch_begins_again() {
    let toy = Toy::endless();
    let worker = start(&toy, &GenerateLimits::default());
    let undisturbed = worker.generate(raw("shares", 40)).await.unwrap();
    for poison in ["!panic in step", "!panic in prefill"] {
        let before = worker.observe();
        toy.gate.shut();
        let shares = ask(&worker, raw("shares", 40)).await;
        while worker.observe().batches == before.batches {
            tokio::task::yield_now().await;
        }
        let poisoned = ask(&worker, raw(poison, 5)).await;
        toy.gate.open();
        let error = poisoned.await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string().split(": ").next(),
            Some("toy panics over this request")
        );
        assert!(!error.is_retryable() && !error.is_infrastructure());
        let answer = shares.await.unwrap().unwrap();
        assert_eq!(answer.text, undisturbed.text);
        assert!(worker.generate(raw("fine", 5)).await.is_ok());
        let after = worker.observe();
        assert_eq!(
            after.panics - before.panics,
            3,
            "together, alone, and alone again"
        );
        assert_eq!((after.poisoned - before.poisoned, after.waiting), (1, 0));
    }
    let error = worker.generate(raw("!fail", 5)).await.unwrap_err();
    assert_eq!(error.to_string(), "toy failed: as asked");
    assert_eq!(worker.state(), WorkerState::Ready);
}

#[tokio::test]
async fn a_shared_beginning_is_read_once() {
    let toy = Toy::default();
    let limits = GenerateLimits {
        prefix_tokens_min: 5,
        ..GenerateLimits::default()
    };
    let worker = start(&toy, &limits);
    let chat = |system: &str, user: &str| {
        let message = |role, text: &str| ChatMessage::new(role, text);
        let messages = vec![
            message(ChatRole::System, system),
            message(ChatRole::User, user),
        ];
        GenerateRequest {
            tokens_max: 1,
            ..GenerateRequest::chat(messages)
        }
    };
    for user in ["a", "bb", "ccc"] {
        worker.generate(chat("the same rules", user)).await.unwrap();
    }
    worker.generate(chat("too", "short")).await.unwrap();
    let read = ["the same rules\n", "a\n", "bb\n", "ccc\n", "too\nshort\n"];
    assert_eq!(toy.read(), read);
    assert_eq!(worker.observe().prefix_tokens, 2 * 15);
}

#[tokio::test]
async fn a_schema_forces_what_it_leaves_no_choice_about() {
    let toy = Toy::endless();
    let worker = start(&toy, &GenerateLimits::default());
    let with = |schema: serde_json::Value, tokens_max| GenerateRequest {
        schema: Some(Arc::new(schema)),
        ..raw("prompt", tokens_max)
    };
    let answer = worker
        .generate(with(json!({"const": "only"}), 20))
        .await
        .unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.finish),
        ("\"only\"", FinishReason::Stop)
    );
    assert!(toy.read().is_empty(), "the model was not asked");
    let labels = json!({"type": "object", "properties": {"label": {"enum": ["yes", "no"]}},
        "required": ["label"], "additionalProperties": false});
    let answer = worker.generate(with(labels.clone(), 40)).await.unwrap();
    assert!([r#"{"label": "yes"}"#, r#"{"label": "no"}"#].contains(&answer.text.as_str()));
    assert_eq!(answer.finish, FinishReason::Stop);
    assert_eq!(
        worker.observe().batches,
        0,
        "one free choice needs no decode step"
    );
    assert!(
        answer.logprob_sum < 0.0 && answer.logprob_sum.to_bits() == answer.logprob_mean.to_bits()
    );
    let answer = worker.generate(with(labels, 4)).await.unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.finish),
        (r#"{"la"#, FinishReason::Length)
    );
    let error = worker.generate(with(json!(7), 4)).await.unwrap_err();
    assert!(matches!(error, InferenceError::Schema { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_ends_before_a_stop_text() {
    let worker = start(&Toy::endless(), &GenerateLimits::default());
    let whole = worker.generate(raw("prompt", 20)).await.unwrap();
    assert_eq!(
        (whole.finish, whole.completion_tokens),
        (FinishReason::Length, 20)
    );
    let stop = vec![whole.text.chars().skip(7).take(3).collect::<String>()];
    let first = whole.text.find(&stop[0]).unwrap();
    let cut = worker
        .generate(GenerateRequest {
            stop,
            ..raw("prompt", 20)
        })
        .await
        .unwrap();
    assert_eq!(
        (cut.finish, cut.text.as_str()),
        (FinishReason::StopText, &whole.text[..first])
    );
}

#[tokio::test]
async fn batches_are_reported_with_the_spans_of_their_requests() {
    let reports = Arc::new(Reports::default());
    let worker = GenerateWorker::start(
        || Ok(Toy::endless()),
        &GenerateLimits::default(),
        Arc::new(StepClock::default()),
        Arc::<Reports>::clone(&reports),
    )
    .unwrap();
    let trace = TraceContext {
        trace_id: 7,
        span_id: 9,
        sampled: true,
    };
    let answer = worker
        .generate(GenerateRequest {
            trace,
            ..raw("abc", 4)
        })
        .await
        .unwrap();
    let reports = reports.0.lock().unwrap();
    let seen: Vec<_> = reports
        .iter()
        .map(|it| (it.id, it.kind, it.rows, it.tokens))
        .collect();
    // The first token comes with the prompt, the others with a step each.
    assert_eq!(
        seen,
        [(1, BatchKind::Prefill, 1, 3), (2, BatchKind::Decode, 1, 3)]
    );
    assert!(reports.iter().all(|report| report.links == [trace]));
    assert_eq!((answer.stats.batch, answer.stats.batch_size), (2, 1));
}

#[tokio::test]
async fn what_could_never_be_answered_is_refused() {
    let limits = GenerateLimits {
        cache_tokens_max: 64,
        waiting_max: 1,
        ..GenerateLimits::default()
    };
    let worker = start(&Toy::endless(), &limits);
    let error = worker.generate(raw("12345", 60)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "65 tokens of prompt and answer, toy takes 64"
    );
    for bad in [raw("", 5), raw("x", 0)] {
        let error = worker.generate(bad).await.unwrap_err();
        assert!(matches!(error, InferenceError::Request { .. }), "{error}");
    }
    assert_eq!(worker.observe().waiting, 0);
}

#[tokio::test]
async fn closing_answers_everybody_and_ends_the_thread() {
    let worker = start(
        &Toy::endless(),
        &GenerateLimits {
            rows_max: 1,
            ..GenerateLimits::default()
        },
    );
    let runs = ask(&worker, raw("runs", 8_000)).await;
    let waits = ask(&worker, raw("waits", 8_000)).await;
    worker.close();
    for task in [runs, waits] {
        assert!(matches!(
            task.await.unwrap(),
            Err(InferenceError::Closed { .. })
        ));
    }
    let error = worker.generate(raw("after", 1)).await.unwrap_err();
    assert!(matches!(error, InferenceError::Closed { .. }));
    assert_eq!(
        Arc::strong_count(&worker.thread.shared),
        1,
        "the thread is gone"
    );
}
