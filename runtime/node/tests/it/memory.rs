//! Memory belongs to the model that embedded it, and learns what has ended.

use std::sync::Arc;

use async_trait::async_trait;
use colony_agents::{Kind, Kinds, StepContext, StepError};
use colony_core::{
    cycle::{Learning, Percept, Thought},
    task::{Answer, Spec, State},
};
use colony_inference::{
    EchoEmbedder, EmbedRequest, Embedded, Embedder, EmbedderInfo, InferenceError, WorkerState,
    WorkerStats,
};
use colony_node::{Dependencies, Node, StartError, ports::SystemClock};
use colony_store::{EpisodeChange, Ledger, MemoryLedger, Policy};
use tokio::sync::watch;

use crate::walk::{
    agent_type, clock, config, dependencies, request, submit, until, until_episodes,
};

/// The same vectors under another name: lengths alone would not tell the two apart.
#[derive(Debug)]
struct Renamed(EchoEmbedder);

#[async_trait]
impl Embedder for Renamed {
    fn info(&self) -> EmbedderInfo {
        EmbedderInfo {
            model: "another".to_owned(),
            ..self.0.info()
        }
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError> {
        self.0.embed(request).await
    }

    fn observe(&self) -> WorkerStats {
        self.0.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.0.watch_state()
    }
}

/// A next life with the ledger of the former one.
fn next(disk: &mut MemoryLedger) -> Dependencies {
    *disk = disk.crash();
    dependencies(Arc::new(disk.clone()))
}

fn next_with_another(disk: &mut MemoryLedger) -> Dependencies {
    let mut dependencies = next(disk);
    let embedder = Renamed(EchoEmbedder::new(Arc::new(SystemClock::start()), None));
    let embedders = &mut dependencies.workers.embedders;
    embedders.insert("minilm".to_owned(), Arc::new(embedder));
    dependencies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_is_refused_to_another_embedding_model_once_it_holds_something() {
    let config = config(&[("triage", 1)]);
    let mut disk = MemoryLedger::new(Policy::default(), clock());
    // An empty memory takes any model.
    let node = Node::start(&config, next_with_another(&mut disk)).await;
    node.expect("starts").stop().await;
    let node = Node::start(&config, next(&mut disk)).await.expect("starts");
    let handle = node.handle();
    let ids = submit(&handle, vec![Spec::new(agent_type("triage"), "no paper")]).await;
    until(&handle, &ids, &[State::Waiting]).await;
    let taught = handle.feedback(ids[0], "printer").await;
    taught.expect("something to learn from");
    node.stop().await;
    let error = Node::start(&config, next_with_another(&mut disk))
        .await
        .expect_err("other vectors");
    assert!(matches!(error, StartError::Memory(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("model echo, and now there is another"),
        "{text}"
    );
    let node = Node::start(&config, next(&mut disk)).await;
    node.expect("the same model again").stop().await;
}

/// Teaches what it was given, once it may.
#[derive(Debug)]
struct Teacher {
    learning: watch::Sender<bool>,
    may_end: watch::Sender<bool>,
}

#[async_trait]
impl Kind for Teacher {
    fn name(&self) -> &'static str {
        "teacher"
    }

    async fn perceive(&self, context: &StepContext) -> Result<Percept, StepError> {
        Ok(Percept {
            text: context.spec.input.to_string(),
            vector: Some(Arc::from([0.6_f32, 0.8])),
        })
    }

    async fn reason(&self, _: &StepContext) -> Result<Thought, StepError> {
        Ok(Thought {
            answer: Answer::by_rule("fine", "it is a test"),
            escalation_reason: None,
            model_calls: vec![],
            findings: Vec::new(),
        })
    }

    async fn learn(&self, context: &StepContext) -> Result<Learning, StepError> {
        self.learning.send_replace(true);
        let mut may_end = self.may_end.subscribe();
        may_end
            .wait_for(|may| *may)
            .await
            .expect("the kind is there");
        Ok(Learning {
            teach: Some(context.spec.input.to_string()),
            ..Learning::default()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_teaches_nothing() {
    let teacher = Arc::new(Teacher {
        learning: watch::Sender::new(false),
        may_end: watch::Sender::new(false),
    });
    let disk = MemoryLedger::new(Policy::default(), clock());
    let mut dependencies = dependencies(Arc::new(disk.clone()));
    dependencies.kinds = Kinds::builtin().with(Arc::clone(&teacher) as _);
    let node = Node::start(&config(&[("teacher", 1)]), dependencies)
        .await
        .expect("starts");
    let handle = node.handle();
    let spec = |input: &str| vec![Spec::new(agent_type("teacher"), input)];
    let cancelled = submit(&handle, spec("mistake")).await;
    let mut learning = teacher.learning.subscribe();
    learning
        .wait_for(|learning| *learning)
        .await
        .expect("there");
    handle.cancel(cancelled[0], request()).await.expect("live");
    teacher.may_end.send_replace(true);

    let done = submit(&handle, spec("bill")).await;
    until(&handle, &done, &[State::Done]).await;
    until_episodes(&handle, 1).await;
    let streams = disk.episode_streams().await.expect("readable");
    let changes = disk.episodes(&streams[0], 0, 10).await.expect("readable");
    let [EpisodeChange::Learned(episode)] = &changes.items[..] else {
        panic!("{changes:?}");
    };
    assert_eq!((episode.task, episode.label.as_str()), (done[0], "bill"));
    node.stop().await;
}
