//! Many agents' questions in few model calls.
//!
//! ```text
//! catalog ─► pull ─► model store ─► engines
//!              └─ import (GGUF → ONNX)
//! ```

mod batch_stats;
pub mod catalog;
mod chat;
mod digest;
mod echo;
mod embedder;
mod engine;
mod error;
mod generator;
mod grammar;
pub mod import;
mod limits;
pub mod manifest;
mod model_store;
pub mod pull;
mod runtime;
mod sample;
mod stats;
mod worker;

pub use batch_stats::{BatchKind, BatchObserver, BatchReport, BatchStats, NoObserver};
pub use catalog::Item;
pub use chat::{ChatError, ChatMessage, ChatRole, PromptEnd};
pub use echo::{EchoEmbedder, EchoGenerator};
pub use embedder::{EmbedRequest, Embedded, Embedder, EmbedderInfo};
pub use engine::{
    DecoderEngine, EncoderEngine, EngineError, OrtCache, OrtDecoder, OrtEncoder, PromptTokens,
    TextCodec, TextTokenizer,
};
pub use error::InferenceError;
pub use generator::{
    FinishReason, GenerateRequest, Generated, Generator, GeneratorInfo, Prompt, Sampling,
};
pub use limits::{EmbedLimits, GenerateLimits};
pub use manifest::{ModelKind, ModelManifest};
pub use model_store::{ModelStore, ModelStoreError};
pub use pull::{Network, PullError, PullEvent};
pub use runtime::{RuntimeError, TELEMETRY_OFF, onnx_runtime};
pub use stats::{WorkerState, WorkerStats};
pub use worker::{EmbedWorker, GenerateWorker};
