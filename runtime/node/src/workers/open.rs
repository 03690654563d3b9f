//! From `[models]` to running workers.

use std::sync::Arc;

use colony_core::port::Clock;
use colony_inference::{
    BatchObserver, EchoEmbedder, EchoGenerator, EmbedWorker, GenerateWorker, InferenceError,
    ModelStore, OrtDecoder, OrtEncoder,
};

use super::Workers;
use crate::config::{Config, Engine, ModelRole};

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files are missing or damaged, or its limits are out of range.
    #[error(
        "models.{name}: {error}; `colony model pull` fetches the models, `--engine echo` needs none"
    )]
    Model {
        /// Its name.
        name: String,
        /// What is wrong.
        error: InferenceError,
    },
}

/// Opens every declared model with the declared engine. Blocks while files are read: seconds.
///
/// # Errors
/// [`OpenError`] names the model and the file.
pub fn open(
    config: &Config,
    home: &ModelStore,
    clock: &Arc<dyn Clock>,
    observer: &Arc<dyn BatchObserver>,
) -> Result<Workers, OpenError> {
    let mut workers = Workers {
        engine: config.inference.engine.as_str(),
        ..Workers::default()
    };
    for (name, model) in &config.models {
        let failed = |error| OpenError::Model {
            name: name.clone(),
            error,
        };
        let clock = Arc::clone(clock);
        match (config.inference.engine, model.kind) {
            (Engine::Echo, ModelRole::Embed) => {
                let echo = EchoEmbedder::new(clock, None).observed_by(Arc::clone(observer));
                workers.embedders.insert(name.clone(), Arc::new(echo));
            }
            (Engine::Echo, ModelRole::Generate) => {
                let echo = EchoGenerator::new(clock, None).observed_by(Arc::clone(observer));
                workers.generators.insert(name.clone(), Arc::new(echo));
            }
            (Engine::Ort, ModelRole::Embed) => {
                let limits = &config.inference.embed;
                let (home, source, threads) = (home.clone(), model.source.clone(), limits.threads);
                let open = move || OrtEncoder::open(&home, &source, threads);
                let worker = EmbedWorker::start(open, limits, clock, Arc::clone(observer))
                    .map_err(failed)?;
                workers.embedders.insert(name.clone(), worker);
            }
            (Engine::Ort, ModelRole::Generate) => {
                let limits = &config.inference.generate;
                let (home, source, threads) = (home.clone(), model.source.clone(), limits.threads);
                let open = move || OrtDecoder::open(&home, &source, threads);
                let worker = GenerateWorker::start(open, limits, clock, Arc::clone(observer))
                    .map_err(failed)?;
                workers.generators.insert(name.clone(), worker);
            }
        }
    }
    Ok(workers)
}
