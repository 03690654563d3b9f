#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; the toy engine counts in whole numbers"
)]

use std::{
    sync::{Condvar as StdCondvar, Mutex as StdMutex},
    time::Duration,
};

use colony_core::{id::Tenant, task::Priority, task::TraceContext};

use super::*;
use crate::{
    engine::EngineError,
    ride::NoObserver,
    worker::testing::{Reports, StepClock},
};

/// One token a byte; the vector is the row's length. `panic` panics, `fail` fails. While the gate
/// is shut, calls wait in front of it.
#[derive(Debug, Clone, Default)]
struct Toy {
    gate: Arc<(StdMutex<bool>, StdCondvar)>,
    calls: Arc<StdMutex<Vec<Vec<usize>>>>,
}

impl Toy {
    fn open(&self, open: bool) {
        *self.gate.0.lock().unwrap() = !open;
        self.gate.1.notify_all();
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
        self.calls
            .lock()
            .unwrap()
            .push(rows.iter().map(|row| row.len()).collect());
        let shut = self.gate.0.lock().unwrap();
        drop(self.gate.1.wait_while(shut, |shut| *shut).unwrap());
        let is = |text: &str| {
            rows.iter()
                .any(|row| text.bytes().map(u32::from).eq(row.iter().copied()))
        };
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
    EmbedWorker::start(
        toy.clone(),
        limits,
        Arc::new(StepClock::default()),
        Arc::new(NoObserver),
    )
    .unwrap()
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
    toy.open(false);
    let first = ask(worker, request("first")).await;
    while toy.calls.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    first
}

#[tokio::test]
async fn what_waits_rides_together_sorted_by_length_within_the_budget() {
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
    toy.open(true);
    assert_eq!(first.await.unwrap().unwrap().vector[0], 5.0);
    let mut rides = Vec::new();
    for (answer, length) in rest.into_iter().zip([4.0, 1.0, 6.0, 2.0]) {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.vector[0], length);
        rides.push((answer.ride.batch, answer.ride.batch_size));
    }
    assert_eq!(rides, [(2, 3), (2, 3), (3, 1), (2, 3)]);
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
    toy.open(true);
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
    toy.open(true);
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
    let withdrawn = ask(&worker, request("withdrawn")).await;
    let deadline = Some(worker.clock.now().after(Duration::from_millis(3)));
    let late = ask(
        &worker,
        EmbedRequest {
            deadline,
            ..request("late")
        },
    )
    .await;
    withdrawn.abort();
    assert!(withdrawn.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        worker.clock.now();
    }
    toy.open(true);
    first.await.unwrap().unwrap();
    assert!(matches!(
        late.await.unwrap(),
        Err(InferenceError::DeadlinePassed { .. })
    ));
    assert_eq!(*toy.calls.lock().unwrap(), [[5]]);
    let seen = worker.observe();
    assert_eq!((seen.late, seen.withdrawn, seen.waiting), (1, 1, 0));
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_worker_goes_on_until_it_has_had_enough() {
    let toy = Toy::default();
    let worker = start(
        &toy,
        &EmbedLimits {
            panics_max: 2,
            ..EmbedLimits::default()
        },
    );
    let error = worker.embed(request("fail")).await.unwrap_err();
    assert_eq!(error.to_string(), "toy failed: as asked");
    for _ in 0..3 {
        let error = worker.embed(request("panic")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "toy failed: the engine panicked: as asked"
        );
        assert!(worker.embed(request("fine")).await.is_ok());
    }
    for _ in 0..2 {
        assert!(
            worker
                .embed(request("panic"))
                .await
                .unwrap_err()
                .is_retryable()
        );
    }
    let error = worker.embed(request("fine")).await.unwrap_err();
    assert!(matches!(error, InferenceError::Shut { .. }));
    assert_eq!(worker.observe().panics, 5);
}

#[tokio::test]
async fn shutting_answers_everybody_and_ends_the_thread() {
    let toy = Toy::default();
    let worker = start(&toy, &EmbedLimits::default());
    let first = blocked(&worker, &toy).await;
    let waits = ask(&worker, request("waits")).await;
    worker.shared.intake.close();
    toy.open(true);
    worker.shut();
    assert!(first.await.unwrap().is_ok());
    assert!(matches!(
        waits.await.unwrap(),
        Err(InferenceError::Shut { .. })
    ));
    let error = worker.embed(request("after")).await.unwrap_err();
    assert!(matches!(error, InferenceError::Shut { .. }));
    assert_eq!(Arc::strong_count(&worker.shared), 1, "the thread is gone");
}

#[tokio::test]
async fn a_batch_is_reported_with_the_spans_of_its_riders() {
    let reports = Arc::new(Reports::default());
    let clock = Arc::new(StepClock::default());
    let observer = Arc::<Reports>::clone(&reports);
    let worker =
        EmbedWorker::start(Toy::default(), &EmbedLimits::default(), clock, observer).unwrap();
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
        (answer.ride.batch, 1, 3)
    );
    assert_eq!(reports[1].links, []);
}
