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
    EchoEmbedder, EmbedRequest, Embedded, Embedder, EmbedderInfo, InferenceError, WorkerStats,
};
use colony_node::{Node, NodeHandle};

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
        self.model.observe()
    }

    fn watch_state(&self) -> tokio::sync::watch::Receiver<colony_inference::WorkerState> {
        self.model.watch_state()
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
    let model = Arc::new(Away {
        model: EchoEmbedder::new(clock(), None),
        away: AtomicBool::new(true),
        asked: AtomicU64::new(0),
    });
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
