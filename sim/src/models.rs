//! The models of the simulated world: echo engines that are away now and then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use colony_core::{port::Clock, unit::Timestamp};
use colony_inference::{
    EchoEmbedder, EchoGenerator, EmbedRequest, Embedded, Embedder, EmbedderInfo, GenerateRequest,
    Generated, Generator, GeneratorInfo, InferenceError, WorkerState, WorkerStats,
};
use colony_node::workers::Workers;
use tokio::sync::watch;

use crate::{
    workload::{Call, InFlight, OutageMode, Phase, Port},
    world::{Met, World},
};

/// The name of the embedding model.
pub(crate) const EMBEDDER: &str = "minilm";
/// The name of the language model.
pub(crate) const GENERATOR: &str = "smollm2";

/// The models of one life of the node.
pub(crate) fn workers(world: &Arc<World>, clock: &Arc<dyn Clock>) -> Workers {
    let latency = Some(Duration::from_millis(world.workload.world.model_ms));
    let embedder = Unsteady {
        engine: EchoEmbedder::new(Arc::clone(clock), latency),
        line: Line {
            world: Arc::clone(world),
            port: Port::Embed,
            call: Call::Embed,
        },
    };
    let generator = Unsteady {
        engine: EchoGenerator::new(Arc::clone(clock), latency),
        line: Line {
            world: Arc::clone(world),
            port: Port::Generate,
            call: Call::Generate,
        },
    };
    Workers {
        embedders: BTreeMap::from([(EMBEDDER.to_owned(), Arc::new(embedder) as _)]),
        generators: BTreeMap::from([(GENERATOR.to_owned(), Arc::new(generator) as _)]),
        engine: "echo",
    }
}

/// A model, and what can happen to its calls.
#[derive(Debug)]
struct Unsteady<E> {
    engine: E,
    line: Line,
}

#[derive(Debug)]
struct Line {
    world: Arc<World>,
    port: Port,
    call: Call,
}

impl Line {
    /// Asks a model that may be away, on a node that may lose power over it.
    async fn ask<T>(
        &self,
        deadline: Option<Timestamp>,
        answer: impl Future<Output = Result<T, InferenceError>>,
    ) -> Result<T, InferenceError> {
        let world = &self.world;
        world.powered().await;
        let crash = match world.meets(self.call) {
            Met::Crash(phase, outage) => Some((phase, outage)),
            Met::Nothing | Met::Error | Met::Unknown(_) | Met::Unreadable | Met::Copied(_) => None,
        };
        if let Some((Phase::Before | Phase::Unsynced, outage)) = crash {
            world.cut_power(InFlight::Dropped, outage);
        }
        world.powered().await;
        let answer = match world.outage(self.port) {
            None => answer.await,
            Some(OutageMode::Refuses) => Err(InferenceError::Unavailable {
                model: "echo".to_owned(),
                what: "it is away".to_owned(),
                retry_after: Duration::from_millis(100),
            }),
            Some(OutageMode::Hangs) => {
                world.until(deadline).await;
                Err(InferenceError::DeadlinePassed {
                    model: "echo".to_owned(),
                    late: Duration::ZERO,
                })
            }
        };
        if let Some((Phase::Unanswered, outage)) = crash {
            world.cut_power(InFlight::Dropped, outage);
        }
        world.powered().await;
        answer
    }
}

#[async_trait]
impl Embedder for Unsteady<EchoEmbedder> {
    fn info(&self) -> EmbedderInfo {
        self.engine.info()
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embedded, InferenceError> {
        let deadline = request.deadline;
        self.line.ask(deadline, self.engine.embed(request)).await
    }

    fn observe(&self) -> WorkerStats {
        self.engine.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.engine.watch_state()
    }
}

#[async_trait]
impl Generator for Unsteady<EchoGenerator> {
    fn info(&self) -> GeneratorInfo {
        self.engine.info()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generated, InferenceError> {
        let deadline = request.deadline;
        self.line.ask(deadline, self.engine.generate(request)).await
    }

    fn observe(&self) -> WorkerStats {
        self.engine.observe()
    }

    fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.engine.watch_state()
    }
}
