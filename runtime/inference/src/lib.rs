//! Many agents' questions in few model calls.
//!
//! ```text
//! catalog ─► pull ─► home ─► engines
//!              └─ import (GGUF → ONNX)
//! ```

pub mod catalog;
mod chat;
mod digest;
mod echo;
mod embedder;
mod engine;
mod error;
mod generator;
mod guide;
mod home;
pub mod import;
mod limits;
pub mod manifest;
mod observe;
pub mod pull;
mod ride;
mod runtime;
mod sample;
mod worker;

pub use catalog::Item;
pub use chat::{ChatError, ChatMessage, ChatRole, PromptEnd};
pub use echo::{EchoEmbedder, EchoGenerator};
pub use embedder::{EmbedRequest, Embedded, Embedder, EmbedderInfo};
pub use engine::{
    DecoderEngine, EncoderEngine, EngineError, Language, OrtCache, OrtDecoder, OrtEncoder,
    PromptTokens, TextTokenizer,
};
pub use error::InferenceError;
pub use generator::{
    FinishReason, GenerateRequest, Generated, Generator, GeneratorInfo, Prompt, Sampling,
};
pub use home::{Home, HomeError};
pub use limits::{EmbedLimits, GenerateLimits};
pub use manifest::{ModelKind, ModelManifest};
pub use observe::Observation;
pub use pull::{Network, PullError, PullEvent};
pub use ride::{BatchKind, BatchObserver, BatchReport, NoObserver, Ride};
pub use runtime::{RuntimeError, onnx_runtime};
pub use worker::{EmbedWorker, GenerateWorker};
