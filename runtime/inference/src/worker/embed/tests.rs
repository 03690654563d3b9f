#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; the toy engine counts in whole numbers"
)]

use std::{
    sync::{
        Mutex as StdMutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use colony_core::{
    id::Tenant,
    task::{Priority, TraceContext},
    unit::Timestamp,
};

use super::*;
use crate::{
    batch_stats::NoObserver,
    worker::testing::{Gate, ManualClock, Reports, StepClock},
};

/// One token a byte; the vector is the row's length. `panic` panics, `fail` fails, and calls wait
/// in front of the gate.
#[derive(Debug, Clone, Default)]
struct Toy {
    gate: Gate,
    /// It cannot be opened.
    is_missing: Arc<AtomicBool>,
    calls: Arc<StdMutex<Vec<Vec<usize>>>>,
}

impl Toy {
    fn open(&self) -> Result<Self, InferenceError> {
        if self.is_missing.load(Ordering::Relaxed) {
            return Err(InferenceError::Model {
                model: "toy".into(),
                what: "no file".into(),
            });
        }
        Ok(self.clone())
    }
}

impl TextTokenizer for Toy {
    fn tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(text.bytes().map(u32::from).collect())
    }
}

impl EncoderEngine for Toy {
    fn info(&self) -> EmbedderInfo {
        EmbedderInfo {
            model: "toy".into(),
            dimensions: 1,
            tokens_max: 100,
        }
    }

    fn tokenizer(&self) -> Arc<dyn TextTokenizer> {
        Arc::new(self.clone())
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn encode(&mut self, rows: &[&[u32]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        let is = |text: &str| {
            rows.iter()
                .any(|row| text.bytes().map(u32::from).eq(row.iter().copied()))
        };
        if !is(WARM_UP_TEXT) {
            let lengths = rows.iter().map(|row| row.len()).collect();
            self.calls.lock().unwrap().push(lengths);
            self.gate.pass();
        }
        assert!(!is("panic"), "as asked");
        if is("fail") {
            return Err(EngineError("as asked".into()));
        }
        Ok(rows
            .iter()
            .map(|row| Arc::from([row.len() as f32]))
            .collect())
    }
}

fn start(toy: &Toy, limits: &EmbedLimits) -> Arc<EmbedWorker> {
    start_with(
        toy,
        limits,
        Arc::new(StepClock::default()),
        Arc::new(NoObserver),
    )
}

fn start_with(
    toy: &Toy,
    limits: &EmbedLimits,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn BatchObserver>,
) -> Arc<EmbedWorker> {
    let toy = toy.clone();
    EmbedWorker::start(move || toy.open(), limits, clock, observer).unwrap()
}

fn request(text: &str) -> EmbedRequest {
    EmbedRequest::new(text)
}

/// Asks in a task of its own and returns when the worker has admitted it.
async fn ask(
    worker: &Arc<EmbedWorker>,
    request: EmbedRequest,
) -> tokio::task::JoinHandle<Result<Embedded, InferenceError>> {
    let before = worker.observe().requests;
    let asking = Arc::clone(worker);
    let task = tokio::runtime::Handle::current().spawn(async move { asking.embed(request).await });
    while worker.observe().requests == before {
        tokio::task::yield_now().await;
    }
    task
}

/// Shuts the gate and lets one text run against it, so that what follows has to wait.
async fn blocked(
    worker: &Arc<EmbedWorker>,
    toy: &Toy,
) -> tokio::task::JoinHandle<Result<Embedded, InferenceError>> {
    toy.gate.shut();
    let first = ask(worker, request("first")).await;
    while toy.calls.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    first
}

#[tokio::test]
async fn what_waits_is_one_batch_sorted_by_length_within_the_budget() {
    let toy = Toy::default();
    let limits = EmbedLimits {
        batch_tokens_max: 12,
        ..EmbedLimits::default()
    };
    let worker = start(&toy, &limits);
    let first = blocked(&worker, &toy).await;
    let mut rest = Vec::new();
    for text in ["4444", "1", "666666", "22"] {
        rest.push(ask(&worker, request(text)).await);
    }
    toy.gate.open();
    assert_eq!(first.await.unwrap().unwrap().vector[0], 5.0);
    let mut batches = Vec::new();
    for (answer, length) in rest.into_iter().zip([4.0, 1.0, 6.0, 2.0]) {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.vector[0], length);
        batches.push((answer.stats.batch, answer.stats.batch_size));
    }
    assert_eq!(batches, [(2, 3), (2, 3), (3, 1), (2, 3)]);
    assert_eq!(
        *toy.calls.lock().unwrap(),
        [vec![5], vec![1, 2, 4], vec![6]]
    );
}

#[tokio::test]
async fn urgent_ones_go_first_and_tenants_take_turns() {
    let toy = Toy::default();
    let worker = start(
        &toy,
        &EmbedLimits {
            batch_rows_max: 1,
            ..EmbedLimits::default()
        },
    );
    let _first = blocked(&worker, &toy).await;
    let mut rest = Vec::new();
    let asks = [
        ("1", "a", 5),
        ("22", "a", 5),
        ("333", "b", 5),
        ("4444", "a", 7),
    ];
    for (text, tenant, priority) in asks {
        let (tenant, priority) = (
            Tenant::new(tenant).unwrap(),
            Priority::new(priority).unwrap(),
        );
        rest.push(
            ask(
                &worker,
                EmbedRequest {
                    tenant,
                    priority,
                    ..request(text)
                },
            )
            .await,
        );
    }
    toy.gate.open();
    for answer in rest {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(*toy.calls.lock().unwrap(), [[5], [4], [3], [1], [2]]);
}

#[tokio::test]
async fn the_queue_is_bounded_and_says_so() {
    let toy = Toy::default();
    let worker = start(
        &toy,
        &EmbedLimits {
            waiting_max: 2,
            ..EmbedLimits::default()
        },
    );
    let first = blocked(&worker, &toy).await;
    let second = ask(&worker, request("second")).await;
    let refused = worker.embed(request("third")).await.unwrap_err();
    assert!(matches!(
        refused,
        InferenceError::Full {
            waiting: 2,
            limit: 2,
            ..
        }
    ));
    assert!(refused.is_retryable() && refused.retry_after().is_some());
    toy.gate.open();
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
    assert!(worker.embed(request("third")).await.is_ok());
    let seen = worker.observe();
    assert_eq!(
        (seen.waiting, seen.requests, seen.answered, seen.refused),
        (0, 3, 3, 1)
    );
}

#[tokio::test]
async fn late_and_withdrawn_requests_cost_no_model_call() {
    let toy = Toy::default();
    let worker = start(&toy, &EmbedLimits::default());
    let first = blocked(&worker, &toy).await;
    let cancelled = ask(&worker, request("cancelled")).await;
    let deadline = Some(
        worker
            .thread
            .shared
            .clock
            .now()
            .after(Duration::from_millis(3)),
    );
    let late = ask(
        &worker,
        EmbedRequest {
            deadline,
            ..request("late")
        },
    )
    .await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        worker.thread.shared.clock.now();
    }
    toy.gate.open();
    first.await.unwrap().unwrap();
    assert!(matches!(
        late.await.unwrap(),
        Err(InferenceError::DeadlinePassed { .. })
    ));
    assert_eq!(*toy.calls.lock().unwrap(), [[5]]);
    let seen = worker.observe();
    assert_eq!((seen.late, seen.cancelled, seen.waiting), (1, 1, 0));
}

#[tokio::test]
async fn a_text_that_panics_alone_is_refused_and_costs_the_worker_nothing() {
    let toy = Toy::default();
    let worker = start(&toy, &EmbedLimits::default());
    for _ in 0..5 {
        let error = worker.embed(request("panic")).await.unwrap_err();
        assert_eq!(error.to_string(), "toy panics over this request: as asked");
        assert!(!error.is_retryable() && !error.is_infrastructure());
        assert!(worker.embed(request("fine")).await.is_ok());
    }
    let seen = worker.observe();
    assert_eq!((seen.panics, seen.poisoned, seen.answered), (10, 5, 5));
    assert_eq!((seen.state, seen.waiting), (WorkerState::Ready, 0));
}

#[tokio::test]
async fn the_rest_of_a_batch_that_one_text_fails_gets_its_answers() {
    for (bad, message) in [
        ("panic", "toy panics over this request: as asked"),
        ("fail", "toy failed: as asked"),
    ] {
        let toy = Toy::default();
        let worker = start(&toy, &EmbedLimits::default());
        let first = blocked(&worker, &toy).await;
        let mut rest = Vec::new();
        for text in ["4444", bad, "22"] {
            rest.push(ask(&worker, request(text)).await);
        }
        toy.gate.open();
        first.await.unwrap().unwrap();
        let mut answers = Vec::new();
        for answer in rest {
            let answer = answer.await.unwrap();
            answers.push(match answer {
                Ok(answer) => answer.vector[0].to_string(),
                Err(error) => error.to_string(),
            });
        }
        assert_eq!(answers, ["4", message, "2"]);
        let bad = bad.len();
        let mut calls = vec![vec![5], vec![2, 4, bad], vec![2], vec![4], vec![bad]];
        if message.contains("panics") {
            calls.push(vec![bad]);
        }
        assert_eq!(*toy.calls.lock().unwrap(), calls, "each alone, in its turn");
    }
}

#[tokio::test]
async fn an_engine_that_is_gone_is_opened_again_when_it_is_back() {
    let (toy, clock) = (Toy::default(), Arc::new(ManualClock::default()));
    let worker = start_with(
        &toy,
        &EmbedLimits::default(),
        Arc::<ManualClock>::clone(&clock),
        Arc::new(NoObserver),
    );
    toy.is_missing.store(true, Ordering::Relaxed);
    let mut delay = Duration::from_millis(100);
    // The first loses the engine and waits for its second try; opening fails.
    for (text, failures) in [("panic", 1), ("fine", 2), ("fine", 3)] {
        let error = worker.embed(request(text)).await.unwrap_err();
        let unavailable = InferenceError::Unavailable {
            model: "toy".into(),
            what: "model toy: no file".into(),
            retry_after: delay,
        };
        assert_eq!(error, unavailable);
        assert!(error.is_infrastructure() && error.is_retryable());
        let reopening = WorkerState::Reopening {
            since: Timestamp::default(),
            failures,
            reason: "model toy: no file".into(),
        };
        assert_eq!(worker.state(), reopening);
        assert_eq!(worker.observe().state, reopening);
        let error = worker.embed(request("too early")).await.unwrap_err();
        assert_eq!(error, unavailable);
        clock.advance(delay);
        delay *= 2;
    }
    toy.is_missing.store(false, Ordering::Relaxed);
    clock.advance(delay);
    assert!(worker.embed(request("fine")).await.is_ok());
    assert_eq!(worker.state(), WorkerState::Ready);
    assert_eq!(worker.observe().waiting, 0);
}

#[derive(Debug)]
struct PanickingObserver;

impl BatchObserver for PanickingObserver {
    fn batch_ran(&self, report: &BatchReport) {
        assert_ne!(report.tokens, 5, "as asked");
    }
}

#[tokio::test]
async fn a_panic_beside_the_engine_is_nobodys_fault_and_leaves_nobody_waiting() {
    let toy = Toy::default();
    let worker = start_with(
        &toy,
        &EmbedLimits::default(),
        Arc::new(StepClock::default()),
        Arc::new(PanickingObserver),
    );
    let error = worker.embed(request("five!")).await.unwrap_err();
    assert!(error.is_infrastructure() && error.is_retryable(), "{error}");
    assert!(worker.embed(request("fine")).await.is_ok());
    let seen = worker.observe();
    assert_eq!((seen.panics, seen.poisoned, seen.waiting), (1, 0, 0));
}

/// Panics on the engine's thread, once it is told to.
#[derive(Debug, Default)]
struct PanickingClock(AtomicBool);

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        let on_engine_thread = thread::current().name() == Some("engine-toy");
        assert!(
            !on_engine_thread || !self.0.load(Ordering::Relaxed),
            "as asked"
        );
        Timestamp::default()
    }
}

#[tokio::test]
async fn whatever_ends_the_thread_everybody_is_answered_and_every_permit_is_free() {
    let (toy, clock) = (Toy::default(), Arc::new(PanickingClock::default()));
    let worker = start_with(
        &toy,
        &EmbedLimits::default(),
        Arc::<PanickingClock>::clone(&clock),
        Arc::new(NoObserver),
    );
    let in_flight = blocked(&worker, &toy).await;
    let waits = ask(&worker, request("waits")).await;
    let mut state = worker.watch_state();
    clock.0.store(true, Ordering::Relaxed);
    toy.gate.open();
    for answer in [in_flight, waits] {
        let error = answer.await.unwrap().unwrap_err();
        assert!(error.is_infrastructure() && error.is_retryable(), "{error}");
    }
    state
        .wait_for(|it| *it == WorkerState::Closed)
        .await
        .unwrap();
    let error = worker.embed(request("after")).await.unwrap_err();
    assert!(matches!(error, InferenceError::Closed { .. }), "{error}");
    assert!(error.is_infrastructure());
    worker.close();
    assert_eq!(worker.observe().waiting, 0);
}

#[tokio::test]
async fn closing_answers_everybody_and_ends_the_thread() {
    let toy = Toy::default();
    let worker = start(&toy, &EmbedLimits::default());
    let first = blocked(&worker, &toy).await;
    let waits = ask(&worker, request("waits")).await;
    let closing = thread::spawn({
        let worker = Arc::clone(&worker);
        move || worker.close()
    });
    assert!(matches!(
        waits.await.unwrap(),
        Err(InferenceError::Closed { .. })
    ));
    toy.gate.open();
    closing.join().unwrap();
    assert!(first.await.unwrap().is_ok());
    let error = worker.embed(request("after")).await.unwrap_err();
    assert!(matches!(error, InferenceError::Closed { .. }));
    assert_eq!(worker.state(), WorkerState::Closed);
    assert_eq!(
        Arc::strong_count(&worker.thread.shared),
        1,
        "the thread is gone"
    );
}

#[tokio::test]
async fn a_batch_is_reported_with_the_spans_of_its_requests() {
    let reports = Arc::new(Reports::default());
    let clock = Arc::new(StepClock::default());
    let observer = Arc::<Reports>::clone(&reports);
    let worker = start_with(&Toy::default(), &EmbedLimits::default(), clock, observer);
    let trace = TraceContext {
        trace_id: 7,
        span_id: 9,
        sampled: true,
    };
    let answer = worker
        .embed(EmbedRequest {
            trace,
            ..request("abc")
        })
        .await
        .unwrap();
    worker.embed(request("not sampled")).await.unwrap();
    let reports = reports.0.lock().unwrap();
    assert_eq!(reports[0].links, [trace]);
    assert_eq!(
        (reports[0].id, reports[0].rows, reports[0].tokens),
        (answer.stats.batch, 1, 3)
    );
    assert_eq!(reports[1].links, []);
}
