//! Opening a model's folder: manifest, tokenizer and ONNX Runtime session.

use ort::session::{Session, builder::GraphOptimizationLevel};
use tokenizers::Tokenizer;

use super::EngineError;
use crate::{
    error::InferenceError, manifest::ModelManifest, model_store::ModelStore, runtime::onnx_runtime,
};

/// A model ready to run.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) manifest: ModelManifest,
    pub(super) tokenizer: Tokenizer,
    pub(super) session: Session,
}

/// Opens `store`'s model called `name`. Blocks for some tenths of a second.
pub(super) fn open(
    store: &ModelStore,
    name: &str,
    threads: usize,
) -> Result<Opened, InferenceError> {
    let failed = |what: String| InferenceError::Model {
        model: name.to_owned(),
        what,
    };
    let dir = store.model_dir(name);
    let manifest = ModelManifest::load(&dir).map_err(|error| failed(chain(&error)))?;
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))
        .map_err(|error| failed(format!("{}: {error}", dir.join("tokenizer.json").display())))?;
    let environment =
        onnx_runtime(&store.runtime_library()).map_err(|error| failed(chain(&error)))?;
    let path = dir.join("model.onnx");
    let session = (|| {
        // Shapes change with every batch: a memory pattern would be planned anew each time.
        // Level 3 fuses; both models are fused on disk already, so it costs nothing but load time.
        let mut builder = Session::builder(&environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)
            .map_err(ort::Error::<()>::from)?
            .with_intra_threads(threads)
            .map_err(ort::Error::<()>::from)?
            .with_memory_pattern(false)
            .map_err(ort::Error::<()>::from)?;
        builder.commit_from_file(&path)
    })()
    .map_err(|error: ort::Error| failed(format!("{}: {error}", path.display())))?;
    Ok(Opened {
        manifest,
        tokenizer,
        session,
    })
}

impl From<ort::Error> for EngineError {
    fn from(error: ort::Error) -> Self {
        Self(error.to_string())
    }
}

/// An error with its sources, for a field that is text.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
