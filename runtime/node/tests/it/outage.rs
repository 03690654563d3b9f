//! A model that is away, for longer than every back-off added up: nobody dies of it (C7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use colony_core::task::{Spec, State};
use colony_inference::{
    EchoEmbedder, EmbedRequest, Embedded, Embedder, EmbedderInfo, InferenceError, WorkerState,
    WorkerStats,
};
use colony_node::{Health, Node, NodeHandle};
use tokio::sync::watch;

use crate::walk::{agent_type, clock, config, dependencies, ledger, submit};

/// Longer than five failed attempts with their back-offs, by far.
const OUTAGE: Duration = Duration::from_secs(30 * 60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const TASKS: usize = 40;

/// An embedding model that can be away; counts how often it is asked meanwhile.
#[derive(Debug)]
struct Away {
    model: EchoEmbedder,
    away: AtomicBool,
    asked: AtomicU64,
    state: watch::Sender<WorkerState>,
}

fn away(away: bool) -> Arc<Away> {
    Arc::new(Away {
        model: EchoEmbedder::new(clock(), None),
        away: AtomicBool::new(away),
        asked: AtomicU64::new(0),
        state: watch::Sender::default(),
    })
}

#[async_trait]
impl Embedder for Away {
    fn info(&self) -> EmbedderInfo {
        self.model.info()
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError> {
        if self.away.load(Ordering::Relaxed) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            return Err(InferenceError::Unavailable {
                model: "minilm".to_owned(),
                what: "connection refused".to_owned(),
                retry_after: Duration::from_secs(1),
            });
        }
        self.model.embed(request).await
    }

    fn observe(&self) -> WorkerStats {
        WorkerStats {
            state: self.state.borrow().clone(),
            ..self.model.observe()
        }
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.state.subscribe()
    }
}

/// Waits, in virtual time, until every task is in `state`.
async fn until(handle: &NodeHandle, state: State, count: usize) {
    while handle.counts().await.expect("readable").by_state[&state] < count as u64 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_away_for_half_an_hour_kills_no_task_and_is_hardly_asked() {
    let model = away(true);
    let mut dependencies = dependencies(ledger());
    let embedders = &mut dependencies.workers.embedders;
    embedders.insert("minilm".to_owned(), Arc::clone(&model) as _);
    let mut config = config(&[("triage", 4), ("echo", 2)]);
    config.market.recheck_every = Duration::ZERO;
    let node = Node::start(&config, dependencies).await.expect("starts");
    let handle = node.handle();
    let specs = (0..TASKS).map(|n| Spec::new(agent_type("triage"), format!("ticket {n}")));
    let ids = submit(&handle, specs.collect()).await;
    // The other type works on.
    submit(&handle, vec![Spec::new(agent_type("echo"), "hello")]).await;
    until(&handle, State::Done, 1).await;
    tokio::time::sleep(OUTAGE).await;
    let status = handle.status().await.expect("answers");
    assert_eq!(status.open_ports[0].port, "model/minilm");
    assert_eq!(status.counts.by_state[&State::Dead], 0);
    let asked = model.asked.load(Ordering::Relaxed);
    // A probe every half a minute with its few tries, and what was under way when the breaker opened.
    assert!((60..=600).contains(&asked), "asked {asked} times");
    model.away.store(false, Ordering::Relaxed);
    // Nothing was learned yet, so every ticket waits for a human.
    until(&handle, State::Waiting, TASKS).await;
    for id in ids {
        let head = handle.task(id).await.expect("known").head;
        assert_eq!(head.failed_attempts, 0, "{head:?}");
    }
    let status = handle.status().await.expect("answers");
    assert_eq!(status.open_ports, []);
    node.stop().await;
}

/// C8 and C15: a worker says that its engine is away, and a node does not outlive a worker that has ended.
#[tokio::test(start_paused = true)]
async fn a_worker_tells_how_it_is_and_its_end_is_the_nodes() {
    let model = away(false);
    let mut dependencies = dependencies(ledger());
    let embedders = &mut dependencies.workers.embedders;
    embedders.insert("minilm".to_owned(), Arc::clone(&model) as _);
    let node = Node::start(&config(&[("triage", 1)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let state = |handle: &NodeHandle| handle.models()[0].figures.state.clone();
    assert_eq!(state(&handle), WorkerState::Ready);
    let reopening = WorkerState::Reopening {
        since: clock().now(),
        failures: 2,
        reason: "out of memory".to_owned(),
    };
    model.state.send_replace(reopening.clone());
    assert_eq!(state(&handle), reopening);
    assert_eq!(*handle.health().borrow(), Health::Serving);

    model.state.send_replace(WorkerState::Closed);
    let mut health = handle.health();
    let failed = health.wait_for(|health| matches!(health, Health::Failed(_)));
    let failed = failed.await.expect("told").clone();
    assert!(format!("{failed:?}").contains("minilm"), "{failed:?}");
    node.stop().await;
}
