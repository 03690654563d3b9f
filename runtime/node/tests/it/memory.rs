//! Memory belongs to the model that embedded it.

use std::sync::Arc;

use async_trait::async_trait;
use colony_core::task::{Spec, State};
use colony_inference::{
    EchoEmbedder, EmbedRequest, Embedded, Embedder, EmbedderInfo, InferenceError, Observation,
};
use colony_node::{Colony, StartError, World, ports::SystemClock};
use colony_store::{MemoryLedger, Policy};

use crate::walk::{agent_type, config, submit, until, world};

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

    fn observe(&self) -> Observation {
        self.0.observe()
    }
}

/// A next life with the book of the former one.
fn next(disk: &mut MemoryLedger) -> World {
    *disk = disk.crash();
    world(Arc::new(disk.clone()))
}

fn next_with_another(disk: &mut MemoryLedger) -> World {
    let mut world = next(disk);
    let embedder = Renamed(EchoEmbedder::new(Arc::new(SystemClock::start()), None));
    let embedders = &mut world.workers.embedders;
    embedders.insert("minilm".to_owned(), Arc::new(embedder));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_is_refused_to_another_embedding_model_once_it_holds_something() {
    let config = config(&[("triage", 1)]);
    let mut disk = MemoryLedger::new(Policy::default());
    // An empty memory takes any model.
    let colony = Colony::start(&config, next_with_another(&mut disk)).await;
    colony.expect("starts").stop().await;
    let colony = Colony::start(&config, next(&mut disk))
        .await
        .expect("starts");
    let rooms = colony.rooms();
    let ids = submit(&rooms, vec![Spec::new(agent_type("triage"), "no paper")]).await;
    until(&rooms, &ids, &[State::Parked]).await;
    let taught = rooms.feedback(ids[0], "printer").await;
    taught.expect("something to learn from");
    colony.stop().await;
    let error = Colony::start(&config, next_with_another(&mut disk))
        .await
        .expect_err("other vectors");
    assert!(matches!(error, StartError::Memory(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("model echo, and now there is another"),
        "{text}"
    );
    let colony = Colony::start(&config, next(&mut disk)).await;
    colony.expect("the same model again").stop().await;
}
