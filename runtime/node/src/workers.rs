//! The workers: models that many agents share.
//!
//! ```text
//!   step ─► port (embed, generate) ─► worker of the model ─► batch ─► engine
//!             │ span of the call  ·············· link ··········│ span of the batch
//! ```
//! This component plugs the models of `[models]` into the ports of the agents. How requests become batches is
//! decided in `colony_core::batch` and done in `colony-inference`.

mod open;
mod ports;

use std::{collections::BTreeMap, sync::Arc};

use colony_inference::{
    BatchObserver, BatchReport, ChatMessage, ChatRole, EmbedRequest, Embedder, GenerateRequest,
    Generator, InferenceError, WorkerState, WorkerStats,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};

pub use self::open::{OpenError, open};
pub(crate) use self::ports::{EmbedPort, GeneratePort};
use crate::{
    telemetry::{Telemetry, names},
    view::{ModelTest, ModelView},
};

/// The models of a node, by their names in `[models]`.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    /// Text to vector.
    pub embedders: BTreeMap<String, Arc<dyn Embedder>>,
    /// Prompt to text.
    pub generators: BTreeMap<String, Arc<dyn Generator>>,
    /// What runs them, as `colony model list` shows it: `ort` or `echo`.
    pub engine: &'static str,
}

impl Workers {
    /// Every model with its figures.
    #[must_use]
    pub fn views(&self) -> Vec<ModelView> {
        let embedders = self.embedders.iter().map(|(name, embedder)| {
            let info = embedder.info();
            self.view(
                name,
                "embed",
                info.dimensions,
                info.tokens_max,
                &embedder.observe(),
            )
        });
        let generators = self.generators.iter().map(|(name, generator)| {
            let info = generator.info();
            self.view(
                name,
                "generate",
                0,
                info.context_tokens_max,
                &generator.observe(),
            )
        });
        embedders.chain(generators).collect()
    }

    fn view(
        &self,
        name: &str,
        role: &'static str,
        dimensions: usize,
        tokens_max: usize,
        figures: &WorkerStats,
    ) -> ModelView {
        ModelView {
            name: name.to_owned(),
            role,
            engine: self.engine,
            dimensions,
            tokens_max,
            figures: figures.clone(),
        }
    }

    /// Becomes the name of the first model whose worker has ended. Holds none of them.
    pub(crate) fn ended(&self) -> impl Future<Output = String> + Send + use<> {
        let embedders = self.embedders.iter();
        let embedders = embedders.map(|(name, worker)| (name.clone(), worker.watch_state()));
        let generators = self.generators.iter();
        let generators = generators.map(|(name, worker)| (name.clone(), worker.watch_state()));
        let states: Vec<_> = embedders.chain(generators).collect();
        async move {
            let ends = states.into_iter().map(|(name, mut state)| {
                Box::pin(async move {
                    // A worker of whose state nobody tells any more has ended too.
                    let _ = state.wait_for(|state| *state == WorkerState::Closed).await;
                    name
                })
            });
            let mut ends: FuturesUnordered<_> = ends.collect();
            match ends.next().await {
                Some(name) => name,
                None => std::future::pending().await,
            }
        }
    }

    /// Runs one request through a model.
    ///
    /// # Errors
    /// The model's refusal; [`InferenceError::Model`] when there is none of this name.
    pub async fn test(&self, name: &str, text: &str) -> Result<ModelTest, InferenceError> {
        if let Some(embedder) = self.embedders.get(name) {
            let embedded = embedder.embed(EmbedRequest::new(text)).await?;
            let head: Vec<String> = embedded
                .vector
                .iter()
                .take(4)
                .map(|x| format!("{x:.4}"))
                .collect();
            return Ok(ModelTest {
                computed: embedded.stats.computed,
                tokens: embedded.tokens,
                preview: format!("{} numbers: {}, …", embedded.vector.len(), head.join(", ")),
            });
        }
        if let Some(generator) = self.generators.get(name) {
            let message = ChatMessage::new(ChatRole::User, text);
            let mut request = GenerateRequest::chat(vec![message]);
            request.tokens_max = 32;
            let generated = generator.generate(request).await?;
            return Ok(ModelTest {
                computed: generated.stats.computed,
                tokens: generated.completion_tokens,
                preview: generated.text,
            });
        }
        let known: Vec<&str> = self
            .embedders
            .keys()
            .chain(self.generators.keys())
            .map(String::as_str)
            .collect();
        let what = format!("no such model; there are: {}", known.join(", "));
        Err(InferenceError::Model {
            model: name.to_owned(),
            what,
        })
    }
}

/// Makes a span of every batch, linked to the calls that rode in it.
#[derive(Debug)]
pub struct BatchSpans(pub Telemetry);

impl BatchObserver for BatchSpans {
    fn batch_ran(&self, report: &BatchReport) {
        if report.links.is_empty() {
            return;
        }
        let name = format!("batch {} {}", report.kind, report.model);
        let mut span = self.0.batch(&report.links, name, report.computed);
        span.set(
            names::BATCH_ID,
            i64::try_from(report.id).unwrap_or(i64::MAX),
        );
        span.set(
            names::BATCH_ROWS,
            i64::try_from(report.rows).unwrap_or(i64::MAX),
        );
        span.set(
            names::BATCH_TOKENS,
            i64::try_from(report.tokens).unwrap_or(i64::MAX),
        );
        span.set(names::BATCH_KIND, report.kind.as_str());
        span.set(names::GEN_AI_MODEL, report.model.clone());
    }
}
